//! Rewrites a module so that its operations on much memory can be interrupted, and drops what is not compiled.
//!
//! The engine looks whether a guest is to stop before an operation such as `memory.fill`, not inside it, and one operation
//! can take a second. So an operation of unknown or great length becomes
//!
//! ```text
//!  local.tee $n   i32.const CHUNK   i32.le_u
//!  if (param i32 i32)  local.get $n  memory.fill           ;; as before
//!  else                local.get $n  call $memory.fill     ;; the same in chunks, in a loop, which the engine looks at
//!  end
//! ```
//!
//! The functions that are called stand behind the module's own, so that no index changes. Each traps as the operation does,
//! before anything is written: what would be out of bounds is left to the operation itself.
//!
//! The module is valid and of the features that profiles offer: one memory of 32 bits, no garbage-collected types. All that
//! is not rewritten is copied byte by byte. The result is validated again, as everything that is compiled is.

use std::ops::Range;

use wasm_encoder::{BlockType, Encode, Function, Instruction, ValType};
use wasmparser::{BinaryReader, BinaryReaderError, DataKind, FunctionBody, Operator, Parser, Payload, TypeRef};

/// Bytes that one operation may touch before the engine looks again.
///
/// Measured in native code on a virtual machine under load, 512 times: filling 1 MiB of fresh pages takes 0.8 ms of processor
/// time in the middle and 1.7 ms at most, of pages that are there 0.15 and 0.34 ms.
const CHUNK_BYTES: u32 = 1 << 20;

/// Most bytes of names of functions that are kept, for backtraces.
const MAX_NAMES_BYTES: usize = 16 << 20;

const TYPE_SECTION: u8 = 1;
const FUNCTION_SECTION: u8 = 3;
const CODE_SECTION: u8 = 10;
const FUNCTION_NAMES: u8 = 1;

/// An operation that is done in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bulk {
    Copy,
    Fill,
    Init(u32),
}

/// A module taken apart.
#[derive(Default)]
struct Parts<'a> {
    /// All but the custom ones, with their numbers, in their order.
    sections: Vec<(u8, Range<usize>)>,
    bodies: Vec<FunctionBody<'a>>,
    /// The content of the function names.
    names: Option<&'a [u8]>,
    /// Parameters of each type, and the type of each function, the imported ones first.
    parameters: Vec<u32>,
    functions: Vec<u32>,
    imported: usize,
    data_bytes: Vec<usize>,
}

/// The module without its custom sections but for the names of functions, and with the operations in these bodies made
/// interruptible.
///
/// # Errors
/// None, if the module is valid.
pub(crate) fn rewrite(module: &[u8], bulk_bodies: &[u32]) -> Result<Vec<u8>, BinaryReaderError> {
    let parts = Parts::of(module)?;
    let mut rewriting = Rewriting { module, parts: &parts, injected: Vec::new() };
    let code = if bulk_bodies.is_empty() { None } else { Some(rewriting.code(bulk_bodies)?) };
    let injected = rewriting.injected;
    // Where nothing needed a change the code stays as it is.
    let code = code.filter(|_| !injected.is_empty());
    let mut out = Vec::with_capacity(module.len() + 1024);
    out.extend_from_slice(&module[..8]);
    for (id, range) in &parts.sections {
        let content = &module[range.clone()];
        let (id, range) = (*id, range.clone());
        match (id, &code) {
            (TYPE_SECTION, Some(_)) => section(&mut out, id, &with_more(content, 2, &types())?),
            (FUNCTION_SECTION, Some(_)) => {
                let mut more = Vec::new();
                injected.iter().for_each(|_| parts.first_type().encode(&mut more));
                section(&mut out, id, &with_more(content, injected.len(), &more)?);
            }
            (CODE_SECTION, Some(code)) => section(&mut out, id, code),
            _ => section(&mut out, id, &module[range]),
        }
    }
    let injected = if code.is_some() { &injected[..] } else { &[] };
    if let Some(names) = names(&parts, injected) {
        section(&mut out, 0, &names);
    }
    Ok(out)
}

/// The types that are added: of the functions, and of the branches.
fn types() -> Vec<u8> {
    let i32 = 0x7f;
    vec![0x60, 3, i32, i32, i32, 0, 0x60, 2, i32, i32, 0]
}

fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    content.encode(out);
}

