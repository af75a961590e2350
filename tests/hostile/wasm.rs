//! Modules put together: texts with everything imported, and binaries too large to write down.

use std::fmt::Write as _;

use wasm_encoder::{
    CodeSection, ConstExpr, CustomSection, DataSection, DataSegment, DataSegmentMode, ElementSection, Elements,
    EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Instruction, MemorySection,
    MemoryType, Module, RefType, TableSection, TableType, TypeSection, ValType,
};

pub(crate) const ABI: &str = sandgate_abi::IMPORT_MODULE;
pub(crate) const WASI: &str = "wasi_snapshot_preview1";

/// The functions of the guest ABI: name, parameters (`i` for i32, `I` for i64) and results.
pub(crate) const ABI_FUNCTIONS: [(&str, &str, &str); 9] = [
    ("channel_send", "iiiiiI", "i"),
    ("channel_receive", "iiiiiiI", "i"),
    ("channel_wait", "iiI", "i"),
    ("channel_close", "iiii", "i"),
    ("channel_error", "iiii", "i"),
    ("channel_new", "", "i"),
    ("channel_drop", "i", "i"),
    ("call_args", "iiiii", "i"),
    ("task_report", "iii", "i"),
];

/// The functions of WASI preview 1.
pub(crate) const WASI_FUNCTIONS: [(&str, &str, &str); 46] = [
    ("args_get", "ii", "i"),
    ("args_sizes_get", "ii", "i"),
    ("clock_res_get", "ii", "i"),
    ("clock_time_get", "iIi", "i"),
    ("environ_get", "ii", "i"),
    ("environ_sizes_get", "ii", "i"),
    ("fd_advise", "iIIi", "i"),
    ("fd_allocate", "iII", "i"),
    ("fd_close", "i", "i"),
    ("fd_datasync", "i", "i"),
    ("fd_fdstat_get", "ii", "i"),
    ("fd_fdstat_set_flags", "ii", "i"),
    ("fd_fdstat_set_rights", "iII", "i"),
    ("fd_filestat_get", "ii", "i"),
    ("fd_filestat_set_size", "iI", "i"),
    ("fd_filestat_set_times", "iIIi", "i"),
    ("fd_pread", "iiiIi", "i"),
    ("fd_prestat_dir_name", "iii", "i"),
    ("fd_prestat_get", "ii", "i"),
    ("fd_pwrite", "iiiIi", "i"),
    ("fd_read", "iiii", "i"),
    ("fd_readdir", "iiiIi", "i"),
    ("fd_renumber", "ii", "i"),
    ("fd_seek", "iIii", "i"),
    ("fd_sync", "i", "i"),
    ("fd_tell", "ii", "i"),
    ("fd_write", "iiii", "i"),
    ("path_create_directory", "iii", "i"),
    ("path_filestat_get", "iiiii", "i"),
    ("path_filestat_set_times", "iiiiIIi", "i"),
    ("path_link", "iiiiiii", "i"),
    ("path_open", "iiiiiIIii", "i"),
    ("path_readlink", "iiiiii", "i"),
    ("path_remove_directory", "iii", "i"),
    ("path_rename", "iiiiii", "i"),
    ("path_symlink", "iiiii", "i"),
    ("path_unlink_file", "iii", "i"),
    ("poll_oneoff", "iiii", "i"),
    ("proc_exit", "i", ""),
    ("proc_raise", "i", "i"),
    ("random_get", "ii", "i"),
    ("sched_yield", "", "i"),
    ("sock_accept", "iii", "i"),
    ("sock_recv", "iiiiii", "i"),
    ("sock_send", "iiiii", "i"),
    ("sock_shutdown", "ii", "i"),
];

/// Adds to a status that a guest did not expect; the sum is its exit code.
pub(crate) const UNEXPECTED: i32 = 10_000;

fn types(letters: &str) -> String {
    letters.chars().map(|letter| if letter == 'i' { " i32" } else { " i64" }).collect()
}

