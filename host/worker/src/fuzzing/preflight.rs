//! `preflight`: modules of any bytes, before a compiler sees them.
//!
//! What it promises: whatever the bytes, the check neither panics nor allocates by numbers that stand in the module; what it
//! accepts the engine's own validator accepts, before and after long operations are rewritten, and once it is prepared for an
//! init function; and its measures are exact: limits of just what a module has let it pass, and one less of anything does not.

use std::sync::OnceLock;

use sandgate_wire::description::Description;
use sandgate_wire::module_limits::Shape;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::profile::Feature;
use sandgate_wire::{ModuleLimits, Profile};
use wasmtime::{Engine, Module};

use crate::preflight::{Checked, check};
use crate::snapshot::Preparation;
use crate::{bulk, describe, engine};

/// The init function of the seeds; any other module is prepared for one that it lacks.
const INIT: &str = "init";
/// How the names begin by which wizer reads a module's state.
const WIZER_NAMES: &[u8] = b"__wizer_";

/// Checks a module.
///
/// # Panics
/// When something does not hold.
pub fn preflight(module: &[u8]) {
    let limits = ModuleLimits::default();
    let every = Feature::ALL.into_iter().fold(Profile::MINIMAL, Profile::with);
    let minimal = check(module, &limits, Profile::MINIMAL);
    match check(module, &limits, every) {
        Ok(checked) => accepted(module, &checked, every),
        Err(rejection) => {
            assert!(!rejection.to_string().is_empty());
            // A larger profile takes what a smaller one takes.
            assert!(minimal.is_err(), "refused with all features, accepted with none: {rejection}");
        }
    }
    match minimal {
        Ok(checked) => assert_eq!(checked.shape.features, Profile::MINIMAL),
        Err(rejection) => assert!(!rejection.to_string().is_empty()),
    }
}

fn accepted(module: &[u8], checked: &Checked, profile: Profile) {
    valid(module, "accepted");
    let rewritten = bulk::rewrite(module, &checked.bulk_bodies).expect("a valid module can be rewritten");
    valid(&rewritten, "rewritten");
    prepared(module, profile);
    let description = describe::describe(module).expect("a valid module can be described");
    assert!(Description::decode(&description).is_some(), "what is said of a module can be read");

    let exact = of(&checked.shape);
    let again = check(module, &exact, profile);
    assert_eq!(again.expect("it is within its own measures").shape, checked.shape);
    for (what, lower) in lowered(&exact) {
        match check(module, &lower, profile) {
            Err(Rejection::ModuleLimit { .. }) => {}
            other => panic!("one less of {what} than the module has: {other:?}"),
        }
    }
}

/// What an initializer makes of the module before it runs anything of it, with limits of its own.
fn prepared(module: &[u8], profile: Profile) {
    let preparation = match Preparation::of(module, INIT, &ModuleLimits::default(), profile) {
        Ok(preparation) => preparation,
        Err(rejection) => return assert!(!rejection.to_string().is_empty()),
    };
    // A module may have taken the names that its state is read by. Then the engine refuses it, as it would in an initializer.
    let has_taken_them = module.windows(WIZER_NAMES.len()).any(|bytes| bytes == WIZER_NAMES);
    if !has_taken_them {
        valid(preparation.instrumented(), "prepared for its init function");
    }
}

fn valid(module: &[u8], what: &str) {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| engine::for_compiler(Default::default()).expect("an engine"));
    if let Err(error) = Module::validate(engine, module) {
        panic!("a module is {what}, and the engine refuses it: {error:?}");
    }
}

/// The limits that a module of this shape just keeps.
fn of(shape: &Shape) -> ModuleLimits {
    ModuleLimits {
        module_bytes: shape.module_bytes,
        functions: shape.functions,
        function_bytes: shape.function_bytes,
        locals: shape.locals,
        nesting: shape.nesting,
        jump_targets: shape.jump_targets,
        items: shape.items,
        ..ModuleLimits::default()
    }
}

/// The limits with one less of one thing, for each that there is any of.
fn lowered(exact: &ModuleLimits) -> Vec<(&'static str, ModuleLimits)> {
    let mut all = Vec::new();
    let mut lower = |what, change: fn(&mut ModuleLimits) -> Option<()>| {
        let mut limits = exact.clone();
        if change(&mut limits).is_some() {
            all.push((what, limits));
        }
    };
    lower("functions", |it| it.functions.checked_sub(1).map(|less| it.functions = less));
    lower("function bytes", |it| it.function_bytes.checked_sub(1).map(|less| it.function_bytes = less));
    lower("locals", |it| it.locals.checked_sub(1).map(|less| it.locals = less));
    lower("nesting", |it| it.nesting.checked_sub(1).map(|less| it.nesting = less));
    lower("jump targets", |it| it.jump_targets.checked_sub(1).map(|less| it.jump_targets = less));
    lower("items", |it| it.items.checked_sub(1).map(|less| it.items = less));
    all
}

