//! B. Stack: recursion without end is a trap of the guest, and never a crash of the worker.

use std::fmt::Write as _;

use sandgate::TrapKind;

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, row};
use crate::wasm::{bare, program};

#[test]
fn stacks_overflow_in_the_guest_alone() {
    check("B", rows);
}

/// A function with so many parameters, and as many results if `results`, that calls itself.
fn wide(count: usize, results: bool) -> String {
    let (mut parameters, mut arguments, mut zeros) = (String::new(), String::new(), String::new());
    for number in 0..count {
        parameters.push_str(" i64");
        let _ = write!(arguments, "(local.get {number}) ");
        zeros.push_str("(i64.const 1) ");
    }
    let result = if results { format!("(result{parameters})") } else { String::new() };
    let drops = if results { "drop ".repeat(count) } else { String::new() };
    bare(
        &format!("(func $wide (param{parameters}) {result} {arguments} (call $wide))"),
        &format!("{zeros} (call $wide) {drops}"),
    )
}

pub(crate) fn rows() -> Vec<Row> {
    let overflow = TrapKind::StackOverflow;
    let deep_call = |call: &str| program(&format!("(func $deep {call} (call $deep))"), "(call $deep)");
    let mut rows = vec![
        row("direct recursion", bare("(func $f (call $f))", "(call $f)")).trap(overflow),
        row(
            "recursion through call_indirect",
            bare(
                "(type $t (func)) (table 1 funcref) (elem (i32.const 0) $f) (func $f (call_indirect (type $t) (i32.const 0)))",
                "(call $f)",
            ),
        )
        .trap(overflow),
        row("mutual recursion", bare("(func $a (call $b)) (func $b (call $a))", "(call $a)")).trap(overflow),
        row("recursion in start", r#"(module (func $f (call $f)) (func (export "_start")) (start $f))"#).trap(overflow),
        row("_start calls itself", r#"(module (func $f (export "_start") (call $f)))"#).trap(overflow),
        row(
            "many locals in each frame",
            bare(&format!("(func $f (local{}) (call $f))", " i64".repeat(5000)), "(call $f)"),
        )
        .trap(overflow),
        row("1000 parameters", wide(1000, false)).expect(Expected::AnyOf(vec![
            Expected::Trapped(overflow),
            Expected::Rejected(&[]),
        ])),
        row("1000 parameters and results", wide(1000, true)).expect(Expected::AnyOf(vec![
            Expected::Trapped(overflow),
            Expected::Rejected(&[]),
        ])),
        row("100 parameters and results", wide(100, true)).expect(Expected::AnyOf(vec![
            Expected::Trapped(overflow),
            Expected::Rejected(&[]),
        ])),
    ];
    // Each host function somewhere down to the very end of the stack: it needs a stack of its own.
    let send = "(drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0)))";
    let write = "(i32.store (i32.const 4) (i32.const 1)) (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    for (name, call) in [
        ("channel_send", send),
        ("fd_write", write),
        ("random_get", "(drop (call $random_get (i32.const 64) (i32.const 4096)))"),
        ("clock_time_get", "(drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 64)))"),
        ("poll_oneoff", "(drop (call $poll_oneoff (i32.const 256) (i32.const 512) (i32.const 0) (i32.const 64)))"),
        (
            "path_open",
            "(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 64)))",
        ),
        ("environ_get", "(drop (call $environ_get (i32.const 64) (i32.const 256)))"),
        ("channel_new", "(drop (call $channel_drop (call $channel_new)))"),
        ("memory.grow", "(drop (memory.grow (i32.const 0)))"),
    ] {
        rows.push(row(format!("{name} at the deepest point"), deep_call(call)).trap(overflow));
    }
    for (stack, bytes) in [("64K", 64 << 10), ("1M", 1 << 20), ("8M", 8 << 20)] {
        rows.push(
            row(format!("recursion on a stack of {stack}"), deep_call(send))
                .on(format!("stack={stack}"))
                .limit(|limits| limits.stack_bytes = bytes)
                .trap(overflow),
        );
    }
    rows
}
