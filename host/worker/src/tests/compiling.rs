//! What the compiler and the loader refuse, and what they say.

use sandgate_wire::message::Codegen;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::profile::Feature;
use sandgate_wire::{ModuleId, ModuleLimits, Outcome, Profile};

use super::host::*;
use crate::{compile, compile_within};

fn refused(module: &[u8]) -> Rejection {
    match compile(module) {
        Ok(_) => panic!("the module is accepted: {:?}", &module[..module.len().min(60)]),
        Err(reason) => reason,
    }
}

fn check(module: &[u8], says: &str) {
    match refused(module) {
        Rejection::InvalidModule { message } => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_module_is_called_by_its_name() {
    let good = wat::parse_str(guest("")).unwrap();
    let artefact = compile(&good).unwrap().artefact;
    let random: Vec<u8> = (0..1000_u32).map(|i| (i * 7919).to_le_bytes()[1]).collect();
    for (bytes, says) in [
        (&b""[..], "empty"),
        (b"\0asm", "version"),
        (b"\0asm\x02\0\0\0", "version"),
        (b"  (module)", "text"),
        (b"\x7fELF\x02\x01\x01\0 and so on", "ELF"),
        (&artefact, "native code"),
        (&random, "no WebAssembly"),
        (&good[..good.len() - 3], "unexpected end"),
        (b"\0asm\x01\0\0\0\xff\xff", ""),
    ] {
        check(bytes, says);
    }
}

/// The feature that is named, and whether a profile has it.
fn feature(text: &str, profile: Profile) -> (String, bool) {
    let module = wat::parse_str(text).unwrap();
    match compile_within(&module, Codegen::default(), &ModuleLimits::default(), profile) {
        Err(Rejection::Feature { feature, offered, .. }) => (feature, offered),
        other => panic!("{text}: {:?}", other.map(|done| done.shape)),
    }
}

#[test]
fn proposals_that_are_off_are_named() {
    let everything = Feature::ALL.into_iter().fold(Profile::MINIMAL, Profile::with);
    for (text, name) in [
        ("(module (memory 1 1 shared))", "threads"),
        (
            "(module (memory 1) (func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))",
            "threads",
        ),
        ("(module (memory i64 1))", "memory64"),
        ("(module (table i64 1 funcref))", "memory64"),
        ("(module (memory 1) (memory 1))", "multi-memory"),
        ("(module (memory 1 (pagesize 1)))", "custom-page-sizes"),
        ("(module (tag))", "exceptions"),
        ("(module (tag) (func (throw 0)))", "exceptions"),
        ("(module (func try catch_all end))", "legacy-exceptions"),
        ("(module (type (struct)))", "gc"),
        ("(module (rec (type $a (func (param (ref null $a))))))", "gc"),
        ("(module (type $a (array i8)) (func (drop (array.new_default $a (i32.const 100000)))))", "gc"),
        ("(module (func (param externref)))", "gc"),
        ("(module (type $f (func)) (func (param (ref null $f)) (call_ref $f (local.get 0))))", "function-references"),
        ("(module (type $f (func)) (type $c (cont $f)) (func (drop (cont.new $c (ref.null $f)))))", "stack-switching"),
        ("(component)", "component-model"),
    ] {
        assert_eq!(feature(text, everything), (name.to_owned(), false), "{text}");
    }
}

#[test]
fn features_are_asked_for_by_name() {
    for (feature_asked, text) in [
        (Feature::Simd, "(module (func (param v128) (result v128) (i32x4.add (local.get 0) (local.get 0))))"),
        (Feature::Simd, "(module (global v128 (v128.const i64x2 0 0)))"),
        (Feature::Simd, "(module (func (local v128)))"),
        (
            Feature::RelaxedSimd,
            "(module (func (param v128) (result v128) local.get 0 local.get 0 local.get 0 f32x4.relaxed_madd))",
        ),
        (Feature::TailCall, "(module (func $f return_call $f))"),
        (
            Feature::WideArithmetic,
            "(module (func (param i64 i64) (result i64 i64) local.get 0 local.get 1 i64.mul_wide_u))",
        ),
    ] {
        let enough = Profile::MINIMAL.with(feature_asked);
        for codegen in [Codegen::Interruptible, Codegen::Metered, Codegen::Unchecked] {
            let module = wat::parse_str(text).unwrap();
            let compiled = compile_within(&module, codegen, &ModuleLimits::default(), enough).unwrap();
            assert_eq!(compiled.shape.features, enough, "{text}");
        }
        let first = if feature_asked == Feature::RelaxedSimd { Feature::Simd } else { feature_asked };
        assert_eq!(feature(text, Profile::MINIMAL), (first.name().to_owned(), true), "{text}");
    }
}

#[test]
fn imports_that_there_are_not() {
    let import = |module: &str, name: &str, item: &str| {
        refused(&wat::parse_str(format!(r#"(module (import "{module}" "{name}" {item}))"#)).unwrap())
    };
    for (module, name) in [
        ("env", "printf"),
        ("wasi_unstable", "fd_write"),
        ("wasi_snapshot_preview1", "fd_writ"),
        ("sandgate_v1", "channel_sen"),
    ] {
        match import(module, name, "(func)") {
            Rejection::UnknownImport { import, hint } => {
                assert_eq!(import, format!("{module}::{name}"));
                assert!(!hint.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(import("env", "memory", "(memory 1)"), Rejection::UnknownImport { .. }));
    for found in ["sandgate_v2", "sandgate_v0", "sandgate_v"] {
        assert_eq!(
            import(found, "channel_send", "(func)"),
            Rejection::AbiVersion { found: found.to_owned(), supported: "sandgate_v1".to_owned() }
        );
    }
    for item in
        ["(func)", "(func (param i32) (result i64))", "(func (param f32) (result i32))", "(memory 1)", "(global i32)"]
    {
        match import("sandgate_v1", "channel_drop", item) {
            Rejection::InvalidModule { message } => {
                assert!(message.contains("sandgate_v1::channel_drop"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_worker_refuses_artefacts_that_are_not_for_it() {
    let artefact = compile(&wat::parse_str(guest("")).unwrap()).unwrap().artefact;
    for (bytes, sealed, says) in [
        (&artefact[..], false, "sealed"),
        (&artefact[..artefact.len() / 2], true, "another engine"),
        (b"not an artefact at all", true, "another engine"),
        (b"", true, "another engine"),
    ] {
        let mut host = Host::new(1);
        let module = ModuleId([1; 32]);
        host.load_artefact(module, bytes, sealed);
        // Every execution of it hears the same.
        for _ in 0..2 {
            let channel = host.execute(module, Call::default());
            match host.done(channel) {
                Outcome::Rejected { reason: Rejection::Instantiation { message } } => {
                    assert!(message.contains(says), "{message}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_is_called_first_has_to_be_callable() {
    let with = |item: &str| {
        let text = format!(r#"(module {item} (func (export "_start")))"#);
        wat::parse_str(text).unwrap()
    };
    for (item, says) in [
        (r#"(func (export "_initialize") (param i32))"#, "`_initialize` has 1 parameters and 0 results"),
        (
            r#"(func (export "_initialize") (result i32 i64) unreachable)"#,
            "`_initialize` has 0 parameters and 2 results",
        ),
        (r#"(global (export "_initialize") i32 (i32.const 0))"#, "`_initialize` is no function"),
        // An imported one, of a type that it is offered with.
        (
            r#"(import "wasi_snapshot_preview1" "proc_exit" (func $f (param i32))) (export "_initialize" (func $f))"#,
            "`_initialize` has 1 parameters",
        ),
    ] {
        check(&with(item), says);
    }
    compile(&with(r#"(func (export "_initialize"))"#)).unwrap();
}

#[test]
fn references_to_functions_are_a_feature() {
    for text in [
        "(module (type $t (func)) (func (param (ref $t))))",
        "(module (type $t (func)) (table 1 (ref null $t)))",
        "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))",
        "(module (type $t (func)) (global (ref null $t) (ref.null $t)))",
    ] {
        assert_eq!(feature(text, Profile::MINIMAL), ("function-references".to_owned(), false), "{text}");
    }
}
