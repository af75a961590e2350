//! F. WASI: sleeps, floods, exits, and everything that was not granted.

use std::time::Duration;

use sandgate::TrapKind;

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, row};
use crate::visit;
use crate::wasm::{program, with_memory};

#[test]
fn wasi_waits_and_prints_within_bounds() {
    check("F, waiting and printing", || [waiting(), printing()].into_iter().flatten().collect());
}

#[test]
fn exits_end_the_task_alone() {
    check("F, exits", exits);
}

#[test]
fn nothing_is_there_that_was_not_granted() {
    check("F, grants", grants);
}

/// A subscription to a clock at `address`, so many nanoseconds from now.
fn clock(address: u32, nanoseconds: &str) -> String {
    format!(
        "(i32.store8 (i32.const {}) (i32.const 0)) (i32.store (i32.const {}) (i32.const 1)) (i64.store (i32.const {}) (i64.const {nanoseconds}))",
        address + 8,
        address + 16,
        address + 24,
    )
}

fn waiting() -> Vec<Row> {
    let body = |text: &str| program("", text);
    let poll = "(drop (call $poll_oneoff (i32.const 0) (i32.const 4096) (i32.const 1) (i32.const 8192)))";
    vec![
        row("sleep for 2^64-1 ns", body(&format!("{} {poll}", clock(0, "-1")))).times_out(),
        row(
            "sleep for 1000 s, killed",
            body(&format!("(call $say (i32.const 8192)) {} {poll}", clock(0, "1000000000000"))),
        )
        .host(visit::kills_once_it_speaks)
        .expect(Expected::Killed),
        row("sleep for nothing", body(&format!("{} {poll}", clock(0, "0")))),
        row(
            "a subscription to input that never comes",
            body(&format!("(i32.store8 (i32.const 8) (i32.const 1)) {poll}")),
        )
        .expect(Expected::AnyOf(vec![Expected::Returned, Expected::TimedOut]))
        .timeout(Duration::from_millis(100)),
        row(
            "poll without subscriptions",
            body(
                "(if (i32.eqz (call $poll_oneoff (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 8192))) (then unreachable))",
            ),
        ),
        row(
            "poll with a million subscriptions",
            with_memory(
                "1400",
                "",
                "(drop (call $poll_oneoff (i32.const 0) (i32.const 48000000) (i32.const 1000000) (i32.const 81000000)))",
            ),
        ),
        row(
            "poll with 2^32-1 subscriptions",
            body(
                "(if (i32.eqz (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0))) (then unreachable))",
            ),
        ),
        row("a sched_yield loop", body("(loop $l (drop (call $sched_yield)) (br $l))")).times_out(),
        row(
            "a loop of clocks",
            body("(loop $l (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 0))) (br $l))"),
        )
        .times_out(),
        row("a loop of short sleeps", body(&format!("(loop $l {} {poll} (br $l))", clock(0, "1000")))).times_out(),
        row(
            "random_get of all that there is",
            with_memory(
                "16384",
                "",
                "(loop $l (drop (call $random_get (i32.const 0) (i32.const 0x40000000))) (br $l))",
            ),
        )
        .times_out(),
        row("random_get of 4 GiB", body("(call $want (call $random_get (i32.const 0) (i32.const -1)) (i32.const 21))")),
    ]
}