/// Inputs to begin with, with their names, made from text: a byte 0, then the module.
pub fn preflight_seeds() -> Vec<(String, Vec<u8>)> {
    let texts = [
        ("empty", "(module)"),
        ("add", r#"(module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))"#),
        (
            "hello",
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1) (data (i32.const 8) "hello")
                (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"#,
        ),
        (
            "bulk",
            r#"(module (memory 1) (data $d "passive")
                (func (param i32 i32 i32) (local i64)
                  (memory.copy (local.get 0) (local.get 1) (local.get 2))
                  (memory.fill (local.get 0) (i32.const 7) (local.get 2))
                  (memory.init $d (i32.const 0) (i32.const 0) (i32.const 3)) (data.drop $d)))"#,
        ),
        (
            "blocks",
            r#"(module (func (param i32) (result i32) (block (block (block (loop (br_table 0 1 2 3 (local.get 0))))))
                (if (result i32) (local.get 0) (then (i32.const 1)) (else (i32.const 2)))))"#,
        ),
        (
            "tables",
            r#"(module (type $t (func (result i32))) (table 4 funcref) (elem (i32.const 0) $a $a) (global (mut i32) (i32.const 5))
                (func $a (type $t) (call_indirect (type $t) (i32.const 1))) (start $s) (func $s))"#,
        ),
        (
            "many-types",
            "(module (type (func (param i32 i64 f32 f64) (result i64 i32))) (func (type 0) i64.const 1 i32.const 2))",
        ),
        ("simd", "(module (func (result v128) (v128.const i32x4 1 2 3 4) (v128.const i32x4 1 2 3 4) i32x4.add))"),
        ("tail-call", "(module (func $f (return_call $f)))"),
        ("threads", "(module (memory 1 1 shared) (func (drop (i32.atomic.load (i32.const 0)))))"),
        ("memory64", "(module (memory i64 1))"),
        ("multi-memory", "(module (memory 1) (memory 1))"),
        ("exceptions", "(module (tag $t) (func (throw $t)))"),
        ("gc", "(module (type (struct (field i32))))"),
        ("component", "(component)"),
        ("described", r#"(module (@custom "sandgate.tasks" "\01\02\03") (func (export "sandgate_task:a")))"#),
        (
            "init",
            r#"(module (memory 1) (global $g (mut i32) (i32.const 1)) (data (i32.const 8) "abc")
                (func (export "sandgate_init:init") (global.set $g (i32.const 2)) (memory.fill (i32.const 0) (i32.const 7) (i32.const 9)))
                (func (export "sandgate_start:init")) (func (export "_start")))"#,
        ),
        (
            "init-of-references",
            r#"(module (global (mut funcref) (ref.null func)) (func (export "sandgate_init:init")))"#,
        ),
        (
            "init-of-tables",
            r#"(module (table 2 funcref) (func (export "sandgate_init:init") (table.set (i32.const 0) (ref.null func))))"#,
        ),
        ("init-of-wizer", r#"(module (memory (export "__wizer_memory_0") 1) (func (export "sandgate_init:init")))"#),
        ("unknown-import", r#"(module (import "env" "f" (func)))"#),
        ("wrong-import", r#"(module (import "wasi_snapshot_preview1" "fd_close" (func (param i64))))"#),
    ];
    let mut seeds: Vec<_> = texts
        .into_iter()
        .map(|(name, text)| {
            let module = wat::parse_str(text).expect("the text of a seed is well-formed");
            (name.to_owned(), [&[0], &module[..]].concat())
        })
        .collect();
    for (name, bytes) in
        [("elf", &b"\0\x7fELF"[..]), ("text", b"\0(module)"), ("header", b"\0\0asm\x01\0\0\0"), ("none", b"\0")]
    {
        seeds.push((name.to_owned(), bytes.to_vec()));
    }
    // Types, imports and functions by the million, as the counts of their sections say.
    for (name, section) in [("type", 1_u8), ("import", 2), ("function", 3), ("code", 10), ("data", 11)] {
        let announced = [b"\0\0asm\x01\0\0\0", &[section, 5, 0xff, 0xff, 0xff, 0xff, 0x0f][..]].concat();
        seeds.push((format!("announces-{name}s"), announced));
    }
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_preflight_holds_for_its_seeds() {
        for (_, input) in super::preflight_seeds() {
            super::preflight(&input[1..]);
        }
    }
}
