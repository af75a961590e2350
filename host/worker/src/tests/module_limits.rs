//! What a module may be: each limit with a module that just fits and one that is just over, and what the latter is told.

use std::time::{Duration, Instant};

use sandgate_wire::module_limits::{ModuleLimitName as Name, Shape};
use sandgate_wire::outcome::Rejection;
use sandgate_wire::{ModuleLimits, Profile};
use wasm_encoder::{CodeSection, Function, FunctionSection, Instruction, Module, TypeSection, ValType};

use crate::preflight;

fn shape(module: &[u8], limits: &ModuleLimits) -> Result<Shape, Rejection> {
    preflight::check(module, limits, Profile::MINIMAL).map(|checked| checked.shape)
}

/// A module that has just what `name` allows is accepted, and refused with one less. `found` takes the figure out of its
/// shape.
fn check(text: &str, name: Name, item: &str, found: fn(&Shape) -> u64, set: fn(&mut ModuleLimits, u64)) {
    let module = wat::parse_str(text).unwrap();
    let found = found(&shape(&module, &ModuleLimits::default()).unwrap());
    let mut limits = ModuleLimits::default();
    set(&mut limits, found);
    assert!(shape(&module, &limits).is_ok(), "{name:?}: {found} is enough");
    let value = found - 1;
    set(&mut limits, value);
    match shape(&module, &limits) {
        Err(Rejection::ModuleLimit { limit, found: over, value: told, item: at }) => {
            assert_eq!((limit, told, &at[..]), (name, value, item));
            assert!(over > value && over <= found, "{name:?}: {over}");
        }
        other => panic!("{name:?}: {other:?}"),
    }
    // The host compares in the same way.
    let shape = shape(&module, &ModuleLimits::default()).unwrap();
    assert_eq!(limits.exceeded_by(&shape), Some((name, found, value)));
}

fn narrow(value: u64) -> u32 {
    value.try_into().unwrap()
}

