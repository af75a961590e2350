//! Limits as a whole: where they are set, what is refused, and what becomes of a worker that does not keep them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate::{
    Call, Channel, ExecError, LimitName, Limits, LossCause, Module, Outcome, OutputSink, SendError, TrapKind, WaitError,
};
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

/// Asks for something twice, which is refused the second time, and fails with a text of its own.
fn is_refused(import: &str, first: &str, second: &str) -> Module {
    wat(&format!(
        r#"(module {import}
            (import "sandgate_v1" "task_report" (func $report (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (data (i32.const 0) "refused")
            (func (export "_start")
                (if (i32.lt_s {first} (i32.const 0)) (then (call $exit (i32.const 66))))
                (if (i32.ge_s {second} (i32.const 0)) (then (call $exit (i32.const 67))))
                (drop (call $report (i32.const 1) (i32.const 0) (i32.const 7)))
                (call $exit (i32.const 1))))"#
    ))
}

/// Makes two channels.
fn two_channels() -> Module {
    let import = r#"(import "sandgate_v1" "channel_new" (func $new (result i32)))"#;
    is_refused(import, "(call $new)", "(call $new)")
}

/// Sends a message of 100 bytes and one of 101.
fn two_messages() -> Module {
    let import = r#"(import "sandgate_v1" "channel_send" (func $send (param i32 i32 i32 i32 i32 i64) (result i32)))"#;
    let send = |length: u32| {
        format!(
            "(call $send (i32.const 0) (i32.const 0) (i32.const {length}) (i32.const 0) (i32.const 0) (i64.const -1))"
        )
    };
    is_refused(import, &send(100), &send(101))
}

/// Prints 20 bytes.
fn prints() -> Module {
    wat(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "01234567890123456789") (data (i32.const 0) "\40\00\00\00\14\00\00\00")
            (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#)
}

/// Runs a module in three gateways: one that has a limit from its group, one that says it itself, and one that runs a call
/// which does. Gives back what was printed, too.
fn in_three_places(
    setting: &str,
    set: fn(&mut Limits),
    module: &Module,
    mut check: impl FnMut(&str, &Channel, &[String]),
) {
    let mut limits = Limits::default();
    set(&mut limits);
    let own = spec(&format!("popen//{setting}"));
    for (place, of_group, of_gateway, of_call) in [
        ("the group", own.clone(), spec("popen"), None),
        ("the gateway", spec("popen"), own.clone(), None),
        ("the call", spec("popen"), spec("popen"), Some(limits)),
    ] {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let of_sink = Arc::clone(&lines);
        let sink = OutputSink::callback(move |line| of_sink.lock().unwrap().push(line.to_string()));
        let group = builder().defaults(of_group).output(sink).build();
        let gateway = group.make_gateway(of_gateway).unwrap();
        let call = of_call.into_iter().fold(Call::start(), Call::limits);
        let channel = gateway.remote_exec_with(module, &call).unwrap();
        let ends = !setting.starts_with("window");
        if ends {
            outcome(&channel);
            assert!(gateway.wait_output(LIMIT), "{setting}");
        }
        check(&format!("{setting} of {place}"), &channel, &lines.lock().unwrap());
        channel.kill().unwrap();
    }
}

/// Each limit is set on the group, the gateway and the call; met, it names itself, its value and its setting.
#[test]
fn each_limit_is_set_in_three_places_and_says_so() {
    const RECURSES: &str = r#"(module (func $f (export "_start") (call $f)))"#;
    let large = wat(r#"(module (memory 32) (func (export "_start")))"#);
    let table = wat(r#"(module (table 50 funcref) (func (export "_start")))"#);
    let ms = Duration::from_millis;
    type Case = (&'static str, fn(&mut Limits), Module, &'static [&'static str], fn(&Outcome) -> bool);
    let cases: [Case; 8] = [
        (
            "memory=1M",
            |it| it.memory_bytes = 1 << 20,
            large,
            &["memory", "1048576"],
            |it| *it == Outcome::LimitExceeded { limit: LimitName::Memory, value: 1 << 20 },
        ),
        (
            "table=10",
            |it| it.table_elements = 10,
            table,
            &["table elements", "10"],
            |it| *it == Outcome::LimitExceeded { limit: LimitName::Table, value: 10 },
        ),
        (
            "stack=64K",
            |it| it.stack_bytes = 64 << 10,
            wat(RECURSES),
            &["stack", "65536"],
            |it| matches!(it, Outcome::Trapped { kind: TrapKind::StackOverflow, stack_bytes: Some(65_536), .. }),
        ),
        (
            "timeout=50ms",
            |it| it.wall_time = Some(Duration::from_millis(50)),
            endless(),
            &["deadline", "50ms"],
            |it| *it == Outcome::TimedOut { after: Duration::from_millis(50) },
        ),
        (
            "cpu=50ms",
            |it| it.cpu_time = Some(Duration::from_millis(50)),
            endless(),
            &["processor time", "50"],
            |it| *it == Outcome::LimitExceeded { limit: LimitName::CpuTime, value: 50 },
        ),
        (
            "fuel=1000",
            |it| it.fuel = Some(1000),
            endless(),
            &["fuel", "1000"],
            |it| *it == Outcome::LimitExceeded { limit: LimitName::Fuel, value: 1000 },
        ),
        (
            "channels=2",
            |it| it.channels = 2,
            two_channels(),
            &["refused; its limit", "open channels", "2"],
            |it| matches!(it, Outcome::Failed { .. }),
        ),
        (
            "message=100",
            |it| it.message_bytes = 100,
            two_messages(),
            &["refused; its limit", "message size", "100"],
            |it| matches!(it, Outcome::Failed { .. }),
        ),
    ];
    for (setting, set, module, parts, is_expected) in cases {
        in_three_places(setting, set, &module, |case, channel, _| {
            let outcome = channel.outcome().expect("it has ended");
            assert!(is_expected(&outcome), "{case}: {outcome:?}");
            let text = outcome.to_string();
            let key = &setting[..=setting.find('=').unwrap()];
            for part in parts.iter().chain([&key]) {
                assert!(text.contains(part), "{case}: {text} lacks {part}");
            }
        });
    }
    // Who meets these goes on or waits.
    in_three_places(
        "output=10",
        |it| it.output_bytes = 10,
        &prints(),
        |case, channel, lines| {
            assert_eq!(channel.outcome(), Some(Outcome::Returned), "{case}");
            let [line] = lines else { panic!("{case}: {lines:?}") };
            assert!(
                line.ends_with("0123456789 [output limit of 10 bytes reached, the rest is dropped; setting `output=`]")
            );
        },
    );
    type Window = (&'static str, fn(&mut Limits), usize);
    let settings: [Window; 2] =
        [("window=4K", |it| it.window_bytes = 4 << 10, 4), ("window-messages=3", |it| it.window_messages = 3, 3)];
    for (setting, set, most) in settings {
        in_three_places(setting, set, &endless(), |case, channel, _| {
            for number in 0..most {
                channel
                    .send_bytes_timeout(vec![0; 1024], LIMIT)
                    .unwrap_or_else(|error| panic!("{case}, {number}: {error}"));
            }
            let refused = channel.send_bytes_timeout(vec![0; 1024], ms(50)).unwrap_err();
            assert!(matches!(refused, SendError::Timeout(_)), "{case}: {refused:?}");
            let text = refused.to_string();
            assert!(text.contains("`window=` and `window-messages=`"), "{case}: {text}");
        });
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
