//! Counts and measures what a module has, section by section, and stops at the first limit.
//!
//! Counts that a section announces are held against the limit before anything of it is read.

use sandgate_wire::ModuleLimits;
use sandgate_wire::module_limits::{ModuleLimitName as Limit, Shape};
use sandgate_wire::outcome::Rejection;
use wasmparser::{
    BinaryReaderError, CompositeInnerType, ConstExpr, DataKind, ElementItems, ElementKind, Parser, Payload, TableInit,
    TypeRef,
};

use super::Checked;
use super::body::{self, Arity, Scratch};

/// A measurement under way.
pub(super) struct Measuring<'a> {
    limits: &'a ModuleLimits,
    pub(super) shape: Shape,
    /// What is being looked at, for the error.
    item: Item,
    types: Vec<Arity>,
    /// The type of each function, the imported ones first.
    functions: Vec<u32>,
    items: u64,
}

/// What a limit was found at.
#[derive(Debug, Clone, Copy)]
enum Item {
    Module,
    Section(&'static str),
    Function(u32),
}

/// Why a measurement stopped.
#[derive(Debug)]
pub(super) enum Stop {
    Limit { limit: Limit, found: u64, value: u64 },
    Unreadable(BinaryReaderError),
}

impl From<BinaryReaderError> for Stop {
    fn from(error: BinaryReaderError) -> Stop {
        Stop::Unreadable(error)
    }
}

pub(super) fn measure(module: &[u8], limits: &ModuleLimits) -> Result<Checked, Rejection> {
    let mut measuring = Measuring {
        limits,
        shape: Shape { module_bytes: module.len() as u64, ..Shape::default() },
        item: Item::Module,
        types: Vec::new(),
        functions: Vec::new(),
        items: 0,
    };
    match measuring.module(module) {
        Ok(bulk_bodies) => Ok(Checked { shape: measuring.shape, bulk_bodies }),
        Err(Stop::Unreadable(error)) => Err(super::unreadable(&error)),
        Err(Stop::Limit { limit, found, value }) => {
            let item = match measuring.item {
                Item::Module => String::new(),
                Item::Section(name) => format!("the {name} section"),
                Item::Function(index) => format!("function {index}"),
            };
            Err(Rejection::ModuleLimit { limit, found, value, item })
        }
    }
}

impl Measuring<'_> {
    /// Checks that what was found is within a limit.
    pub(super) fn at_most(&self, limit: Limit, found: u64) -> Result<(), Stop> {
        let limits = self.limits;
        let value = match limit {
            Limit::ModuleBytes => limits.module_bytes,
            Limit::Functions => limits.functions.into(),
            Limit::FunctionBytes => limits.function_bytes,
            Limit::Locals => limits.locals.into(),
            Limit::Nesting => limits.nesting.into(),
            Limit::JumpTargets => limits.jump_targets,
            Limit::Items => limits.items.into(),
            // Nothing that is found in a module.
            _ => return Ok(()),
        };
        if found > value { Err(Stop::Limit { limit, found, value }) } else { Ok(()) }
    }

    /// The type with this index; one that there is not is for the validator to find.
    pub(super) fn ty(&self, index: u32) -> Arity {
        usize::try_from(index).ok().and_then(|index| self.types.get(index)).copied().unwrap_or_default()
    }

    pub(super) fn function(&self, index: u32) -> Arity {
        let ty = usize::try_from(index).ok().and_then(|index| self.functions.get(index)).copied();
        ty.map_or_else(Arity::default, |ty| self.ty(ty))
    }

    /// The functions with bulk operations.
    fn module(&mut self, module: &[u8]) -> Result<Vec<u32>, Stop> {
        self.at_most(Limit::ModuleBytes, self.shape.module_bytes)?;
        let mut scratch = Scratch::default();
        let mut bulk_bodies = Vec::new();
        let (mut position, mut first) = (0_u32, 0_u32);
        for payload in Parser::new(0).parse_all(module) {
            self.item = Item::Module;
            match payload? {
                Payload::FunctionSection(section) => {
                    self.item = Item::Section("function");
                    first = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
                    self.at_most(Limit::Functions, u64::from(first) + u64::from(section.count()))?;
                    for ty in section {
                        self.functions.push(ty?);
                    }
                    self.shape.functions = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
                }
                Payload::CodeSectionStart { count, .. } => {
                    self.item = Item::Section("code");
                    self.at_most(Limit::Functions, u64::from(first) + u64::from(count))?;
                }
                Payload::CodeSectionEntry(body) => {
                    let index = first.saturating_add(position);
                    self.item = Item::Function(index);
                    let measured = body::measure(self, &mut scratch, &body, self.function(index))?;
                    if measured.has_bulk_operations {
                        bulk_bodies.push(position);
                    }
                    position += 1;
                    self.item = Item::Module;
                    // What counts beyond the bytes themselves counts for the module as well.
                    self.shape.module_bytes += measured.bytes - body.as_bytes().len() as u64;
                    self.at_most(Limit::ModuleBytes, self.shape.module_bytes)?;
                }
                payload => self.section(payload)?,
            }
        }
        self.shape.items = u32::try_from(self.items).unwrap_or(u32::MAX);
        Ok(bulk_bodies)
    }

