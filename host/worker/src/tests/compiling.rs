//! What the compiler and the loader refuse, and what they say.

use sandgate_wire::outcome::Rejection;
use sandgate_wire::{ModuleId, Outcome};

use super::host::*;
use crate::compile;

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
        (&wat::parse_str("(component)").unwrap(), "component"),
        (&good[..good.len() - 3], "unexpected end"),
        (b"\0asm\x01\0\0\0\xff\xff", ""),
    ] {
        check(bytes, says);
    }
}

#[test]
fn proposals_that_are_off_are_named() {
    for (text, says) in [
        ("(module (memory 1 1 shared))", "threads"),
        ("(module (memory i64 1))", "memory64"),
        ("(module (memory 1) (memory 1))", "multi"),
        ("(module (func $f return_call $f))", "tail call"),
        ("(module (tag))", "exceptions"),
        ("(module (type (struct)))", "gc"),
        (
            "(module (func (param v128) (result v128) local.get 0 local.get 0 local.get 0 f32x4.relaxed_madd))",
            "relaxed SIMD",
        ),
        ("(module (func (param i64 i64) (result i64 i64) local.get 0 local.get 1 i64.mul_wide_u))", "wide arithmetic"),
    ] {
        check(&wat::parse_str(text).unwrap(), says);
    }
    let simd = "(module (func (param v128) (result v128) (i32x4.add (local.get 0) (local.get 0))))";
    assert!(compile(&wat::parse_str(simd).unwrap()).is_ok());
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
