//! A. Control flow: guests that do not end by themselves, one kind of code each.

use std::time::Duration;

use sandgate::TrapKind;

use crate::house::check;
use crate::row::{Row, guest, row};
use crate::visit;
use crate::wasm::{bare, program, with_memory};

#[test]
fn guests_that_do_not_end_are_stopped() {
    check("A", rows);
}

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row("loop br 0", bare("", "(loop $l (br $l))")).times_out(),
        row(
            "mutual recursion without memory",
            bare(
                "(func $a (param i32) (result i32) (if (result i32) (local.get 0) (then (call $b (local.get 0))) (else (i32.const 0))))
                 (func $b (param i32) (result i32) (call $a (i32.sub (local.get 0) (i32.const 1))))",
                "(loop $l (drop (call $a (i32.const 500))) (br $l))",
            ),
        )
        .times_out(),
        row("a loop in start", r#"(module (func $s (loop $l (br $l))) (func (export "_start")) (start $s))"#).times_out(),
        row(
            "a loop in _initialize",
            r#"(module (func (export "_initialize") (loop $l (br $l))) (func (export "_start")))"#,
        )
        .times_out(),
        row("a loop in a task", r#"(module (func (export "sandgate_task:spin") (loop $l (br $l))))"#)
            .task("spin")
            .times_out(),
        row("br_table", bare("", "(loop $l (br_table $l $l $l (local.get $i)))")).times_out(),
        row("br_if", bare("", "(loop $l (br_if $l (i32.eqz (local.get $i))))")).times_out(),
        row("call in a loop", bare("(func $f)", "(loop $l (call $f) (br $l))")).times_out(),
        row(
            "call_indirect in a loop",
            bare(
                "(type $t (func)) (table 1 funcref) (elem (i32.const 0) $f) (func $f)",
                "(loop $l (call_indirect (type $t) (i32.const 0)) (br $l))",
            ),
        )
        .times_out(),
        // About as long as its deadline: it is one or the other, and nothing in between.
        row(
            "nested loops that end at the deadline",
            program(
                "",
                "(call $want (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0)) (i32.const 0))
                 (local.set $n (i64.add (i64.load (i32.const 0)) (i64.const 50000000)))
                 (loop $outer
                    (local.set $i (i32.const 1000))
                    (loop $inner (br_if $inner (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
                    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0)))
                    (br_if $outer (i64.lt_u (i64.load (i32.const 0)) (local.get $n))))",
            ),
        )
        .timeout(Duration::from_millis(50))
        .expect(crate::expected::Expected::AnyOf(vec![
            crate::expected::Expected::TimedOut,
            crate::expected::Expected::Returned,
        ])),
        row(
            "memory.fill over all of memory",
            with_memory("16384", "", "(loop $l (memory.fill (i32.const 0) (local.get $i) (i32.const 0x40000000)) (br $l))"),
        )
        .times_out(),
        row(
            "memory.copy over all of memory",
            with_memory(
                "16384",
                "",
                "(loop $l (memory.copy (i32.const 1) (i32.const 0) (i32.const 0x3fffffff)) (br $l))",
            ),
        )
        .times_out(),
        row(
            "table.fill over all of the table",
            bare(
                "(table $t 100000 funcref)",
                "(loop $l (table.fill $t (i32.const 0) (ref.null func) (i32.const 100000)) (br $l))",
            ),
        )
        .times_out(),
        row(
            "memory.grow and nothing else",
            with_memory("1", "", "(loop $l (drop (memory.grow (i32.const 1))) (br $l))"),
        )
        .times_out(),
        // A trap ends a task; what can be had in a loop are host calls that fail.
        row(
            "host calls that fail in a loop",
            program(
                "",
                "(loop $l
                    (call $want (call $channel_drop (i32.const 77)) (i32.const -4))
                    (call $want (call $channel_send (i32.const 0) (i32.const -1) (i32.const 9) (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const -5))
                    (br $l))",
            ),
        )
        .times_out(),
        row("a trap after a host call", program("", "(drop (call $sched_yield)) unreachable")).trap(TrapKind::Unreachable),
        row(
            "a task that ignores a cooperative end",
            program(
                "",
                "(loop $l
                    (drop (call $channel_receive (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 0) (i32.const 32) (i64.const 1000000)))
                    (br $l))",
            ),
        )
        .host(visit::closes)
        .times_out(),
        row("a busy loop while the host floods it", bare("", "(loop $l (br $l))")).host(visit::floods).times_out(),
        guest("spin").called("a kill while it computes").host(visit::kills).expect(crate::expected::Expected::Killed),
        row("stores to every page in a loop", with_memory(
            "1024",
            "",
            "(loop $l
                (i32.store (i32.and (local.get $i) (i32.const 0x3fff000)) (local.get $i))
                (local.set $i (i32.add (local.get $i) (i32.const 4096)))
                (br $l))",
        ))
        .times_out(),
        row("float arithmetic in a loop", r#"(module (func (export "_start") (local $x f64)
            (loop $l (local.set $x (f64.sqrt (f64.add (local.get $x) (f64.const 1)))) (br $l))))"#)
        .times_out(),
    ]
}
