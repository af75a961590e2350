//! D. Modules that attack the compiler and the loader: refused, or compiled within bounds, and nobody else is disturbed.

use std::time::Duration;

use sandgate::{ModuleLimitName, TrapKind};
use sandgate_tests::{LIMIT, builder, spec, wat};
use wasm_encoder::{Instruction, ValType};

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, bytes, row};
use crate::wasm::{Binary, bare};

/// What a module within the limits may take to be compiled or refused: the tests' compiler is not optimised.
const COMPILE_BOUND: Duration = Duration::from_secs(25);

#[test]
fn what_is_no_module_is_refused() {
    check("D, strangers", strangers);
}

#[test]
fn bombs_are_defused() {
    check("D, bombs", bombs);
}

#[test]
fn entries_imports_and_instantiation() {
    check("D, loading", loading);
}

pub(crate) fn strangers() -> Vec<Row> {
    let module = || ::wat::parse_str(bare("(func) (memory 1) (data (i32.const 0) \"abc\")", "")).expect("a module");
    let refused = |row: Row| row.rejected(&[]);
    let mut rows = vec![
        refused(bytes("one byte", [0])),
        refused(bytes("the magic alone", *b"\0asm")),
        refused(bytes("a version from the future", *b"\0asm\x02\0\0\0")),
        bytes("an empty module", *b"\0asm\x01\0\0\0").rejected(&["_start"]),
        bytes("a component", ::wat::parse_str("(component)").expect("a component")).rejected(&["component"]),
        bytes("text", *b"(module (func (export \"_start\")))").rejected(&["text"]),
        bytes("an ELF file", std::fs::read("/proc/self/exe").expect("this program")[..4096].to_vec())
            .rejected(&["ELF"]),
        refused(bytes("a script", *b"#!/bin/sh\ntrue\n")),
        refused(bytes("zeros", vec![0; 100_000])),
        refused(bytes("ones", vec![0xff; 100_000])),
    ];
    rows.push(bytes("precompiled bytes", artefact()).rejected(&["native code"]));
    let whole = module();
    for cut in (8..whole.len()).step_by(7) {
        rows.push(bytes(format!("cut at {cut}"), &whole[..cut]).expect(Expected::Rejected(&[])));
    }
    // A small generator of numbers: the same bytes in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut number = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..12 {
        let mut spoiled = whole.clone();
        for _ in 0..3 {
            let at = 8 + usize::try_from(number()).unwrap_or(0) % (spoiled.len() - 8);
            spoiled[at] = number().to_le_bytes()[0];
        }
        // It may still be a module, and then it does what it does; it cannot do harm.
        let anything = vec![
            Expected::Rejected(&[]),
            Expected::Returned,
            Expected::Trapped(TrapKind::Unreachable),
            Expected::Trapped(TrapKind::MemoryOutOfBounds),
            Expected::Limit(sandgate::LimitName::Memory),
        ];
        rows.push(bytes(format!("spoiled, {round}"), spoiled).expect(Expected::AnyOf(anything)));
        let random: Vec<u8> =
            b"\0asm\x01\0\0\0".iter().copied().chain((0..200).map(|_| number().to_le_bytes()[0])).collect();
        rows.push(bytes(format!("random, {round}"), random).rejected(&[]));
    }
    rows
}

/// What the compiler has made of a module, as the cache keeps it, without the cache's own header.
fn artefact() -> Vec<u8> {
    let cache = tempfile::tempdir().expect("a directory for a cache");
    let group = builder().cache(Some(cache.path().to_owned())).build();
    let gateway = group.make_gateway(spec("popen")).expect("a gateway");
    gateway
        .remote_exec(&wat(&bare("", "")))
        .expect("a module that is compiled")
        .wait_close_timeout(LIMIT)
        .expect("its end");
    let files = std::fs::read_dir(cache.path()).expect("the cache").map(|entry| entry.expect("an entry").path());
    let found = files.filter_map(|path| {
        let kept = std::fs::read(path).expect("a file of the cache");
        let start = kept.windows(4).position(|window| window == b"\x7fELF")?;
        Some(kept[start..].to_vec())
    });
    found.last().expect("an artefact in the cache")
}

