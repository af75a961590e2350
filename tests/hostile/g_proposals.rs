//! G. Proposals: refused by name unless the profile has them, and then bounded like everything else.

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, bytes, row};
use crate::wasm::{Binary, bare, with_memory};

/// A proposal, what it may be called in a rejection, and the smallest modules that need it.
type Proposal = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const START: &str = r#"(func (export "_start"))"#;

/// Those that no profile has.
const NEVER: &[Proposal] = &[
    (
        "threads",
        &["threads", "shared", "atomic"],
        &[
            ("a shared memory", "(memory 1 1 shared)"),
            (
                "an atomic wait for ever",
                "(memory 1 1 shared) (func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))",
            ),
            ("an atomic addition", "(memory 1) (func (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))"),
            ("a fence", "(func (atomic.fence))"),
        ],
    ),
    (
        "exceptions",
        &["exception"],
        &[
            ("a tag", "(tag)"),
            ("a throw", "(tag $t) (func (throw $t))"),
            ("try_table", "(func (try_table))"),
            ("an exception's type", "(func (param exnref))"),
        ],
    ),
    (
        "gc",
        &["gc", "garbage"],
        &[
            ("a struct", "(type (struct (field i32)))"),
            (
                "an array of 2^30",
                "(type $a (array (mut i8))) (func (drop (array.new_default $a (i32.const 0x40000000))))",
            ),
            (
                "a recursive type",
                "(rec (type $a (struct (field (ref null $b)))) (type $b (struct (field (ref null $a)))))",
            ),
            ("i31", "(func (drop (ref.i31 (i32.const 1))))"),
            ("anyref", "(func (param anyref))"),
        ],
    ),
    (
        "function references",
        &["function-ref", "function ref", "gc", "typed"],
        &[
            ("call_ref", "(type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0)))"),
            ("a reference that is not null", "(type $t (func)) (func (param (ref $t)))"),
            ("a typed table", "(type $t (func)) (table 1 (ref null $t))"),
        ],
    ),
    (
        "memory64",
        &["memory64"],
        &[("a memory of 64 bits", "(memory i64 1)"), ("a table of 64 bits", "(table i64 1 funcref)")],
    ),
    (
        "multi-memory",
        &["multi-memory", "multiple memories", "multi_memory"],
        &[("two memories", "(memory 1) (memory 1)")],
    ),
    (
        "custom page sizes",
        &["custom-page", "page size", "page-size"],
        &[("pages of one byte", "(memory 1 (pagesize 1))")],
    ),
    (
        "stack switching",
        &["stack-switching", "stack switching", "continuation"],
        &[("a continuation", "(type $f (func)) (type $c (cont $f))")],
    ),
    (
        "shared everything",
        &["shared-everything", "shared", "threads"],
        &[("a shared global", "(global (shared i32) (i32.const 0))")],
    ),
];

/// Those that a profile has, with the feature's name.
const OFFERED: &[Proposal] = &[
    (
        "simd",
        &["simd"],
        &[
            ("a vector", "(func (drop (v128.const i64x2 1 2)))"),
            ("a vector's type", "(func (param v128))"),
            ("a vector from memory", "(memory 1) (func (drop (v128.load (i32.const 0))))"),
        ],
    ),
    (
        "relaxed-simd",
        &["relaxed-simd", "simd"],
        &[("a relaxed swizzle", "(func (param v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))")],
    ),
    (
        "tail-call",
        &["tail-call"],
        &[
            ("return_call", "(func $f (return_call $f))"),
            (
                "return_call_indirect",
                "(type $t (func)) (table 1 funcref) (func (return_call_indirect (type $t) (i32.const 0)))",
            ),
        ],
    ),
    (
        "wide-arithmetic",
        &["wide-arithmetic"],
        &[(
            "i64.add128",
            "(func (param i64) (result i64 i64) (i64.add128 (local.get 0) (local.get 0) (local.get 0) (local.get 0)))",
        )],
    ),
];

#[test]
fn proposals_are_refused_by_name() {
    check("G", rows);
}

#[test]
fn proposals_that_a_profile_has_are_bounded_like_everything_else() {
    check("G, with a profile", granted);
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (proposals, offered) in [(NEVER, false), (OFFERED, true)] {
        for (proposal, names, modules) in proposals {
            for (name, items) in *modules {
                let expected = Expected::Feature(names, offered);
                rows.push(row(format!("{proposal}: {name}"), format!("(module {items} {START})")).expect(expected));
            }
        }
    }
    // What no profile has is not had by asking for all that there is either.
    for (proposal, names, modules) in NEVER {
        let (name, items) = modules[0];
        rows.push(
            row(format!("{proposal}: {name}, with every feature"), format!("(module {items} {START})"))
                .expect(Expected::Feature(names, false))
                .on("profile=relaxed-simd,tail-call,wide-arithmetic"),
        );
    }
    // Written in bytes, since there is no text for it any more: try, catch_all, end.
    let mut legacy = Binary::new();
    legacy.function(&[], |function| {
        function.raw([0x06, 0x40, 0x19, 0x0b, 0x0b]);
    });
    rows.push(bytes("legacy exceptions", legacy.finish()).rejected(&["exception"]));
    let component = ::wat::parse_str("(component (core module (func)))").expect("a component");
    rows.push(bytes("a component with a module", component).rejected(&["component"]));
    rows
}

fn granted() -> Vec<Row> {
    let mut rows = Vec::new();
    for (proposal, _, modules) in OFFERED {
        for (name, items) in *modules {
            rows.push(
                row(format!("{proposal}: {name}"), format!("(module {items} {START})"))
                    .on(format!("profile={proposal}")),
            );
        }
    }
    let tail = |row: Row| row.on("profile=tail-call").times_out();
    rows.push(tail(row(
        "a loop of tail calls",
        r#"(module (func $f (return_call $f)) (func (export "_start") (return_call $f)))"#,
    )));
    rows.push(tail(row(
        "a loop of indirect tail calls",
        bare(
            "(type $t (func)) (table 1 funcref) (elem (i32.const 0) $f) (func $f (return_call_indirect (type $t) (i32.const 0)))",
            "(call $f)",
        ),
    )));
    rows.push(
        row(
            "a loop of vectors",
            with_memory("1", "", "(loop $l (v128.store (i32.const 0) (i64x2.add (v128.load (i32.const 0)) (v128.const i64x2 1 1))) (br $l))"),
        )
        .on("profile=simd")
        .times_out(),
    );
    rows.push(
        row("a vector past the end", with_memory("1", "", "(drop (v128.load (i32.const 65521)))"))
            .on("profile=simd")
            .trap(sandgate::TrapKind::MemoryOutOfBounds),
    );
    rows
}