/// The content of a section with more items behind its own.
fn with_more(content: &[u8], count: usize, more: &[u8]) -> Result<Vec<u8>, BinaryReaderError> {
    let mut reader = BinaryReader::new(content, 0);
    let items = reader.read_var_u32()? as usize;
    let mut out = Vec::with_capacity(content.len() + more.len() + 5);
    (items + count).encode(&mut out);
    out.extend_from_slice(&content[reader.original_position()..]);
    out.extend_from_slice(more);
    Ok(out)
}

impl<'a> Parts<'a> {
    fn of(module: &'a [u8]) -> Result<Parts<'a>, BinaryReaderError> {
        let mut parts = Parts::default();
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload?;
            match &payload {
                Payload::CustomSection(section) => {
                    if section.name() == "name" && parts.names.is_none() {
                        parts.names = function_names(section.data());
                    }
                    continue;
                }
                Payload::CodeSectionEntry(body) => parts.bodies.push(body.clone()),
                Payload::TypeSection(section) => {
                    for ty in section.clone().into_iter_err_on_gc_types() {
                        parts.parameters.push(u32::try_from(ty?.params().len()).unwrap_or(u32::MAX));
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.clone().into_imports() {
                        if let TypeRef::Func(ty) = import?.ty {
                            parts.functions.push(ty);
                        }
                    }
                    parts.imported = parts.functions.len();
                }
                Payload::FunctionSection(section) => {
                    for ty in section.clone() {
                        parts.functions.push(ty?);
                    }
                }
                Payload::DataSection(section) => {
                    for data in section.clone() {
                        let data = data?;
                        // What is active is gone before the guest runs.
                        let is_passive = matches!(data.kind, DataKind::Passive);
                        parts.data_bytes.push(if is_passive { data.data.len() } else { 0 });
                    }
                }
                _ => {}
            }
            parts.sections.extend(payload.as_section());
        }
        Ok(parts)
    }

    /// The first of the types that are added.
    fn first_type(&self) -> u32 {
        u32::try_from(self.parameters.len()).unwrap_or(u32::MAX)
    }

    /// Parameters of a body's function.
    fn parameters_of(&self, position: usize) -> u32 {
        let ty = self.functions.get(self.imported + position).copied().unwrap_or(u32::MAX);
        self.parameters.get(ty as usize).copied().unwrap_or(0)
    }
}

struct Rewriting<'a> {
    module: &'a [u8],
    parts: &'a Parts<'a>,
    /// What is called, in the order of the functions that are added.
    injected: Vec<Bulk>,
}