/// All imports as text, each function under its own name.
pub(crate) fn imports() -> String {
    let mut text = String::new();
    for (module, functions) in [(ABI, &ABI_FUNCTIONS[..]), (WASI, &WASI_FUNCTIONS)] {
        for (name, parameters, results) in functions {
            let (parameters, results) = (types(parameters), types(results));
            let _ =
                writeln!(text, r#"(import "{module}" "{name}" (func ${name} (param{parameters}) (result{results})))"#);
        }
    }
    text
}

/// A module with every import, one page of memory that may grow, `items`, and `body` in `_start`.
///
/// There are two helpers. `$want` ends the guest with an exit code that tells the status unless it is the wanted one.
/// `$say` sends the four bytes at an address.
pub(crate) fn program(items: &str, body: &str) -> String {
    with_memory("1", items, body)
}

/// [`program`] with a memory of so many pages, as in `1 16`.
pub(crate) fn with_memory(pages: &str, items: &str, body: &str) -> String {
    let imports = imports();
    format!(
        r#"(module
        {imports}
        (memory (export "memory") {pages})
        (func $want (param $got i32) (param $wanted i32)
            (if (i32.ne (local.get $got) (local.get $wanted))
                (then (call $proc_exit (i32.add (i32.const {UNEXPECTED}) (local.get $got))))))
        (func $say (param $address i32)
            (call $want (call $channel_send
                (i32.const 0) (local.get $address) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const -1))
                (i32.const 0)))
        {items}
        (func (export "_start") (local $i i32) (local $j i32) (local $n i64)
            {body}))"#
    )
}

