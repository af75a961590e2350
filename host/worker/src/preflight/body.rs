//! Measures one function.
//!
//! What a function costs to compile is not only its bytes: a call passes as many values as the callee has parameters, a
//! branch as many as its target takes, and each is an instruction or more. So these count as bytes do, and a function of
//! two-byte calls with a thousand parameters each is as large as what it is compiled to.

use sandgate_wire::module_limits::ModuleLimitName as Limit;
use wasmparser::{BlockType, FunctionBody, Operator, OperatorsReaderAllocations};

use super::shape::{Measuring, Stop};

/// What a rewritten operation counts, since it becomes a branch and two operations.
const BULK_BYTES: u64 = 32;

/// Parameters and results of a type.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arity {
    pub(super) parameters: u32,
    pub(super) results: u32,
}

impl Arity {
    pub(super) fn sum(self) -> u64 {
        u64::from(self.parameters) + u64::from(self.results)
    }
}

/// What a function turned out to be.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Bytes, and what counts as such.
    pub(super) bytes: u64,
    pub(super) has_bulk_operations: bool,
}

/// An open block, as a branch sees it.
struct Block {
    /// Values that a branch to it passes.
    target: u32,
    arity: Arity,
}

/// What measuring one function after the other needs again and again.
#[derive(Default)]
pub(super) struct Scratch {
    blocks: Vec<Block>,
    allocations: OperatorsReaderAllocations,
}

/// Measures a function, and stops at the first limit it is over.
pub(super) fn measure(
    measuring: &mut Measuring<'_>,
    scratch: &mut Scratch,
    body: &FunctionBody<'_>,
    arity: Arity,
) -> Result<Measured, Stop> {
    let mut measured = Measured { bytes: body.as_bytes().len() as u64, has_bulk_operations: false };
    measuring.at_most(Limit::FunctionBytes, measured.bytes)?;
    let mut locals = 0_u64;
    let mut reader = body.get_locals_reader()?;
    for _ in 0..reader.get_count() {
        locals += u64::from(reader.read()?.0);
        measuring.at_most(Limit::Locals, locals)?;
    }
    measured.bytes += locals;
    measuring.shape.locals = measuring.shape.locals.max(u32::try_from(locals).unwrap_or(u32::MAX));
    operators(measuring, scratch, body, arity, &mut measured)?;
    measuring.at_most(Limit::FunctionBytes, measured.bytes)?;
    measuring.shape.function_bytes = measuring.shape.function_bytes.max(measured.bytes);
    Ok(measured)
}

fn operators(
    measuring: &mut Measuring<'_>,
    scratch: &mut Scratch,
    body: &FunctionBody<'_>,
    arity: Arity,
    measured: &mut Measured,
) -> Result<(), Stop> {
    let blocks = &mut scratch.blocks;
    blocks.clear();
    blocks.push(Block { target: arity.results, arity });
    let allocations = std::mem::take(&mut scratch.allocations);
    let reader = body.get_binary_reader_for_operators()?;
    let mut reader = wasmparser::OperatorsReader::new_with_allocs(reader, allocations);
    while !reader.eof() {
        let costs = match reader.read()? {
            Operator::Block { blockty } | Operator::If { blockty } => {
                let arity = measuring.block(blockty);
                open(measuring, blocks, Block { target: arity.results, arity })?
            }
            Operator::TryTable { try_table } => {
                let arity = measuring.block(try_table.ty);
                open(measuring, blocks, Block { target: arity.results, arity })?
            }
            Operator::Try { blockty } => {
                let arity = measuring.block(blockty);
                open(measuring, blocks, Block { target: arity.results, arity })?
            }
            Operator::Loop { blockty } => {
                let arity = measuring.block(blockty);
                open(measuring, blocks, Block { target: arity.parameters, arity })?
            }
            Operator::Else => blocks.last().map_or(0, |block| u64::from(block.arity.parameters)),
            Operator::End | Operator::Delegate { .. } => blocks.pop().map_or(0, |block| block.arity.results.into()),
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => target(blocks, relative_depth),
            Operator::BrTable { targets } => {
                measuring.shape.jump_targets += u64::from(targets.len()) + 1;
                measuring.at_most(Limit::JumpTargets, measuring.shape.jump_targets)?;
                let mut values = target(blocks, targets.default());
                for depth in targets.targets() {
                    values += target(blocks, depth?);
                }
                values
            }
            Operator::Return => arity.results.into(),
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                measuring.function(function_index).sum()
            }
            Operator::CallIndirect { type_index, .. }
            | Operator::ReturnCallIndirect { type_index, .. }
            | Operator::CallRef { type_index }
            | Operator::ReturnCallRef { type_index } => measuring.ty(type_index).sum(),
            Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } | Operator::MemoryInit { .. } => {
                measured.has_bulk_operations = true;
                BULK_BYTES
            }
            _ => continue,
        };
        if costs > 0 {
            measured.bytes += costs;
            measuring.at_most(Limit::FunctionBytes, measured.bytes)?;
        }
    }
    scratch.allocations = reader.into_allocations();
    Ok(())
}

fn open(measuring: &mut Measuring<'_>, blocks: &mut Vec<Block>, block: Block) -> Result<u64, Stop> {
    let costs = block.arity.sum();
    // The function itself is the first of them and counts as none.
    let depth = blocks.len() as u64;
    measuring.at_most(Limit::Nesting, depth)?;
    measuring.shape.nesting = measuring.shape.nesting.max(u32::try_from(depth).unwrap_or(u32::MAX));
    blocks.push(block);
    Ok(costs)
}

/// Values that a branch passes. One that leads nowhere is for the validator to find.
fn target(blocks: &[Block], depth: u32) -> u64 {
    let depth = usize::try_from(depth).unwrap_or(usize::MAX);
    let position = blocks.len().checked_sub(1).and_then(|last| last.checked_sub(depth));
    position.and_then(|position| blocks.get(position)).map_or(0, |block| block.target.into())
}

impl Measuring<'_> {
    fn block(&self, ty: BlockType) -> Arity {
        match ty {
            BlockType::Empty => Arity::default(),
            BlockType::Type(_) => Arity { parameters: 0, results: 1 },
            BlockType::FuncType(index) => self.ty(index),
        }
    }
}
