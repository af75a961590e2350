//! What a module may be, and what compiling it may cost. The compiler checks this before Cranelift sees the module; the
//! host compares a cached module's [`Shape`] with it without looking into the module.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::profile::Profile;

/// Bytes that a directory of compiled modules may hold, unless a limit says otherwise: 2 GiB.
pub const DEFAULT_CACHE_BYTES: u64 = 2 << 30;

/// What a module may be and what compiling it may cost. On by default; the defaults admit a whole CPython.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleLimits {
    /// Bytes of the module, counted as those of a function are; `module=`. Default: 64 MiB.
    pub module_bytes: u64,
    /// Functions, the imported ones included; `functions=`. Default: 200,000.
    pub functions: u32,
    /// Bytes of one function's body, where each local and each value that a call, a block or a branch passes counts as one
    /// more; `function=`. Default: 512 KiB. The largest of CPython has 107 KiB.
    pub function_bytes: u64,
    /// Locals of one function; `locals=`. Default: 10,000.
    pub locals: u32,
    /// Blocks inside one another; `nesting=`. Default: 1,000.
    pub nesting: u32,
    /// Targets of all jump tables together; `jumps=`. Default: 1,000,000.
    pub jump_targets: u64,
    /// Types with their parameters and results, imports, exports, tables, globals, segments with their elements, and operations of
    /// constants beyond one, all together; `items=`. Default: 200,000.
    pub items: u32,
    /// Time one compilation may take; `compile-time=`. Default: 120 s.
    pub compile_time: Duration,
    /// Memory one compilation may take, in bytes; `compile-memory=`. Default: 4 GiB.
    pub compile_memory_bytes: u64,
    /// Bytes that the directory of compiled modules may hold once this one is in it: what was not used for the longest time goes
    /// first; `cache=`. The directory is shared, and whoever has just compiled a module makes the room. Default: 2 GiB.
    pub cache_bytes: u64,
}

impl Default for ModuleLimits {
    fn default() -> Self {
        ModuleLimits {
            module_bytes: 64 << 20,
            functions: 200_000,
            function_bytes: 512 << 10,
            locals: 10_000,
            nesting: 1_000,
            jump_targets: 1_000_000,
            items: 200_000,
            compile_time: Duration::from_secs(120),
            compile_memory_bytes: 4 << 30,
            cache_bytes: DEFAULT_CACHE_BYTES,
        }
    }
}

/// What a module turned out to be. Stands with its artefact, so that it can be held against other limits than those it was
/// compiled under.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of the module.
    pub module_bytes: u64,
    /// Functions, the imported ones included.
    pub functions: u32,
    /// Bytes of the largest function's body, counted as the limit does.
    pub function_bytes: u64,
    /// Most locals of a function.
    pub locals: u32,
    /// Most blocks inside one another.
    pub nesting: u32,
    /// Targets of all jump tables together.
    pub jump_targets: u64,
    /// Types, imports, exports, globals, data and element segments together.
    pub items: u32,
    /// The features it needs.
    pub features: Profile,
    /// Bytes of linear memory that an instance begins with.
    pub memory_bytes: u64,
    /// Elements of tables that an instance begins with.
    pub table_elements: u64,
}

/// Names a limit of modules in a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ModuleLimitName {
    /// [`ModuleLimits::module_bytes`]
    ModuleBytes,
    /// [`ModuleLimits::functions`]
    Functions,
    /// [`ModuleLimits::function_bytes`]
    FunctionBytes,
    /// [`ModuleLimits::locals`]
    Locals,
    /// [`ModuleLimits::nesting`]
    Nesting,
    /// [`ModuleLimits::jump_targets`]
    JumpTargets,
    /// [`ModuleLimits::items`]
    Items,
    /// [`ModuleLimits::compile_time`], in milliseconds
    CompileTime,
    /// [`ModuleLimits::compile_memory_bytes`]
    CompileMemory,
}

impl ModuleLimitName {
    /// The key of a gateway's spec that changes this limit.
    pub fn setting(self) -> &'static str {
        match self {
            ModuleLimitName::ModuleBytes => "module=",
            ModuleLimitName::Functions => "functions=",
            ModuleLimitName::FunctionBytes => "function=",
            ModuleLimitName::Locals => "locals=",
            ModuleLimitName::Nesting => "nesting=",
            ModuleLimitName::JumpTargets => "jumps=",
            ModuleLimitName::Items => "items=",
            ModuleLimitName::CompileTime => "compile-time=",
            ModuleLimitName::CompileMemory => "compile-memory=",
        }
    }
}

impl fmt::Display for ModuleLimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModuleLimitName::ModuleBytes => "bytes of a module",
            ModuleLimitName::Functions => "functions of a module",
            ModuleLimitName::FunctionBytes => "bytes of one function",
            ModuleLimitName::Locals => "locals of one function",
            ModuleLimitName::Nesting => "nested blocks",
            ModuleLimitName::JumpTargets => "targets of jump tables",
            ModuleLimitName::Items => "types, imports, exports, globals and segments of a module",
            ModuleLimitName::CompileTime => "milliseconds of compilation",
            ModuleLimitName::CompileMemory => "bytes of memory for compilation",
        })
    }
}

impl ModuleLimits {
    /// The first limit that a module of this shape is over, with what was found and what is allowed.
    pub fn exceeded_by(&self, shape: &Shape) -> Option<(ModuleLimitName, u64, u64)> {
        use ModuleLimitName as Name;
        let checks = [
            (Name::ModuleBytes, shape.module_bytes, self.module_bytes),
            (Name::Functions, shape.functions.into(), self.functions.into()),
            (Name::FunctionBytes, shape.function_bytes, self.function_bytes),
            (Name::Locals, shape.locals.into(), self.locals.into()),
            (Name::Nesting, shape.nesting.into(), self.nesting.into()),
            (Name::JumpTargets, shape.jump_targets, self.jump_targets),
            (Name::Items, shape.items.into(), self.items.into()),
        ];
        checks.into_iter().find(|(_, found, limit)| found > limit)
    }
}