impl Rewriting<'_> {
    /// The content of the code section.
    fn code(&mut self, bulk_bodies: &[u32]) -> Result<Vec<u8>, BinaryReaderError> {
        let mut bodies = Vec::new();
        let mut bulk_bodies = bulk_bodies.iter().map(|position| *position as usize).peekable();
        for (position, body) in self.parts.bodies.iter().enumerate() {
            if bulk_bodies.next_if_eq(&position).is_some() {
                self.body(position, body, &mut bodies)?;
            } else {
                body.as_bytes().encode(&mut bodies);
            }
        }
        for bulk in &self.injected {
            bulk.function().encode(&mut bodies);
        }
        let mut code = Vec::with_capacity(bodies.len() + 5);
        (self.parts.bodies.len() + self.injected.len()).encode(&mut code);
        code.extend_from_slice(&bodies);
        Ok(code)
    }

    fn body(&mut self, position: usize, body: &FunctionBody<'_>, out: &mut Vec<u8>) -> Result<(), BinaryReaderError> {
        let mut locals = body.get_locals_reader()?;
        let groups = locals.get_count();
        let groups_start = locals.original_position();
        let mut local = self.parts.parameters_of(position);
        for _ in 0..groups {
            local = local.saturating_add(locals.read()?.0);
        }
        let mut operators = body.get_operators_reader()?;
        let operators_start = operators.original_position();

        let mut new = Vec::with_capacity(body.as_bytes().len() + 64);
        (groups + 1).encode(&mut new);
        new.extend_from_slice(&self.module[groups_start..operators_start]);
        (1_u32).encode(&mut new);
        ValType::I32.encode(&mut new);
        let mut copied = operators_start;
        let mut constant = None;
        while !operators.eof() {
            let (operator, start) = operators.read_with_offset()?;
            let bulk = match operator {
                Operator::MemoryCopy { .. } => Some(Bulk::Copy),
                Operator::MemoryFill { .. } => Some(Bulk::Fill),
                Operator::MemoryInit { data_index, .. } => Some(Bulk::Init(data_index)),
                _ => None,
            };
            if let Some(bulk) = bulk
                && self.can_take_long(bulk, constant)
            {
                new.extend_from_slice(&self.module[copied..start]);
                self.operation(bulk, local, &mut new);
                copied = operators.original_position();
            }
            constant = match operator {
                Operator::I32Const { value } => Some(value.cast_unsigned()),
                _ => None,
            };
        }
        if copied == operators_start {
            body.as_bytes().encode(out);
            return Ok(());
        }
        new.extend_from_slice(&self.module[copied..body.range().end]);
        new.encode(out);
        Ok(())
    }

    /// Whether an operation that follows this constant, if it does one, can touch more than a chunk.
    fn can_take_long(&self, bulk: Bulk, constant: Option<u32>) -> bool {
        let most = match bulk {
            Bulk::Init(data) => self.parts.data_bytes.get(data as usize).copied().unwrap_or(0),
            Bulk::Copy | Bulk::Fill => usize::MAX,
        };
        most > CHUNK_BYTES as usize && constant.is_none_or(|length| length > CHUNK_BYTES)
    }

    fn operation(&mut self, bulk: Bulk, local: u32, out: &mut Vec<u8>) {
        let position = self.injected.iter().position(|known| *known == bulk).unwrap_or_else(|| {
            self.injected.push(bulk);
            self.injected.len() - 1
        });
        let function = u32::try_from(self.parts.functions.len() + position).unwrap_or(u32::MAX);
        for instruction in [
            Instruction::LocalTee(local),
            chunk(),
            Instruction::I32LeU,
            Instruction::If(BlockType::FunctionType(self.parts.first_type() + 1)),
            Instruction::LocalGet(local),
            bulk.instruction(),
            Instruction::Else,
            Instruction::LocalGet(local),
            Instruction::Call(function),
            Instruction::End,
        ] {
            instruction.encode(out);
        }
    }
}

fn chunk() -> Instruction<'static> {
    Instruction::I32Const(CHUNK_BYTES.cast_signed())
}

