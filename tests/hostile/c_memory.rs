//! C. Memory and tables: growth ends at the limit, nothing is out of bounds, and nothing is left for the next task.

use sandgate::{LimitName, TrapKind};

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, row};
use crate::wasm::{bare, program, with_memory};

#[test]
fn memory_and_tables_end_at_their_limits() {
    check("C", rows);
}

/// Ends with an exit code unless memory from `$from` to `$to` is zero.
const ALL_ZERO: &str = "(func $zero (param $from i32) (param $to i32)
    (loop $l
        (if (i64.ne (i64.load (local.get $from)) (i64.const 0)) (then (call $proc_exit (i32.const 66))))
        (br_if $l (i32.lt_u (local.tee $from (i32.add (local.get $from) (i32.const 8))) (local.get $to)))))";

/// A task that looks whether memory, table and globals are new, spoils all of them, and ends with `ending`.
fn spoils(ending: &str) -> String {
    let items = format!(
        "{ALL_ZERO} (global $g (mut i32) (i32.const 41)) (table $t 4 funcref) (elem declare func $zero)
         (data (i32.const 8) \"initial\")"
    );
    let body = format!(
        r#"
        (if (i32.ne (global.get $g) (i32.const 41)) (then (call $proc_exit (i32.const 67))))
        (if (i32.ne (table.size $t) (i32.const 4)) (then (call $proc_exit (i32.const 68))))
        (if (i32.eqz (ref.is_null (table.get $t (i32.const 1)))) (then (call $proc_exit (i32.const 69))))
        (if (i64.ne (i64.load (i32.const 8)) (i64.const 0x006c616974696e69)) (then (call $proc_exit (i32.const 70))))
        (call $zero (i32.const 16) (i32.const 65536))
        (if (i32.ne (memory.grow (i32.const 63)) (i32.const 1)) (then (call $proc_exit (i32.const 71))))
        (call $zero (i32.const 65536) (i32.const 4194304))
        (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const 4194304))
        (drop (table.grow $t (ref.func $zero) (i32.const 100)))
        (table.fill $t (i32.const 0) (ref.func $zero) (i32.const 104))
        (global.set $g (i32.const 7))
        {ending}"#
    );
    with_memory("1", &items, &body)
}

pub(crate) fn rows() -> Vec<Row> {
    let (memory, table) = (TrapKind::MemoryOutOfBounds, TrapKind::TableOutOfBounds);
    let grows_until_denied = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    let small = |row: Row| row.limit(|limits| limits.memory_bytes = 4 << 20);
    let mut rows = vec![
        small(row(
            "memory.grow to the limit gets -1 and goes on",
            program("", &format!("{grows_until_denied} (call $say (i32.const 0))")),
        ))
        .says(&[b"\0\0\0\0"]),
        small(row("a declared minimum above the limit", with_memory("65", "", ""))).expect(Expected::Limit(LimitName::Memory)),
        row("65,536 pages as the minimum", with_memory("65536", "", "")).expect(Expected::Limit(LimitName::Memory)),
        row(
            "all 65,536 pages at once",
            program("", "(call $want (memory.grow (i32.const 65535)) (i32.const -1)) (call $want (memory.grow (i32.const -1)) (i32.const -1))"),
        ),
        row(
            "touching every granted page",
            program(
                "",
                "(call $want (memory.grow (i32.const 16383)) (i32.const 1))
                 (loop $l
                    (i32.store (local.get $i) (i32.const 1))
                    (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4096))) (i32.const 0x40000000))))",
            ),
        ),
        row(
            "table.grow by 2^32-1",
            bare("(table $t 0 funcref)", "(if (i32.ne (table.grow $t (ref.null func) (i32.const -1)) (i32.const -1)) (then unreachable))"),
        ),
        row(
            "table.grow to the limit gets -1 and goes on",
            bare(
                "(table $t 0 funcref)",
                "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
                 (if (i32.ne (table.size $t) (i32.const 100000)) (then unreachable))",
            ),
        ),
        row("a table of 2^32-1 elements", bare("(table 0xffffffff funcref)", "")).expect(Expected::AnyOf(vec![
            Expected::Limit(LimitName::Table),
            Expected::Limit(LimitName::Memory),
            Expected::Rejected(&["table"]),
        ])),
        row("many tables", bare(&"(table 100000 funcref)".repeat(60), "")).expect(Expected::AnyOf(vec![
            Expected::Limit(LimitName::Table),
            Expected::Limit(LimitName::Memory),
            Expected::Rejected(&["table"]),
        ])),
        row("no memory at all", bare("", "")),
        row("a memory of no pages", r#"(module (memory (export "memory") 0) (func (export "_start") (drop (i32.load (i32.const 0)))))"#)
            .trap(memory),
    ];
    for (name, code) in [
        ("i64.load at the top with an offset", "(drop (i64.load offset=0xffffffff (i32.const -1)))"),
        ("i32.store at the top", "(i32.store (i32.const -1) (i32.const 1))"),
        ("i32.store8 one past the end", "(i32.store8 (i32.const 65536) (i32.const 1))"),
        ("i64.load across the end", "(drop (i64.load (i32.const 65529)))"),
        ("i32.load with a large offset", "(drop (i32.load offset=0x80000000 (i32.const 0x80000000)))"),
        ("memory.fill across the end", "(memory.fill (i32.const 65000) (i32.const 1) (i32.const 1000))"),
        ("memory.fill of everything", "(memory.fill (i32.const 0) (i32.const 1) (i32.const -1))"),
        ("memory.fill of nothing past the end", "(memory.fill (i32.const 65537) (i32.const 1) (i32.const 0))"),
        ("memory.copy from past the end", "(memory.copy (i32.const 0) (i32.const 65535) (i32.const 2))"),
        ("memory.copy to past the end", "(memory.copy (i32.const -1) (i32.const 0) (i32.const 2))"),
    ] {
        rows.push(row(name, with_memory("1", "", code)).trap(memory));
    }
    rows.push(
        row(
            "memory.init past its segment",
            r#"(module (memory (export "memory") 1) (data $d "abc")
                (func (export "_start") (memory.init $d (i32.const 0) (i32.const 1) (i32.const 3))))"#,
        )
        .trap(memory),
    );
    for (name, code) in [
        ("table.get past the end", "(drop (table.get $t (i32.const 9)))"),
        ("table.fill across the end", "(table.fill $t (i32.const 1) (ref.null func) (i32.const -1))"),
        ("table.copy across the end", "(table.copy $t $t (i32.const 1) (i32.const 0) (i32.const 9))"),
    ] {
        rows.push(row(name, bare("(table $t 9 funcref)", code)).trap(table));
    }
    // The same module again and again: each time it finds what a first task would.
    for round in 1..=2 {
        rows.push(row(format!("spoils everything and returns, {round}"), spoils("")));
        rows.push(
            row(format!("spoils everything and traps, {round}"), spoils("unreachable")).trap(TrapKind::Unreachable),
        );
        rows.push(
            row(format!("spoils everything and exits, {round}"), spoils("(call $proc_exit (i32.const 3))"))
                .expect(Expected::Exited(3)),
        );
        rows.push(
            row(
                format!("spoils everything and is killed, {round}"),
                spoils("(call $say (i32.const 0)) (loop $l (br $l))"),
            )
            .host(crate::visit::kills_once_it_speaks)
            .expect(Expected::Killed),
        );
        rows.push(row(format!("spoils everything and times out, {round}"), spoils("(loop $l (br $l))")).times_out());
    }
    rows.push(row("finds a fresh instance", spoils("")));
    rows
}
