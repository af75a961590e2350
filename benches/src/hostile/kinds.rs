//! Guests that have to be stopped, a kind for each state in which a guest can be, and some that end by themselves.

use sandgate::Module;

use anyhow::Result;

/// A hostile guest.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// As text: the imports it needs, its memory in pages, and the code of its `_start`.
    imports: &'static [Import],
    pages: u32,
    items: &'static str,
    code: &'static str,
    /// Whether it runs until it is stopped.
    pub(crate) endless: bool,
}

/// A function that a guest imports, with its type.
type Import = &'static str;

const SEND: Import =
    r#"(import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))"#;
const RECEIVE: Import =
    r#"(import "sandgate_v1" "channel_receive" (func $receive (param i32 i32 i32 i32 i32 i32 i64) (result i32)))"#;
const NEW: Import = r#"(import "sandgate_v1" "channel_new" (func $new (result i32)))"#;
const DROP: Import = r#"(import "sandgate_v1" "channel_drop" (func $drop (param i32) (result i32)))"#;
const WRITE: Import =
    r#"(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;
const POLL: Import =
    r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))"#;
const RANDOM: Import = r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
const YIELD: Import = r#"(import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))"#;
const TIME: Import =
    r#"(import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))"#;
const EXIT: Import = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;

const fn endless(
    name: &'static str,
    imports: &'static [Import],
    pages: u32,
    items: &'static str,
    code: &'static str,
) -> Kind {
    Kind { name, imports, pages, items, code, endless: true }
}

const fn brief(name: &'static str, imports: &'static [Import], items: &'static str, code: &'static str) -> Kind {
    Kind { name, imports, pages: 1, items, code, endless: false }
}

/// All of memory, where a kind is about that: 1 GiB, the default limit.
const ALL_PAGES: u32 = 16_384;

/// Those that run until they are stopped.
pub(crate) const ENDLESS: &[Kind] = &[
    endless("loop", &[], 1, "", "(loop $l (br $l))"),
    endless("loop in start", &[], 1, "(func $s (loop $l (br $l))) (start $s)", ""),
    endless("br_table", &[], 1, "", "(loop $l (br_table $l $l $l (local.get $i)))"),
    endless(
        "memory.fill of 1 GiB",
        &[],
        ALL_PAGES,
        "",
        "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x40000000)) (br $l))",
    ),
    endless(
        "memory.copy of 1 GiB",
        &[],
        ALL_PAGES,
        "",
        "(loop $l (memory.copy (i32.const 1) (i32.const 0) (i32.const 0x3fffffff)) (br $l))",
    ),
    endless(
        "stores to 1 GiB",
        &[],
        ALL_PAGES,
        "",
        "(loop $l
            (i32.store8 (i32.and (local.get $i) (i32.const 0x3fffffff)) (i32.const 1))
            (local.set $i (i32.add (local.get $i) (i32.const 4096)))
            (br $l))",
    ),
    endless(
        "table.fill",
        &[],
        1,
        "(table $t 100000 funcref)",
        "(loop $l (table.fill $t (i32.const 0) (ref.null func) (i32.const 100000)) (br $l))",
    ),
    endless(
        "sleep",
        &[POLL],
        1,
        "",
        "(i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 1000000000000))
         (drop (call $poll (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 2048)))",
    ),
    endless(
        "receive",
        &[RECEIVE],
        1,
        "",
        "(drop (call $receive (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 64) (i64.const -1)))",
    ),
    endless(
        "send without credit",
        &[SEND],
        1,
        "",
        "(loop $l (drop (call $send (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 0) (i64.const -1))) (br $l))",
    ),
    endless(
        "send of 64 MiB",
        &[SEND],
        1024,
        "",
        "(loop $l (drop (call $send (i32.const 0) (i32.const 0) (i32.const 0x4000000) (i32.const 0) (i32.const 0) (i64.const -1))) (br $l))",
    ),
    endless("sched_yield storm", &[YIELD], 1, "", "(loop $l (drop (call $yield)) (br $l))"),
    endless(
        "clock storm",
        &[TIME],
        1,
        "",
        "(loop $l (drop (call $time (i32.const 1) (i64.const 0) (i32.const 0))) (br $l))",
    ),
    endless("channels made and dropped", &[NEW, DROP], 1, "", "(loop $l (drop (call $drop (call $new))) (br $l))"),
    endless(
        "1-byte writes",
        &[WRITE],
        1,
        "",
        "(i32.store (i32.const 4) (i32.const 1))
         (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))",
    ),
    endless(
        "deep recursion",
        &[],
        1,
        "(func $deep (param $n i32)
            (if (local.get $n) (then (call $deep (i32.sub (local.get $n) (i32.const 1)))) (else (loop $l (br $l)))))",
        "(call $deep (i32.const 10000))",
    ),
    endless(
        "recursion again and again",
        &[],
        1,
        "(func $deep (param $n i32)
            (if (local.get $n) (then (call $deep (i32.sub (local.get $n) (i32.const 1))))))",
        "(loop $l (call $deep (i32.const 10000)) (br $l))",
    ),
    endless(
        "random_get of 1 GiB",
        &[RANDOM],
        ALL_PAGES,
        "",
        "(loop $l (drop (call $random (i32.const 0) (i32.const 0x40000000))) (br $l))",
    ),
    endless(
        "host calls that fail",
        &[RANDOM],
        1,
        "",
        "(loop $l (drop (call $random (i32.const -1) (i32.const -1))) (br $l))",
    ),
    endless("memory.grow that is denied", &[], 1, "", "(loop $l (drop (memory.grow (i32.const 1000))) (br $l))"),
];

/// Those that end by themselves, at once.
pub(crate) const BRIEF: &[Kind] = &[
    brief("returns", &[], "", ""),
    brief("unreachable", &[], "", "unreachable"),
    brief("stack overflow", &[], "(func $f (call $f))", "(call $f)"),
    brief("out of bounds", &[], "", "(drop (i32.load (i32.const -1)))"),
    brief("division by zero", &[], "", "(drop (i32.div_u (i32.const 1) (i32.const 0)))"),
    brief("null", &[], "(table 1 funcref) (type $t (func))", "(call_indirect (type $t) (i32.const 0))"),
    brief("exit", &[EXIT], "", "(call $exit (i32.const 3))"),
    brief("trap in start", &[], "(func $s unreachable) (start $s)", ""),
    brief(
        "touches 16 MiB and traps",
        &[],
        "",
        "(drop (memory.grow (i32.const 255))) (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x1000000)) unreachable",
    ),
    brief(
        "sends and traps",
        &[SEND],
        "",
        "(drop (call $send (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 0) (i64.const -1))) unreachable",
    ),
    brief(
        "forged pointers",
        &[SEND],
        "",
        "(drop (call $send (i32.const 0) (i32.const -1) (i32.const -1) (i32.const -1) (i32.const -1) (i64.const 0)))",
    ),
    brief("all the channels it may have", &[NEW], "", "(loop $l (br_if $l (i32.ge_s (call $new) (i32.const 0))))"),
];

impl Kind {
    pub(crate) fn module(&self) -> Result<Module> {
        let Kind { imports, pages, items, code, .. } = self;
        let imports = imports.concat();
        let text = format!(
            r#"(module {imports} (memory (export "memory") {pages}) {items} (func (export "_start") (local $i i32) {code}))"#
        );
        Ok(Module::from_bytes(wat::parse_str(text)?)?)
    }
}