    fn section(&mut self, payload: Payload<'_>) -> Result<(), Stop> {
        match payload {
            Payload::TypeSection(section) => {
                self.begin("type", section.count())?;
                for group in section {
                    for ty in group?.types() {
                        let arity = match &ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => arity(ty),
                            _ => Arity::default(),
                        };
                        self.add(arity.sum())?;
                        self.types.push(arity);
                        self.at_most(Limit::Items, self.types.len() as u64)?;
                    }
                }
            }
            Payload::ImportSection(section) => {
                self.begin("import", section.count())?;
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import?.ty {
                        self.functions.push(ty);
                        self.at_most(Limit::Functions, self.functions.len() as u64)?;
                    }
                }
                self.shape.functions = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
            }
            Payload::TableSection(section) => {
                self.begin("table", section.count())?;
                for table in section {
                    let table = table?;
                    self.shape.table_elements = self.shape.table_elements.saturating_add(table.ty.initial);
                    if let TableInit::Expr(value) = table.init {
                        self.expression(&value)?;
                    }
                }
            }
            Payload::MemorySection(section) => {
                self.begin("memory", section.count())?;
                for memory in section {
                    let memory = memory?;
                    let page = 1_u64.checked_shl(memory.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
                    let bytes = memory.initial.saturating_mul(page);
                    self.shape.memory_bytes = self.shape.memory_bytes.saturating_add(bytes);
                }
            }
            Payload::TagSection(section) => self.begin("tag", section.count())?,
            Payload::GlobalSection(section) => {
                self.begin("global", section.count())?;
                for global in section {
                    self.expression(&global?.init_expr)?;
                }
            }
            Payload::ExportSection(section) => self.begin("export", section.count())?,
            Payload::ElementSection(section) => self.elements(section)?,
            Payload::DataSection(section) => {
                self.begin("data", section.count())?;
                for data in section {
                    if let DataKind::Active { offset_expr, .. } = data?.kind {
                        self.expression(&offset_expr)?;
                    }
                }
            }
            // Custom sections are not compiled; the rest is for the validator.
            _ => {}
        }
        Ok(())
    }

    fn elements(&mut self, section: wasmparser::ElementSectionReader<'_>) -> Result<(), Stop> {
        self.begin("element", section.count())?;
        for element in section {
            let element = element?;
            if let ElementKind::Active { offset_expr, .. } = &element.kind {
                self.expression(offset_expr)?;
            }
            match element.items {
                ElementItems::Functions(functions) => self.add(functions.count().into())?,
                ElementItems::Expressions(_, expressions) => {
                    self.add(expressions.count().into())?;
                    for expression in expressions {
                        self.expression(&expression?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A section begins that announces so many items.
    fn begin(&mut self, name: &'static str, count: u32) -> Result<(), Stop> {
        self.item = Item::Section(name);
        self.add(count.into())
    }

    fn add(&mut self, items: u64) -> Result<(), Stop> {
        self.items = self.items.saturating_add(items);
        self.at_most(Limit::Items, self.items)
    }

    /// What a constant is computed from beyond one operation.
    fn expression(&mut self, expression: &ConstExpr<'_>) -> Result<(), Stop> {
        let mut reader = expression.get_operators_reader();
        // One is free, and so is the end.
        let mut count = 0_u64;
        while !reader.eof() {
            reader.read()?;
            count += 1;
            if count > 2 {
                self.add(1)?;
            }
        }
        Ok(())
    }
}

fn arity(ty: &wasmparser::FuncType) -> Arity {
    let count = |types: &[wasmparser::ValType]| u32::try_from(types.len()).unwrap_or(u32::MAX);
    Arity { parameters: count(ty.params()), results: count(ty.results()) }
}