/// What is over a limit, with the limit's name; and what is just below all of them and has to be compiled within bounds.
pub(crate) fn bombs() -> Vec<Row> {
    use ModuleLimitName as Name;
    let over = |name: &str, limit, build: fn(&mut Binary)| {
        let mut binary = Binary::new();
        build(&mut binary);
        let row = bytes(name, binary.finish()).expect(Expected::Module(limit)).within(COMPILE_BOUND);
        row.host_may_grow(96 << 20)
    };
    let within = |name: &str, build: fn(&mut Binary)| {
        let mut binary = Binary::new();
        build(&mut binary);
        let costs = vec![
            Expected::Returned,
            Expected::Module(Name::CompileTime),
            Expected::Module(Name::CompileMemory),
            Expected::Module(Name::Items),
            Expected::Module(Name::FunctionBytes),
            Expected::Rejected(&["limit"]),
        ];
        let row = bytes(name, binary.finish()).expect(Expected::AnyOf(costs)).within(COMPILE_BOUND);
        row.on("compile-time=8s//compile-memory=1G").host_may_grow(96 << 20).worker_may_grow(128 << 20)
    };
    let end = Instruction::End;
    vec![
        over("one function of 7 MB", Name::FunctionBytes, |binary| {
            binary.function(&[], |function| {
                (0..7_000_000).for_each(|_| {
                    function.instruction(&Instruction::Nop);
                });
                function.instruction(&Instruction::End);
            });
        }),
        over("a million tiny functions", Name::Functions, |binary| binary.empty_functions(1_000_000)),
        over("50k locals in 1000 functions", Name::Locals, |binary| {
            for _ in 0..1000 {
                binary.function(&[(50_000, ValType::I64)], |function| {
                    function.instruction(&Instruction::End);
                });
            }
        }),
        over("br_table with millions of targets", Name::JumpTargets, |binary| {
            for _ in 0..6 {
                binary.function(&[], |function| {
                    let targets = vec![0; 400_000];
                    function.instruction(&Instruction::I32Const(1));
                    function.instruction(&Instruction::BrTable(targets.into(), 0));
                    function.instruction(&Instruction::End);
                });
            }
        }),
        over("blocks inside one another", Name::Nesting, |binary| {
            binary.function(&[], |function| {
                let block = Instruction::Block(wasm_encoder::BlockType::Empty);
                (0..20_000).for_each(|_| {
                    function.instruction(&block);
                });
                (0..=20_000).for_each(|_| {
                    function.instruction(&Instruction::End);
                });
            });
        }),
        over("a million types", Name::Items, |binary| binary.types(999_999)),
        over("a million imports", Name::Items, |binary| binary.imports(1_000_000)),
        over("a million exports", Name::Items, |binary| binary.exports(999_999)),
        over("300k data segments", Name::Items, |binary| binary.active_data(300_000)),
        // Each counts twice: it has an element.
        over("100k element segments", Name::Items, |binary| binary.elements(100_000)),
        over("300k element segments", Name::Items, |binary| binary.elements(300_000)),
        over("500 MB of passive segments", Name::ModuleBytes, |binary| binary.data(500, 1_000_000)),
        over("passive segments above the size limit", Name::ModuleBytes, |binary| binary.data(65, 1 << 20)),
        over("a custom section above the size limit", Name::ModuleBytes, |binary| binary.custom("x", 100 << 20)),
        row(
            "a module above its gateway's limit",
            bare(&format!("(memory 1) (data (i32.const 0) \"{}\")", "x".repeat(5000)), ""),
        )
        .on("module=4K")
        .alone()
        .expect(Expected::Module(Name::ModuleBytes)),
        within("passive segments of 48 MiB", |binary| binary.data(48, 1 << 20)),
        within("a custom section of 48 MiB", |binary| binary.custom("x", 48 << 20)),
        within("100k data segments", |binary| binary.active_data(100_000)),
        within("99k element segments", |binary| binary.elements(99_000)),
        within("100k tiny functions", |binary| binary.empty_functions(100_000)),
        within("9,000 locals in 200 functions", |binary| {
            for _ in 0..200 {
                binary.function(&[(9000, ValType::I64)], |function| {
                    for local in 0..9000 {
                        function.instruction(&Instruction::LocalGet(local));
                        function.instruction(&Instruction::LocalSet(8999 - local));
                    }
                    function.instruction(&Instruction::End);
                });
            }
        }),
        within("a jump table of 300k targets", |binary| {
            binary.function(&[], |function| {
                function.instruction(&Instruction::I32Const(1));
                function.instruction(&Instruction::BrTable(vec![0; 300_000].into(), 0));
                function.instruction(&Instruction::End);
            });
        }),
        within("4,900 blocks with a jump out of each", |binary| {
            binary.function(&[], |function| {
                let block = Instruction::Block(wasm_encoder::BlockType::Empty);
                (0..4900).for_each(|_| {
                    function.instruction(&block);
                });
                for depth in 0..4900 {
                    function.instruction(&Instruction::I32Const(0));
                    function.instruction(&Instruction::BrIf(4899 - depth));
                    function.instruction(&Instruction::End);
                }
                function.instruction(&Instruction::End);
            });
        }),
        within("an expression of 1 MB", move |binary| {
            binary.function(&[(1, ValType::I64)], |function| {
                function.instruction(&Instruction::I64Const(1));
                for _ in 0..300_000 {
                    function.instruction(&Instruction::LocalGet(0));
                    function.instruction(&Instruction::I64Mul);
                }
                function.instruction(&Instruction::Drop);
                function.instruction(&Instruction::End);
            });
        }),
        within("a constant stack of 200k values", |binary| {
            binary.function(&[], |function| {
                (0..200_000).for_each(|number| {
                    function.instruction(&Instruction::I32Const(number));
                });
                (0..200_000).for_each(|_| {
                    function.instruction(&Instruction::Drop);
                });
                function.instruction(&Instruction::End);
            });
        }),
        {
            let mut binary = Binary::new();
            binary.function(&[], |function| {
                function.instruction(&end);
            });
            bytes("a bomb's neighbour", binary.finish())
        },
    ]
}

