//! Limits as a whole: where they are set, what is refused, and what becomes of a worker that does not keep them.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate::{Call, Channel, ExecError, LimitName, Limits, LossCause, Module, Outcome, WaitError};
use sandgate_tests::{LIMIT, Watched, builder, group, spec, wat};

#[track_caller]
fn outcome(channel: &Channel) -> Outcome {
    match channel.wait_close_timeout(LIMIT) {
        Ok(()) | Err(WaitError::Ended(_)) => channel.outcome().expect("it has ended"),
        Err(error) => panic!("{error}"),
    }
}

fn endless() -> Module {
    wat(r#"(module (func (export "_start") (loop $again (br $again))))"#)
}

/// Sends one byte, and then computes for ever.
fn says_and_computes() -> Module {
    wat(r#"(module (import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (drop (call $send (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i64.const -1)))
                (loop $again (br $again))))"#)
}

/// Makes two channels, and exits with the negated status of the second.
fn two_channels() -> Module {
    wat(r#"(module (import "sandgate_v1" "channel_new" (func $new (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (func (export "_start") (drop (call $new)) (call $exit (i32.sub (i32.const 0) (call $new)))))"#)
}

#[test]
fn each_limit_is_set_in_three_places_and_says_so() {
    let exceeded = |limit, value| Outcome::LimitExceeded { limit, value };
    let ms = Duration::from_millis;
    let large = || wat(r#"(module (memory 32) (func (export "_start")))"#);
    let table = || wat(r#"(module (table 50 funcref) (func (export "_start")))"#);
    let cases: [(&str, Limits, Module, Outcome, &str); 6] = [
        (
            "memory=1M",
            Limits { memory_bytes: 1 << 20, ..Limits::default() },
            large(),
            exceeded(LimitName::Memory, 1 << 20),
            "memory=",
        ),
        (
            "table=10",
            Limits { table_elements: 10, ..Limits::default() },
            table(),
            exceeded(LimitName::Table, 10),
            "table=",
        ),
        (
            "timeout=50ms",
            Limits { wall_time: Some(ms(50)), ..Limits::default() },
            endless(),
            Outcome::TimedOut { after: ms(50) },
            "timeout=",
        ),
        (
            "cpu=50ms",
            Limits { cpu_time: Some(ms(50)), ..Limits::default() },
            endless(),
            exceeded(LimitName::CpuTime, 50),
            "cpu=",
        ),
        (
            "fuel=1000",
            Limits { fuel: Some(1000), ..Limits::default() },
            endless(),
            exceeded(LimitName::Fuel, 1000),
            "fuel=",
        ),
        ("channels=2", Limits { channels: 2, ..Limits::default() }, two_channels(), Outcome::Exited { code: 7 }, ""),
    ];
    for (text, limits, module, expected, setting) in cases {
        let by_group = builder().defaults(spec(&format!("popen//{text}"))).build();
        let gateway = by_group.make_gateway(spec("popen")).unwrap();
        assert_eq!(outcome(&gateway.remote_exec(&module).unwrap()), expected, "{text} of the group");
        let by_spec = group(&[&*format!("popen//{text}")]);
        assert_eq!(outcome(&by_spec[0].remote_exec(&module).unwrap()), expected, "{text} of the gateway");
        let by_call = group(&["popen"]);
        let channel = by_call[0].remote_exec_with(&module, &Call::start().limits(limits)).unwrap();
        assert_eq!(outcome(&channel), expected, "{text} of the call");
        assert!(expected.to_string().contains(setting), "{expected}");
    }
}

#[test]
fn a_call_cannot_ask_for_more_than_its_worker_has_room_for() {
    let group = group(&["popen//memory=16M//stack=256K"]);
    let own = group[0].spec().limits().clone();
    for (limits, limit, asked, allowed) in [
        (Limits { memory_bytes: 17 << 20, ..own.clone() }, LimitName::Memory, 17 << 20, 16 << 20),
        (Limits { stack_bytes: 1 << 20, ..own.clone() }, LimitName::Stack, 1 << 20, 256 << 10),
        (Limits { table_elements: 1_000_001, ..own.clone() }, LimitName::Table, 1_000_001, 1_000_000),
    ] {
        match group[0].remote_exec_with(&endless(), &Call::start().limits(limits)) {
            Err(error @ ExecError::LimitTooHigh { .. }) => {
                let text = error.to_string();
                for part in [&asked.to_string(), &allowed.to_string(), limit.setting(), "gw0"] {
                    assert!(text.contains(part), "{text}");
                }
            }
            other => panic!("{limit}: {other:?}"),
        }
    }
}

/// A worker that cannot stop its guest is killed: the guest's outcome is its own, its siblings lose their worker.
#[track_caller]
fn check_killed(channel: &Channel, sibling: &Channel, expected: &Outcome) {
    assert_eq!(outcome(channel), *expected);
    let Outcome::WorkerLost { loss } = outcome(sibling) else { panic!("{:?}", sibling.outcome()) };
    assert!(matches!(&loss.cause, LossCause::Unresponsive { message } if message.contains("did not end")), "{loss}");
}

#[test]
fn what_cannot_be_interrupted_is_killed_with_its_worker() {
    let after = Duration::from_millis(100);
    let group = group(&["popen//epochs=off"; 2]);
    let sibling = group[0].remote_exec(&endless()).unwrap();
    let limits = Limits { wall_time: Some(after), ..Limits::default() };
    let channel = group[0].remote_exec_with(&endless(), &Call::start().limits(limits)).unwrap();
    check_killed(&channel, &sibling, &Outcome::TimedOut { after });
    let sibling = group[1].remote_exec(&endless()).unwrap();
    let channel = group[1].remote_exec(&says_and_computes()).unwrap();
    channel.receive_timeout::<u8>(LIMIT).unwrap();
    let start = Instant::now();
    let killed = channel.kill().unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    check_killed(&channel, &sibling, &killed);
    assert!(matches!(killed, Outcome::Killed { .. }), "{killed}");
}

#[test]
fn a_worker_that_does_not_report_a_timeout_is_killed() {
    let after = Duration::from_millis(300);
    let group = group(&["popen//grace=200ms"]);
    let sibling = group[0].remote_exec(&endless()).unwrap();
    let limits = Limits { wall_time: Some(after), ..Limits::default() };
    let channel = group[0].remote_exec_with(&endless(), &Call::start().limits(limits)).unwrap();
    Watched::new(group[0].pid().unwrap()).signal(Signal::STOP);
    check_killed(&channel, &sibling, &Outcome::TimedOut { after });
}

#[test]
fn a_directory_is_reached_from_a_locked_down_worker() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "inside").unwrap();
    let text = |path: &str| {
        let length = path.len();
        wat(&format!(
            r#"(module (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1) (data (i32.const 1024) "{path}")
                (func (export "_start") (call $exit (call $open (i32.const 3) (i32.const 1) (i32.const 1024)
                    (i32.const {length}) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))))"#
        ))
    };
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen").dir("/data", directory.path())).unwrap();
    assert_eq!(outcome(&gateway.remote_exec(&text("file")).unwrap()), Outcome::Returned);
    for path in ["../file", "/etc/passwd"] {
        let outcome = outcome(&gateway.remote_exec(&text(path)).unwrap());
        assert!(matches!(outcome, Outcome::Exited { .. }), "{path}: {outcome}");
    }
}
