//! What guests are given: clocks, randomness, directories, arguments and environment; and what a deterministic one is not.

use std::path::Path;
use std::time::Duration;

use sandgate_wire::grants::{Clock, Directory, ExecutionGrants, Random};
use sandgate_wire::limits::LimitName;
use sandgate_wire::message::Codegen;
use sandgate_wire::{Limits, Outcome};

use super::host::*;

const CLOCKS: &str = r#"
    (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_res_get" (func $resolution (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $fill (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $sleep (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $leave (param i32)))
    (import "sandgate_v1" "channel_send" (func $say (param i32 i32 i32 i32 i32 i64) (result i32)))"#;

fn program(body: &str) -> String {
    format!(r#"(module {CLOCKS} (memory (export "memory") 1) (func (export "_start") (local $i i32) {body}))"#)
}

/// Exits with the number of the error that `expression` gives.
fn errno(expression: &str) -> String {
    program(&format!("(call $leave {expression})"))
}

fn with(grants: ExecutionGrants) -> Call {
    Call { grants, ..Call::default() }
}

fn clock(clock: Clock) -> Call {
    with(ExecutionGrants { clock, ..ExecutionGrants::default() })
}

/// What the guest sends, and its outcome.
fn said(text: &str, call: Call) -> (Vec<u8>, Outcome) {
    let mut host = Host::new(1);
    let channel = host.start(text, call);
    let bytes = host.receive_bytes(channel);
    (bytes, host.done(channel))
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
}

/// Both clocks, the first one again, both resolutions, and the second clock after a sleep of 1 ms.
const TIMES: &str = "
    (drop (call $time (i32.const 0) (i64.const 0) (i32.const 1024)))
    (drop (call $time (i32.const 1) (i64.const 0) (i32.const 1032)))
    (drop (call $time (i32.const 0) (i64.const 0) (i32.const 1040)))
    (drop (call $resolution (i32.const 0) (i32.const 1048)))
    (drop (call $resolution (i32.const 1) (i32.const 1056)))
    (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000000))
    (drop (call $sleep (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 48)))
    (drop (call $time (i32.const 1) (i64.const 0) (i32.const 1064)))
    (drop (call $say (i32.const 0) (i32.const 1024) (i32.const 48) (i32.const 0) (i32.const 0) (i64.const -1)))";

#[test]
fn clocks_are_as_coarse_as_they_are_granted() {
    for resolution in [100_000, 1_000_000] {
        let call = clock(Clock::Coarse(Duration::from_nanos(resolution)));
        let (bytes, outcome) = said(&program(TIMES), call);
        let times = numbers(&bytes);
        assert_eq!(outcome, Outcome::Returned);
        assert_eq!(times[3..5], [resolution, resolution]);
        for position in [0, 1, 2, 5] {
            assert_eq!(times[position] % resolution, 0, "{times:?}");
        }
        assert!(times[0] > 1_700_000_000_000_000_000 && times[5] - times[1] >= 1_000_000 - resolution, "{times:?}");
    }
    assert_eq!(Clock::default(), Clock::Coarse(Duration::from_micros(100)));
}

#[test]
fn a_fixed_clock_moves_when_it_is_read_and_when_its_guest_sleeps() {
    let (bytes, _) = said(&program(TIMES), clock(Clock::Fixed { step: 7 }));
    assert_eq!(numbers(&bytes), [0, 7, 14, 7, 7, 1_000_021]);
    // No real time passes, and the guest can still be stopped.
    let mut host = Host::new(1);
    let sleep = "(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const -1))
        (loop $again (drop (call $sleep (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 48)))";
    let once = program(&format!("{sleep})"));
    let channel = host.start(&once, clock(Clock::Fixed { step: 1 }));
    assert_eq!(host.done(channel), Outcome::Returned);
    let after = Duration::from_millis(20);
    let limits = Limits { wall_time: Some(after), ..Limits::default() };
    let for_ever = program(&format!("{sleep} (br $again))"));
    let channel = host.start(&for_ever, Call { limits, ..clock(Clock::Fixed { step: 1 }) });
    assert_eq!(host.done(channel), Outcome::TimedOut { after });
}

#[test]
fn what_is_off_fails_and_other_clocks_do_not_exist() {
    let no_random = ExecutionGrants { random: Random::Off, ..ExecutionGrants::default() };
    let time = |clock: u32| errno(&format!("(call $time (i32.const {clock}) (i64.const 0) (i32.const 0))"));
    let resolution = |clock: u32| errno(&format!("(call $resolution (i32.const {clock}) (i32.const 0))"));
    let random = errno("(call $fill (i32.const 0) (i32.const 8))");
    for (text, call, code) in [
        (time(0), clock(Clock::Off), 58),
        (resolution(1), clock(Clock::Off), 58),
        (time(2), Call::default(), 28),
        (time(3), Call::default(), 28),
        (resolution(u32::MAX), Call::default(), 28),
        (random.clone(), with(no_random), 58),
    ] {
        let mut host = Host::new(1);
        let channel = host.start(&text, call);
        assert_eq!(host.done(channel), Outcome::Exited { code }, "{text}");
    }
    // Without a clock a guest can sleep all the same.
    let sleep = "(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000))
        (call $leave (call $sleep (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 48)))";
    let mut host = Host::new(1);
    let channel = host.start(&program(sleep), clock(Clock::Off));
    assert_eq!(host.done(channel), Outcome::Returned);
}

/// Random numbers, both clocks, and a NaN whose bits are the processor's to choose.
const VARIES: &str = "
    (drop (call $fill (i32.const 1024) (i32.const 40)))
    (drop (call $time (i32.const 0) (i64.const 0) (i32.const 1064)))
    (drop (call $time (i32.const 1) (i64.const 0) (i32.const 1072)))
    (f64.store (i32.const 1080) (f64.div (f64.load (i32.const 0)) (f64.load (i32.const 8))))
    (f64.store (i32.const 1088) (f64.add (f64.reinterpret_i64 (i64.const 0x7ff0000000000001)) (f64.const 1)))
    (drop (call $say (i32.const 0) (i32.const 1024) (i32.const 72) (i32.const 0) (i32.const 0) (i64.const -1)))";

fn deterministic(seed: u64, fuel: Option<u64>) -> Call {
    let grants = ExecutionGrants::deterministic(seed);
    Call { grants, codegen: Codegen::Metered, limits: Limits { fuel, ..Limits::default() }, ..Call::default() }
}

#[test]
fn a_deterministic_guest_says_the_same_every_time() {
    let text = program(VARIES);
    let (first, outcome) = said(&text, deterministic(1, None));
    assert_eq!(outcome, Outcome::Returned);
    assert_eq!(said(&text, deterministic(1, None)).0, first);
    assert_ne!(said(&text, deterministic(2, None)).0, first);
    assert_ne!(said(&text, Call::default()).0, first);
    let canonical = 0x7ff8_0000_0000_0000;
    assert_eq!(numbers(&first)[7..], [canonical, canonical]);
}

#[test]
fn fuel_is_counted_to_the_last_instruction() {
    let text = program(
        "(local.set $i (i32.const 1000)) (loop $again (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
    );
    // The least with which it ends, on each of two workers.
    let least = || {
        let mut host = Host::new(1);
        let module = host.load_for(&text, Codegen::Metered);
        let (mut low, mut high) = (0, 1 << 20);
        while low < high {
            let middle = u64::midpoint(low, high);
            let channel = host.execute(module, deterministic(1, Some(middle)));
            match host.done(channel) {
                Outcome::Returned => high = middle,
                Outcome::LimitExceeded { limit: LimitName::Fuel, value } if value == middle => low = middle + 1,
                other => panic!("{other}"),
            }
        }
        low
    };
    let fuel = least();
    assert!((1000..100_000).contains(&fuel), "{fuel}");
    assert_eq!(least(), fuel);
}

#[test]
fn processor_time_is_limited_and_waiting_takes_none() {
    let cpu_time = Some(Duration::from_millis(50));
    let limits = || Limits { cpu_time, ..Limits::default() };
    let exceeded = Outcome::LimitExceeded { limit: LimitName::CpuTime, value: 50 };
    let mut host = Host::new(2);
    for body in ["(loop $again (br $again))", "(loop $again (drop (call $yield)) (br $again))"] {
        let channel = host.start(&guest(body), Call { limits: limits(), ..Call::default() });
        assert_eq!(host.done(channel), exceeded, "{body}");
    }
    // Waits for longer than that, is asked to answer, and waits again.
    let text = guest(&format!("(drop {SEND_1}) (drop {RECEIVE}) (drop {ECHO}) (drop {RECEIVE})"));
    let waiting = host.start(&text, Call { limits: limits(), ..Call::default() });
    host.receive(waiting);
    let busy = host.start(&guest("(loop $again (br $again))"), Call { limits: limits(), ..Call::default() });
    assert_eq!(host.done(busy), exceeded);
    host.data(waiting, b"x", &[]);
    assert_eq!(host.receive_bytes(waiting), b"x");
    host.data(waiting, b"x", &[]);
    assert_eq!(host.done(waiting), Outcome::Returned);
}

const FILES: &str = r#"
    (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $resize (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;

/// A guest with a path at 1024 and another at 2048. It exits with what `expression` gives.
fn file_guest(path: &str, other: &str, expression: &str) -> String {
    format!(
        r#"(module {FILES} (memory (export "memory") 1) (data (i32.const 1024) "{path}") (data (i32.const 2048) "{other}")
            (func (export "_start") (call $exit {expression})))"#
    )
}

/// Opens the path in this directory, and gives the error's number.
fn open(directory: u32, path: &str, oflags: u32, rights: u64) -> String {
    let length = path.len();
    format!(
        "(call $open (i32.const {directory}) (i32.const 1) (i32.const 1024) (i32.const {length}) (i32.const {oflags}) (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 8))"
    )
}

const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;
const CREATE: u32 = 1;
const TRUNCATE: u32 = 8;

/// A tree of files: `ro` and `rw`, each with `file` and a few ways out, and `canary` beside them.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        for name in ["ro", "rw"] {
            let directory = tree.path(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("file"), "inside").unwrap();
            std::os::unix::fs::symlink("../canary", directory.join("out")).unwrap();
            std::os::unix::fs::symlink(tree.path("canary"), directory.join("absolute")).unwrap();
            std::os::unix::fs::symlink("..", directory.join("up")).unwrap();
        }
        std::fs::write(tree.path("canary"), "secret").unwrap();
        tree
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn grants(&self) -> Vec<Directory> {
        let directory = |name: &str, writable| Directory { host: self.path(name), guest: format!("/{name}"), writable };
        vec![directory("ro", false), directory("rw", true)]
    }

    fn is_untouched(&self) -> bool {
        let is = |name: &str, text: &str| std::fs::read_to_string(self.path(name)).is_ok_and(|found| found == text);
        is("canary", "secret") && is("ro/file", "inside") && std::fs::read_dir(self.path("ro")).unwrap().count() == 4
    }
}

#[test]
fn nothing_granted_is_nothing_reached() {
    for descriptor in 0..6 {
        for path in ["file", "/etc/passwd", "../canary", "/proc/self/environ", "."] {
            let mut host = Host::new(1);
            let channel = host.start(&file_guest(path, "", &open(descriptor, path, 0, READ)), Call::default());
            assert_eq!(host.done(channel), Outcome::Exited { code: 8 }, "{descriptor} {path}");
        }
    }
}

#[test]
fn only_what_lies_beneath_a_directory_is_reached() {
    let tree = Tree::new();
    let mut host = Host::with_directories(tree.grants());
    let mut run = |text: &str| {
        let channel = host.start(text, Call::default());
        host.done(channel)
    };
    // `ro` is 3, `rw` is 4.
    for descriptor in [3, 4] {
        for path in [
            "file",
            "./file",
            "file/",
            "up/canary",
            "out",
            "absolute",
            "../canary",
            "../rw/../canary",
            "/etc/passwd",
            "/proc/self/environ",
            "up/ro/file",
            "file/../../canary",
            "",
        ] {
            let outcome = run(&file_guest(path, "", &open(descriptor, path, 0, READ)));
            let inside = ["file", "./file"].contains(&path);
            assert_eq!(outcome == Outcome::Returned, inside, "{descriptor} {path}: {outcome}");
        }
    }
    // Whatever would change something in `ro`, alone or from `rw`.
    let two = |call: &str| file_guest("file", "other", call);
    for (what, text) in [
        ("write", file_guest("file", "", &open(3, "file", 0, READ | WRITE))),
        ("truncate", file_guest("file", "", &open(3, "file", TRUNCATE, READ))),
        ("truncate for writing", file_guest("file", "", &open(3, "file", TRUNCATE, WRITE))),
        ("create", file_guest("new", "", &open(3, "new", CREATE, READ))),
        ("mkdir", two("(call $mkdir (i32.const 3) (i32.const 2048) (i32.const 5))")),
        ("unlink", two("(call $unlink (i32.const 3) (i32.const 1024) (i32.const 4))")),
        (
            "rename out",
            two(
                "(call $rename (i32.const 3) (i32.const 1024) (i32.const 4) (i32.const 4) (i32.const 2048) (i32.const 5))",
            ),
        ),
        (
            "rename in",
            two(
                "(call $rename (i32.const 4) (i32.const 1024) (i32.const 4) (i32.const 3) (i32.const 2048) (i32.const 5))",
            ),
        ),
        (
            "link in",
            two(
                "(call $link (i32.const 4) (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 3) (i32.const 2048) (i32.const 5))",
            ),
        ),
        (
            "link out",
            two(
                "(call $link (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 4) (i32.const 2048) (i32.const 5))",
            ),
        ),
        ("symlink", two("(call $symlink (i32.const 1024) (i32.const 4) (i32.const 3) (i32.const 2048) (i32.const 5))")),
        (
            "symlink to somewhere absolute",
            file_guest(
                "/etc",
                "other",
                "(call $symlink (i32.const 1024) (i32.const 4) (i32.const 4) (i32.const 2048) (i32.const 5))",
            ),
        ),
        (
            "resize",
            file_guest(
                "file",
                "",
                &format!(
                    "(block (result i32) (drop {}) (call $resize (i32.load (i32.const 8)) (i64.const 0)))",
                    open(3, "file", 0, READ)
                ),
            ),
        ),
    ] {
        let outcome = run(&text);
        assert!(matches!(outcome, Outcome::Exited { code } if code != 0), "{what}: {outcome}");
        assert!(tree.is_untouched(), "{what}");
    }
    // And what is allowed works.
    let write = format!(
        "(block (result i32) (drop {}) (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 3))
            (call $write (i32.load (i32.const 8)) (i32.const 16) (i32.const 1) (i32.const 24)))",
        open(4, "new", CREATE, READ | WRITE)
    );
    assert_eq!(run(&file_guest("new", "", &write)), Outcome::Returned);
    assert_eq!(std::fs::read_to_string(tree.path("rw/new")).unwrap(), "new");
    let read = format!(
        "(block (result i32) (drop {}) (i32.store (i32.const 16) (i32.const 4096)) (i32.store (i32.const 20) (i32.const 100))
            (drop (call $read (i32.load (i32.const 8)) (i32.const 16) (i32.const 1) (i32.const 24))) (i32.load (i32.const 24)))",
        open(3, "file", 0, READ)
    );
    assert_eq!(run(&file_guest("file", "", &read)), Outcome::Exited { code: 6 });
    assert!(tree.is_untouched() && Path::new(&tree.path("rw/file")).exists());
}