pub(crate) fn loading() -> Vec<Row> {
    vec![
        row("an unknown import module", bare(r#"(import "nowhere" "f" (func))"#, "")).rejected(&["nowhere::f"]),
        row("an unknown function of WASI", bare(r#"(import "wasi_snapshot_preview1" "fd_steal" (func))"#, ""))
            .rejected(&["fd_steal"]),
        row("an unknown function of the ABI", bare(r#"(import "sandgate_v1" "channel_steal" (func))"#, ""))
            .rejected(&["channel_steal"]),
        row("another version of the ABI", bare(r#"(import "sandgate_v99" "channel_new" (func (result i32)))"#, ""))
            .rejected(&["sandgate_v99", "sandgate_v1"]),
        row("a wrong signature", bare(r#"(import "sandgate_v1" "channel_new" (func (param i32)))"#, ""))
            .rejected(&["channel_new"]),
        row("a function imported as a global", bare(r#"(import "sandgate_v1" "channel_new" (global i32))"#, ""))
            .rejected(&["channel_new"]),
        row("an imported memory", bare(r#"(import "env" "memory" (memory 1))"#, "")).rejected(&["env::memory"]),
        row("an import with escapes in its name", bare(r#"(import "a\1b[31m" "b\n\00" (func))"#, "")).rejected(&[]),
        row("an import with a long name", bare(&format!(r#"(import "{}" "f" (func))"#, "x".repeat(50_000)), ""))
            .rejected(&["xxx"]),
        row("no entry point", "(module (func))").rejected(&["_start"]),
        row("an entry point with a parameter", r#"(module (func (export "_start") (param i32)))"#)
            .rejected(&["_start"]),
        row("an entry point with a result", r#"(module (func (export "_start") (result i32) (i32.const 1)))"#)
            .rejected(&["_start"]),
        row("an entry point that is a global", r#"(module (global (export "_start") i32 (i32.const 1)))"#)
            .rejected(&["_start"]),
        row(
            "_initialize with a parameter",
            r#"(module (func (export "_initialize") (param i32)) (func (export "_start")))"#,
        )
        .rejected(&["_initialize"]),
        row("no such task", r#"(module (func (export "sandgate_task:one")))"#).task("two").rejected(&["two", "one"]),
        row("a memory that is a function", r#"(module (func (export "memory")) (func (export "_start")))"#)
            .expect(Expected::AnyOf(vec![Expected::Returned, Expected::Rejected(&["memory"])])),
        row("a start that traps", r#"(module (func $s unreachable) (func (export "_start")) (start $s))"#)
            .trap(TrapKind::Unreachable),
        row("a data segment out of bounds", bare(r#"(memory 1) (data (i32.const 65535) "ab")"#, "")).expect(
            Expected::AnyOf(vec![Expected::Trapped(TrapKind::MemoryOutOfBounds), Expected::Rejected(&["bounds"])]),
        ),
        row("an element segment out of bounds", bare("(table 1 funcref) (func $f) (elem (i32.const 1) $f)", ""))
            .expect(Expected::AnyOf(vec![
                Expected::Trapped(TrapKind::TableOutOfBounds),
                Expected::Rejected(&["bounds"]),
            ])),
        row("a module that is invalid inside a function", bare("", "")).called("valid beside invalid"),
        bytes("a body that does not validate", invalid()).rejected(&[]),
    ]
}

/// A function that adds what is not there.
fn invalid() -> Vec<u8> {
    let mut binary = Binary::new();
    binary.function(&[], |function| {
        function.instruction(&Instruction::I32Add);
        function.instruction(&Instruction::End);
    });
    binary.finish()
}