#[test]
fn each_limit_is_exact_and_names_its_item() {
    let two = "(module (func) (func (local i32 i64 i64) (block (block (loop)))) (func))";
    check(two, Name::ModuleBytes, "", |shape| shape.module_bytes, |limits, value| limits.module_bytes = value);
    check(
        two,
        Name::Functions,
        "the function section",
        |shape| shape.functions.into(),
        |limits, value| limits.functions = narrow(value),
    );
    check(
        two,
        Name::FunctionBytes,
        "function 1",
        |shape| shape.function_bytes,
        |limits, value| {
            limits.function_bytes = value;
        },
    );
    check(two, Name::Locals, "function 1", |shape| shape.locals.into(), |limits, value| limits.locals = narrow(value));
    check(
        two,
        Name::Nesting,
        "function 1",
        |shape| shape.nesting.into(),
        |limits, value| {
            limits.nesting = narrow(value);
        },
    );
    let table = r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
        (func (block (br_table 0 0 0 0 (i32.const 1)))) (func (block (br_table 0 0 0 (i32.const 1)))))"#;
    check(
        table,
        Name::JumpTargets,
        "function 2",
        |shape| shape.jump_targets,
        |limits, value| {
            limits.jump_targets = value;
        },
    );
    for (text, item) in [
        ("(module (type (func (param i32 i32) (result i32))))", "the type section"),
        (
            r#"(module (type (func (result i32))) (import "wasi_snapshot_preview1" "sched_yield" (func (type 0))))"#,
            "the import section",
        ),
        ("(module (table 1 funcref))", "the table section"),
        ("(module (memory 1))", "the memory section"),
        ("(module (global i32 (i32.const 1)))", "the global section"),
        ("(module (global i32 (i32.add (i32.const 1) (i32.const 2))))", "the global section"),
        (r#"(module (memory (export "a") 1) (export "b" (memory 0)))"#, "the export section"),
        ("(module (func $f) (table 9 funcref) (elem (i32.const 0) $f $f $f))", "the element section"),
        ("(module (func $f) (table 9 funcref) (elem funcref (ref.func $f) (ref.null func)))", "the element section"),
        (r#"(module (memory 1) (data (i32.const 0) "a") (data "b"))"#, "the data section"),
    ] {
        check(text, Name::Items, item, |shape| shape.items.into(), |limits, value| limits.items = narrow(value));
    }
}

#[test]
fn what_a_function_passes_counts_as_its_bytes_do() {
    let many = "i32 ".repeat(1000);
    let calls = |count: usize| {
        let call = "call $f ".repeat(count);
        format!("(module (func $f (param {many}) (result {many}) unreachable) (func unreachable {call} unreachable))")
    };
    let bytes = |text: &str| shape(&wat::parse_str(text).unwrap(), &ModuleLimits::default());
    let few = bytes(&calls(100)).unwrap();
    assert!((200_000..210_000).contains(&few.function_bytes), "{few:?}");
    assert!(few.module_bytes > few.function_bytes, "it counts for the module too: {few:?}");
    assert!(matches!(bytes(&calls(1000)), Err(Rejection::ModuleLimit { limit: Name::FunctionBytes, .. })));
    let targets = "0 ".repeat(400);
    let jumps = format!(
        "(module (type $t (func (result {many}))) (func (block (type $t) unreachable (br_table {targets} (i32.const 0))) unreachable))"
    );
    let jumps = bytes(&jumps).unwrap();
    assert!(jumps.function_bytes > 400_000, "{jumps:?}");
}

/// A module of this many functions with the same body.
fn functions(count: u32, body: &Function) -> Vec<u8> {
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for _ in 0..count {
        functions.function(0);
        code.function(body);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module.finish()
}

fn body(locals: u32, instructions: &[Instruction<'_>], times: usize) -> Function {
    let mut function = Function::new([(locals, ValType::I32)]);
    for _ in 0..times {
        instructions.iter().for_each(|instruction| {
            function.instruction(instruction);
        });
    }
    function.instruction(&Instruction::End);
    function
}

/// A section of this number that announces `count` items and has these bytes for each.
fn section(id: u8, count: u32, item: &[u8]) -> Vec<u8> {
    use wasm_encoder::Encode;
    let mut content = Vec::new();
    count.encode(&mut content);
    (0..count).for_each(|_| content.extend_from_slice(item));
    let mut module = Module::HEADER.to_vec();
    module.push(id);
    content.encode(&mut module);
    module
}

#[test]
fn modules_that_attack_the_preflight_are_refused_at_once() {
    let nop = [Instruction::Nop];
    let block = [Instruction::Block(wasm_encoder::BlockType::Empty)];
    let mut custom = Module::HEADER.to_vec();
    custom.push(0);
    wasm_encoder::Encode::encode(&vec![0_u8; 100 << 20][..], &mut custom);
    for (what, module, name) in [
        ("one function of 7 MB", functions(1, &body(0, &nop, 7_000_000)), Name::FunctionBytes),
        ("a million tiny functions", functions(1_000_000, &body(0, &[], 0)), Name::Functions),
        ("50k locals in 1000 functions", functions(1000, &body(50_000, &[], 0)), Name::Locals),
        ("four billion locals", functions(1, &body(u32::MAX, &[], 0)), Name::Locals),
        ("100k blocks inside one another", functions(1, &body(0, &block, 100_000)), Name::Nesting),
        ("a million types", section(1, 1_000_000, &[0x60, 0, 0]), Name::Items),
        ("a million imports", section(2, 1_000_000, &[1, b'a', 1, b'b', 0, 0]), Name::Items),
        ("a million exports", section(7, 1_000_000, &[1, b'a', 0, 0]), Name::Items),
        ("a million globals", section(6, 1_000_000, &[0x7f, 0, 0x41, 0, 0x0b]), Name::Items),
        (
            "100k types of 1000 parameters",
            {
                let item = [&[0x60, 0xe8, 7][..], &[0x7f; 1000], &[0]].concat();
                section(1, 60_000, &item)
            },
            Name::Items,
        ),
        (
            "a segment of ten million elements",
            section(9, 1, &[&[1, 0, 0x80, 0xad, 0xe2, 4][..], &[0; 10_000_000]].concat()),
            Name::Items,
        ),
        (
            "a constant of a million operations",
            {
                let value = [&[0x41, 0][..], &[0x41, 0, 0x6a].repeat(1_000_000), &[0x0b]].concat();
                section(6, 1, &[&[0x7f, 0][..], &value].concat())
            },
            Name::Items,
        ),
        ("a custom section of 100 MB", custom, Name::ModuleBytes),
    ] {
        let start = Instant::now();
        match shape(&module, &ModuleLimits::default()) {
            Err(Rejection::ModuleLimit { limit, found, value, .. }) => {
                assert_eq!(limit, name, "{what}");
                assert!(found > value, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
    }
}

#[test]
fn arbitrary_bytes_are_refused_and_no_more() {
    let good = wat::parse_str(super::host::guest("(drop (memory.grow (i32.const 1)))")).unwrap();
    for at in 0..good.len() {
        for change in [1_u8, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= change;
            let _ = shape(&bad, &ModuleLimits::default());
            let _ = shape(&bad[..at], &ModuleLimits::default());
        }
    }
}