fn printing() -> Vec<Row> {
    let write = |descriptor: u32, length: u32| {
        format!(
            "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {length}))
             (call $want (call $fd_write (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.const 0))"
        )
    };
    let times = |count: u32, what: &str| {
        format!(
            "(local.set $i (i32.const {count}))
             (loop $l {what} (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
        )
    };
    let mut rows = Vec::new();
    for (name, descriptor) in [("stdout", 1), ("stderr", 2)] {
        rows.push(row(
            format!("a flood of {name} in 1-byte writes"),
            program("", &times(50_000, &write(descriptor, 1))),
        ));
        rows.push(row(format!("1 GB of {name}"), with_memory("16", "", &times(1000, &write(descriptor, 1_000_000)))));
        rows.push(
            row(format!("{name} for ever"), program("", &format!("(loop $l {} (br $l))", write(descriptor, 1))))
                .times_out(),
        );
    }
    rows.push(row(
        "1024 buffers of nothing",
        program(
            "",
            "(memory.fill (i32.const 0) (i32.const 0) (i32.const 8192))
         (call $want (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1024) (i32.const 8192)) (i32.const 0))",
        ),
    ));
    rows.push(row(
        "the same memory in 1000 buffers",
        with_memory(
            "32",
            "",
            "(loop $l
            (i32.store (i32.mul (local.get $i) (i32.const 8)) (i32.const 65536))
            (i32.store offset=4 (i32.mul (local.get $i) (i32.const 8)) (i32.const 1000000))
            (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
         (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1000) (i32.const 10000)))",
        ),
    ));
    rows.push(row(
        "escapes of a terminal",
        with_memory("1", r#"(data (i32.const 64) "\1b]0;owned\07\1b[31m\r\n\00\ff\fe")"#, &write(1, 17)),
    ));
    rows
}

fn exits() -> Vec<Row> {
    let mut rows = Vec::new();
    for (code, expected) in [
        (0, Expected::Returned),
        (1, Expected::Exited(1)),
        (255, Expected::Exited(255)),
        (-1, Expected::Exited(-1)),
        (i32::MIN, Expected::Exited(i32::MIN)),
    ] {
        rows.push(
            row(format!("exit {code}"), program("", &format!("(call $proc_exit (i32.const {code}))")))
                .expect(expected.clone()),
        );
        let nested = "(func $down (param $depth i32) (param $code i32)
            (if (i32.eqz (local.get $depth)) (then (call $proc_exit (local.get $code))))
            (call $down (i32.sub (local.get $depth) (i32.const 1)) (local.get $code)))";
        rows.push(
            row(
                format!("exit {code} from nested calls"),
                program(nested, &format!("(call $down (i32.const 500) (i32.const {code}))")),
            )
            .expect(expected.clone()),
        );
        rows.push(
            row(
                format!("exit {code} in start"),
                program(&format!("(func $s (call $proc_exit (i32.const {code}))) (start $s)"), ""),
            )
            .expect(expected),
        );
    }
    rows.push(row("an abort", program("", "unreachable")).trap(TrapKind::Unreachable));
    rows.push(
        row(
            "a panic, as the SDK reports it",
            program(
                r#"(data (i32.const 0) "src/main.rs:1:2\0athe guest panics")"#,
                "(drop (call $task_report (i32.const 2) (i32.const 0) (i32.const 32))) unreachable",
            ),
        )
        .expect(Expected::Panicked("the guest panics")),
    );
    rows.push(
        row(
            "a panic with escapes in it",
            program(
                r#"(data (i32.const 0) "\1b[31m:1:2\0a\1b]0;owned\07")"#,
                "(drop (call $task_report (i32.const 2) (i32.const 0) (i32.const 20))) unreachable",
            ),
        )
        .expect(Expected::Panicked("")),
    );
    rows.push(
        row("proc_raise", program("", "(drop (call $proc_raise (i32.const 9)))"))
            .expect(Expected::AnyOf(vec![Expected::Returned, Expected::Trapped(TrapKind::Other)])),
    );
    rows
}

/// Nothing granted: no environment, no directory, no way to either.
fn grants() -> Vec<Row> {
    let mut rows = vec![
        row(
            "the environment is empty",
            program(
                "",
                "(call $want (call $environ_sizes_get (i32.const 0) (i32.const 4)) (i32.const 0))
             (if (i32.or (i32.load (i32.const 0)) (i32.load (i32.const 4))) (then (call $proc_exit (i32.const 66))))",
            ),
        ),
        row(
            "the arguments are the module's name alone",
            program(
                "",
                "(call $want (call $args_sizes_get (i32.const 0) (i32.const 4)) (i32.const 0))
             (if (i32.ne (i32.load (i32.const 0)) (i32.const 1)) (then (call $proc_exit (i32.const 66))))",
            ),
        ),
        row(
            "the environment holds what was given",
            program(
                "",
                "(call $want (call $environ_sizes_get (i32.const 0) (i32.const 4)) (i32.const 0))
             (if (i32.ne (i32.load (i32.const 0)) (i32.const 1)) (then (call $proc_exit (i32.const 66))))
             (if (i32.ne (i32.load (i32.const 4)) (i32.const 4)) (then (call $proc_exit (i32.const 67))))",
            ),
        )
        .on("env:A=b"),
    ];
    // Whatever descriptor and path it names, none of them is there.
    for path in
        ["/etc/passwd", "..", "../..", "/", ".", "", "/proc/self/environ", "/proc/self/fd/0", "/dev/null", "a/../../b"]
    {
        let length = path.len();
        let opens = format!(
            r#"(local.set $i (i32.const 0))
               (loop $l
                 (if (i32.eqz (call $path_open (local.get $i) (i32.const 1) (i32.const 0) (i32.const {length}) (i32.const 0)
                        (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 1024)))
                   (then (call $proc_exit (i32.const 66))))
                 (if (i32.eqz (call $path_filestat_get (local.get $i) (i32.const 1) (i32.const 0) (i32.const {length}) (i32.const 1024)))
                   (then (call $proc_exit (i32.const 67))))
                 (if (i32.eqz (call $path_unlink_file (local.get $i) (i32.const 0) (i32.const {length})))
                   (then (call $proc_exit (i32.const 68))))
                 (if (i32.eqz (call $path_create_directory (local.get $i) (i32.const 0) (i32.const {length})))
                   (then (call $proc_exit (i32.const 69))))
                 (if (i32.eqz (call $path_readlink (local.get $i) (i32.const 0) (i32.const {length}) (i32.const 1024) (i32.const 100) (i32.const 2048)))
                   (then (call $proc_exit (i32.const 70))))
                 (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 64))))"#
        );
        rows.push(row(
            format!("`{path}` with nothing granted"),
            program(&format!(r#"(data (i32.const 0) "{path}")"#), &opens),
        ));
    }
    rows.push(row(
        "no descriptor but 0 to 2",
        program(
            "",
            "(local.set $i (i32.const 3))
         (loop $l
            (if (i32.eqz (call $fd_prestat_get (local.get $i) (i32.const 0))) (then (call $proc_exit (i32.const 66))))
            (if (i32.eqz (call $fd_fdstat_get (local.get $i) (i32.const 0))) (then (call $proc_exit (i32.const 67))))
            (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4096))))",
        ),
    ));
    rows.push(row("no socket", program(
        "",
        "(if (i32.eqz (call $sock_accept (i32.const 0) (i32.const 0) (i32.const 0))) (then (call $proc_exit (i32.const 66))))
         (if (i32.eqz (call $sock_send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))) (then (call $proc_exit (i32.const 67))))",
    )));
    rows
}