impl Bulk {
    fn name(self) -> &'static str {
        match self {
            Bulk::Copy => "memory.copy",
            Bulk::Fill => "memory.fill",
            Bulk::Init(_) => "memory.init",
        }
    }

    fn instruction(self) -> Instruction<'static> {
        match self {
            Bulk::Copy => Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 },
            Bulk::Fill => Instruction::MemoryFill(0),
            Bulk::Init(data_index) => Instruction::MemoryInit { mem: 0, data_index },
        }
    }

    /// The function that does the operation in chunks: destination, source or value, and length, which is more than one.
    fn function(self) -> Function {
        let mut function = Function::new([]);
        let mut code = |instructions: &[Instruction<'_>]| {
            for instruction in instructions {
                function.instruction(instruction);
            }
        };
        self.leave_what_is_out_of_bounds(&mut code);
        match self {
            Bulk::Fill | Bulk::Init(_) => self.forwards(&mut code),
            Bulk::Copy => {
                // What overlaps is read before it is written.
                code(&[
                    Instruction::LocalGet(DESTINATION),
                    Instruction::LocalGet(SOURCE),
                    Instruction::I32LeU,
                    Instruction::If(BlockType::Empty),
                ]);
                self.forwards(&mut code);
                code(&[Instruction::Else]);
                self.backwards(&mut code);
                code(&[Instruction::End]);
            }
        }
        self.whole(&mut code);
        code(&[Instruction::End]);
        function
    }

    /// The operation itself, on all that is left.
    fn whole(self, code: &mut impl FnMut(&[Instruction<'_>])) {
        code(&[
            Instruction::LocalGet(DESTINATION),
            Instruction::LocalGet(SOURCE),
            Instruction::LocalGet(LENGTH),
            self.instruction(),
        ]);
    }

    /// What would trap is left to the operation, which writes nothing then.
    fn leave_what_is_out_of_bounds(self, code: &mut impl FnMut(&[Instruction<'_>])) {
        let end = |start| {
            [
                Instruction::LocalGet(start),
                Instruction::I64ExtendI32U,
                Instruction::LocalGet(LENGTH),
                Instruction::I64ExtendI32U,
                Instruction::I64Add,
            ]
        };
        let size =
            [Instruction::MemorySize(0), Instruction::I64ExtendI32U, Instruction::I64Const(16), Instruction::I64Shl];
        code(&end(DESTINATION));
        code(&size);
        code(&[Instruction::I64GtU]);
        match self {
            Bulk::Fill => {}
            Bulk::Copy => {
                code(&end(SOURCE));
                code(&size);
                code(&[Instruction::I64GtU, Instruction::I32Or]);
            }
            Bulk::Init(_) => {
                code(&end(SOURCE));
                code(&[Instruction::I64Const(0xffff_ffff), Instruction::I64GtU, Instruction::I32Or]);
            }
        }
        code(&[Instruction::If(BlockType::Empty)]);
        self.whole(code);
        code(&[Instruction::Return, Instruction::End]);
        if let Bulk::Init(_) = self {
            // The segment may have been dropped: nothing, from the end of what is wanted, is out of bounds then.
            code(&[
                Instruction::I32Const(0),
                Instruction::LocalGet(SOURCE),
                Instruction::LocalGet(LENGTH),
                Instruction::I32Add,
                Instruction::I32Const(0),
                self.instruction(),
            ]);
        }
    }

    /// From the beginning, while there is more than a chunk.
    fn forwards(self, code: &mut impl FnMut(&[Instruction<'_>])) {
        code(&[
            Instruction::Loop(BlockType::Empty),
            Instruction::LocalGet(DESTINATION),
            Instruction::LocalGet(SOURCE),
            chunk(),
            self.instruction(),
        ]);
        let advances: &[u32] = if self == Bulk::Fill { &[DESTINATION] } else { &[DESTINATION, SOURCE] };
        for local in advances {
            code(&[Instruction::LocalGet(*local), chunk(), Instruction::I32Add, Instruction::LocalSet(*local)]);
        }
        code(&[
            Instruction::LocalGet(LENGTH),
            chunk(),
            Instruction::I32Sub,
            Instruction::LocalTee(LENGTH),
            chunk(),
            Instruction::I32GtU,
            Instruction::BrIf(0),
            Instruction::End,
        ]);
    }

    /// From the end, while there is more than a chunk.
    fn backwards(self, code: &mut impl FnMut(&[Instruction<'_>])) {
        code(&[
            Instruction::Loop(BlockType::Empty),
            Instruction::LocalGet(LENGTH),
            chunk(),
            Instruction::I32Sub,
            Instruction::LocalSet(LENGTH),
        ]);
        for local in [DESTINATION, SOURCE] {
            code(&[Instruction::LocalGet(local), Instruction::LocalGet(LENGTH), Instruction::I32Add]);
        }
        code(&[
            chunk(),
            self.instruction(),
            Instruction::LocalGet(LENGTH),
            chunk(),
            Instruction::I32GtU,
            Instruction::BrIf(0),
            Instruction::End,
        ]);
    }
}

/// The parameters of the functions.
const DESTINATION: u32 = 0;
const SOURCE: u32 = 1;
const LENGTH: u32 = 2;

/// The part of a name section that names functions; one that cannot be read is none.
fn function_names(data: &[u8]) -> Option<&[u8]> {
    let mut reader = BinaryReader::new(data, 0);
    while !reader.eof() {
        let id = reader.read_u8().ok()?;
        let size = reader.read_var_u32().ok()?;
        let content = reader.read_bytes(size as usize).ok()?;
        if id == FUNCTION_NAMES {
            return (content.len() <= MAX_NAMES_BYTES).then_some(content);
        }
    }
    None
}

/// The content of a custom section with the names of the module's functions and of those that are added.
fn names(parts: &Parts<'_>, injected: &[Bulk]) -> Option<Vec<u8>> {
    if parts.names.is_none() && injected.is_empty() {
        return None;
    }
    let mut more = Vec::new();
    for (index, bulk) in (parts.functions.len()..).zip(injected) {
        index.encode(&mut more);
        bulk.name().encode(&mut more);
    }
    let names = with_more(parts.names.unwrap_or(&[0]), injected.len(), &more).ok()?;
    let mut content = Vec::with_capacity(names.len() + 16);
    "name".encode(&mut content);
    content.push(FUNCTION_NAMES);
    names.encode(&mut content);
    Some(content)
}