/// A module with nothing but what is given and a `_start` with this body.
pub(crate) fn bare(items: &str, body: &str) -> String {
    format!(r#"(module {items} (func (export "_start") (local $i i32) {body}))"#)
}

/// One way to trap, as the items that it needs and the instructions that do it.
pub(crate) const TRAPS: [(&str, &str, &str, sandgate::TrapKind); 10] = {
    use sandgate::TrapKind as Kind;
    [
        ("unreachable", "", "unreachable", Kind::Unreachable),
        ("stack overflow", "(func $deep (call $deep))", "(call $deep)", Kind::StackOverflow),
        ("memory", "(memory 1)", "(drop (i32.load (i32.const 65533)))", Kind::MemoryOutOfBounds),
        ("table", "(table $t 1 funcref)", "(table.set $t (i32.const 1) (ref.null func))", Kind::TableOutOfBounds),
        (
            "null",
            "(table $t 1 funcref) (type $f (func))",
            "(call_indirect $t (type $f) (i32.const 0))",
            Kind::IndirectCallToNull,
        ),
        (
            "signature",
            "(table $t funcref (elem $g)) (type $f (func)) (func $g (param i32))",
            "(call_indirect $t (type $f) (i32.const 0))",
            Kind::BadSignature,
        ),
        ("division", "", "(drop (i32.div_u (i32.const 1) (i32.const 0)))", Kind::DivisionByZero),
        ("overflow", "", "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", Kind::IntegerOverflow),
        ("conversion", "", "(drop (i32.trunc_f32_s (f32.const nan)))", Kind::BadConversionToInteger),
        (
            "call past the table",
            "(table $t 1 funcref) (type $f (func))",
            "(call_indirect $t (type $f) (i32.const 7))",
            Kind::TableOutOfBounds,
        ),
    ]
};

/// A module with a `_start` that is made of parts.
#[derive(Default)]
pub(crate) struct Binary {
    types: TypeSection,
    imports: Option<ImportSection>,
    functions: FunctionSection,
    tables: Option<TableSection>,
    memories: Option<MemorySection>,
    exports: ExportSection,
    elements: Option<ElementSection>,
    code: CodeSection,
    data: Option<DataSection>,
    custom: Vec<(String, Vec<u8>)>,
    imported: u32,
}

impl Binary {
    /// With `_start` as its first function, which returns.
    pub(crate) fn new() -> Binary {
        let mut binary = Binary::default();
        binary.types.ty().function([], []);
        let start = binary.function(&[], |function| {
            function.instruction(&Instruction::End);
        });
        binary.exports.export("_start", ExportKind::Func, start);
        binary
    }

    /// Adds a function without parameters.
    pub(crate) fn function(&mut self, locals: &[(u32, ValType)], body: impl FnOnce(&mut Function)) -> u32 {
        self.functions.function(0);
        let mut function = Function::new(locals.iter().copied());
        body(&mut function);
        self.code.function(&function);
        self.imported + self.functions.len() - 1
    }

    /// Adds as many functions that return.
    pub(crate) fn empty_functions(&mut self, count: u32) {
        for _ in 0..count {
            self.function(&[], |function| {
                function.instruction(&Instruction::End);
            });
        }
    }

    /// Adds types that are all different from each other.
    pub(crate) fn types(&mut self, count: u32) {
        for number in 0..count {
            let kinds = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
            let parameters: Vec<ValType> = (0..12).map(|digit| kinds[(number >> (2 * digit)) as usize & 3]).collect();
            self.types.ty().function(parameters, []);
        }
    }

    /// Adds imports of a function that exists. Only before any function was added but `_start`, which moves.
    pub(crate) fn imports(&mut self, count: u32) {
        let mut section = ImportSection::new();
        let exit = self.types.len();
        self.types.ty().function([ValType::I32], []);
        for _ in 0..count {
            section.import(WASI, "proc_exit", EntityType::Function(exit));
        }
        self.imports = Some(section);
        self.imported = count;
        let mut exports = ExportSection::new();
        exports.export("_start", ExportKind::Func, count);
        self.exports = exports;
    }

    pub(crate) fn exports(&mut self, count: u32) {
        for number in 0..count {
            self.exports.export(&format!("e{number}"), ExportKind::Func, self.imported);
        }
    }

    /// Adds passive data segments.
    pub(crate) fn data(&mut self, count: u32, bytes: usize) {
        let mut section = DataSection::new();
        for _ in 0..count {
            section.segment(DataSegment { mode: DataSegmentMode::Passive, data: vec![0x5a; bytes] });
        }
        self.data = Some(section);
    }

    /// Adds active data segments of one byte, and a memory for them.
    pub(crate) fn active_data(&mut self, count: u32) {
        let mut memories = MemorySection::new();
        let ty = MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None };
        memories.memory(ty);
        self.memories = Some(memories);
        let mut section = DataSection::new();
        for _ in 0..count {
            section.active(0, &ConstExpr::i32_const(0), [1]);
        }
        self.data = Some(section);
    }

    /// Adds active element segments of one function, and a table for them.
    pub(crate) fn elements(&mut self, count: u32) {
        let mut tables = TableSection::new();
        let element_type = RefType::FUNCREF;
        tables.table(TableType { element_type, minimum: 1, maximum: None, table64: false, shared: false });
        self.tables = Some(tables);
        let mut section = ElementSection::new();
        for _ in 0..count {
            section.active(None, &ConstExpr::i32_const(0), Elements::Functions((&[self.imported][..]).into()));
        }
        self.elements = Some(section);
    }

    pub(crate) fn custom(&mut self, name: &str, bytes: usize) {
        self.custom.push((name.to_owned(), vec![0x5a; bytes]));
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut module = Module::new();
        module.section(&self.types);
        if let Some(section) = &self.imports {
            module.section(section);
        }
        module.section(&self.functions);
        if let Some(section) = &self.tables {
            module.section(section);
        }
        if let Some(section) = &self.memories {
            module.section(section);
        }
        module.section(&self.exports);
        if let Some(section) = &self.elements {
            module.section(section);
        }
        if let Some(data) = &self.data {
            module.section(&wasm_encoder::DataCountSection { count: data.len() });
        }
        module.section(&self.code);
        if let Some(section) = &self.data {
            module.section(section);
        }
        for (name, data) in &self.custom {
            module.section(&CustomSection { name: name.into(), data: data.into() });
        }
        module.finish()
    }
}
