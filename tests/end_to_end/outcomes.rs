//! How executions end: each way has an outcome of its own, which says what happened.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use guest_protocol::Trap;
use rustix::process::Signal;
use sandgate::{
    Call, Channel, ExecError, Gateway, LimitName, Limits, LossCause, Module, ModuleError, Outcome, Rejection, TrapKind,
    WaitError,
};
use sandgate_tests::{LIMIT, State, Watched, assert_echoes, group, guest, module, run, run_with, sibling, wat};

/// Waits for the end of an execution. Its messages are not looked at.
#[track_caller]
fn outcome(channel: &Channel) -> Outcome {
    match channel.wait_close_timeout(LIMIT) {
        Ok(()) | Err(WaitError::Ended(_)) => channel.outcome().expect("it has ended"),
        Err(error) => panic!("{error}"),
    }
}

/// Why a gateway does not accept a module.
#[track_caller]
fn rejection(gateway: &Gateway, module: &Module) -> Rejection {
    match gateway.remote_exec(module) {
        Err(ExecError::Rejected { reason, .. }) => reason,
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn returned() {
    let group = group(&["popen"]);
    assert_eq!(outcome(&run(&group[0], "noop")), Outcome::Returned);
    assert_eq!(outcome(&run_with(&group[0], "exits", &0_i32)), Outcome::Returned);
    assert_eq!(outcome(&run(&group[0], "fails_late")), Outcome::Returned, "an error that was only shown");
}

#[test]
fn failed() {
    let group = group(&["popen"]);
    let text = "cannot load the table: line `3` is broken: invalid digit found in string";
    assert_eq!(outcome(&run(&group[0], "fails")), Outcome::Failed { message: text.into() });
    let channel = group[0].remote_exec_fn(&module("tasks"), "fails", &()).unwrap();
    assert_eq!(outcome(&channel), Outcome::Failed { message: "no luck".into() });
}

#[test]
fn panicked() {
    let group = group(&["popen"]);
    let tasks = module("tasks");
    let check = |channel: Channel, text: &str, file: &str| {
        let outcome = outcome(&channel);
        let Outcome::Panicked { message, location: Some(location), .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(message, text);
        assert!(location.contains(file), "{location}");
    };
    check(run(&group[0], "panics"), "boom at item 3", "panics.rs:");
    check(run(&group[0], "panics_early"), "the hook is told", "panics_early.rs:");
    check(group[0].remote_exec_fn(&tasks, "panics", &()).unwrap(), "boom in a task", "tasks.rs:");
}

#[test]
fn panicked_without_the_sdk_is_a_trap() {
    let group = group(&["popen"]);
    let outcome = outcome(&run(&group[0], "panics_unlinked"));
    assert!(matches!(outcome, Outcome::Trapped { kind: TrapKind::Unreachable, .. }), "{outcome:?}");
}

#[test]
fn exited() {
    let group = group(&["popen"]);
    for code in [1_i32, 42, 255, -1] {
        assert_eq!(outcome(&run_with(&group[0], "exits", &code)), Outcome::Exited { code });
    }
}

#[test]
fn trapped() {
    let group = group(&["popen"]);
    for (trap, expected) in [
        (Trap::Unreachable, TrapKind::Unreachable),
        (Trap::DivisionByZero, TrapKind::DivisionByZero),
        (Trap::OutOfBounds, TrapKind::MemoryOutOfBounds),
        (Trap::StackOverflow, TrapKind::StackOverflow),
        (Trap::IndirectCall, TrapKind::TableOutOfBounds),
    ] {
        let outcome = outcome(&run_with(&group[0], "traps", &trap));
        let Outcome::Trapped { kind, backtrace, .. } = &outcome else { panic!("{trap:?}: {outcome:?}") };
        assert_eq!(*kind, expected, "{trap:?}");
        assert!(!backtrace.is_empty(), "{trap:?}");
    }
    // And the same worker goes on.
    sibling(&group[0]);
}

#[test]
fn unknown_task_lists_those_there_are() {
    let group = group(&["popen"]);
    let channel = group[0].remote_exec_fn(&module("channels"), "repliez", &()).unwrap();
    let outcome = outcome(&channel);
    let Outcome::Rejected { reason: Rejection::UnknownTask { name, available } } = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(name, "repliez");
    assert!(available.contains(&"replies".to_owned()), "{available:?}");
    assert!(outcome.to_string().contains("no task `repliez`; the module has "), "{outcome}");
    let channel = group[0].remote_exec_fn(&module("noop"), "any", &()).unwrap();
    let text = self::outcome(&channel).to_string();
    assert!(text.starts_with("task was rejected: no task `any`; the module has "), "{text}");
}

#[test]
fn bad_arguments_list_the_tasks() {
    let group = group(&["popen"]);
    let channel = group[0].remote_exec_fn(&module("tasks"), "add", &("one", "two", "three")).unwrap();
    let outcome = outcome(&channel);
    let Outcome::Rejected { reason: Rejection::BadArguments { message, available } } = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(message.contains("task `add` takes (u32, u32)"), "{message}");
    assert!(available.contains(&"greet".to_owned()), "{available:?}");
}

#[test]
fn unknown_import() {
    let group = group(&["popen"]);
    let check = |text: &str, expected: &str| match rejection(&group[0], &wat(text)) {
        Rejection::UnknownImport { import, .. } => assert_eq!(import, expected),
        other => panic!("{other:?}"),
    };
    check(r#"(module (import "env" "socket" (func)) (func (export "_start")))"#, "env::socket");
    check(
        r#"(module (import "sandgate_v1" "channel_fork" (func)) (func (export "_start")))"#,
        "sandgate_v1::channel_fork",
    );
}

#[test]
fn another_version_of_the_abi() {
    let group = group(&["popen"]);
    let module = wat(r#"(module (import "sandgate_v2" "channel_new" (func (result i32))) (func (export "_start")))"#);
    let expected = Rejection::AbiVersion { found: "sandgate_v2".into(), supported: "sandgate_v1".into() };
    assert_eq!(rejection(&group[0], &module), expected);
}

#[test]
fn no_module() {
    let group = group(&["popen"]);
    let whole = std::fs::read(guest("noop")).unwrap();
    for bytes in [&b"hello"[..], &whole[..4], &whole[..whole.len() / 2], b"\x7fELF\x02\x01\x01"] {
        let reason = rejection(&group[0], &Module::from_bytes(bytes).unwrap());
        let named = matches!(&reason, Rejection::InvalidModule { message } if !message.is_empty());
        assert!(named, "{} bytes: {reason:?}", bytes.len());
    }
    // A component is WebAssembly, of a kind that no gateway takes.
    let reason = rejection(&group[0], &Module::from_bytes(b"\0asm\x0d\0\x01\0").unwrap());
    let named = matches!(&reason, Rejection::Feature { feature, offered: false, .. } if feature == "component-model");
    assert!(named, "{reason:?}");
    assert!(matches!(Module::from_bytes([]), Err(ModuleError::Empty { .. })));
    // The header alone is a module, in which there is nothing to run.
    let outcome = outcome(&group[0].remote_exec(&Module::from_bytes(&whole[..8]).unwrap()).unwrap());
    assert!(
        matches!(&outcome, Outcome::Rejected { reason: Rejection::UnknownTask { name, .. } } if name == "_start"),
        "{outcome:?}"
    );
    sibling(&group[0]);
}

#[test]
fn memory_has_a_limit() {
    let group = group(&["popen//memory=32M"]);
    assert_eq!(outcome(&run_with(&group[0], "memory_hog", &8_u32)), Outcome::Returned);
    // A program may live with memory it does not get. Rust's aborts, and it is told why.
    let outcome = outcome(&run_with(&group[0], "memory_hog", &64_u32));
    assert_eq!(outcome, Outcome::LimitExceeded { limit: LimitName::Memory, value: 32 << 20 });
    let large = wat(r#"(module (memory 1000) (func (export "_start")))"#);
    let outcome = self::outcome(&group[0].remote_exec(&large).unwrap());
    assert_eq!(outcome, Outcome::LimitExceeded { limit: LimitName::Memory, value: 32 << 20 });
    assert!(outcome.to_string().ends_with("(setting `memory=`)"), "{outcome}");
}

#[test]
fn timed_out() {
    let after = Duration::from_millis(100);
    let call = Call::start().limits(Limits { wall_time: Some(after), ..Limits::default() });
    let group = group(&["popen"]);
    let sibling = sibling(&group[0]);
    for state in State::ALL.into_iter().filter(|state| *state != State::BothFull) {
        let channel = group[0].remote_exec_with(&state.module(), &call).unwrap();
        assert_eq!(outcome(&channel), Outcome::TimedOut { after }, "{state:?}");
    }
    assert_echoes(&sibling);
}

#[test]
fn worker_lost() {
    let group = group(&["popen"; 2]);
    let (channel, plain) = (run(&group[0], "silent"), group[0].new_channel().unwrap());
    let sibling = sibling(&group[1]);
    let pid = group[0].pid().unwrap();
    let mut stderr = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/2")).unwrap();
    stderr.write_all(b"my last words\n").unwrap();
    drop(stderr);
    Watched::new(pid).signal(Signal::KILL);

    let outcome = outcome(&channel);
    let Outcome::WorkerLost { loss } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(loss.cause, LossCause::Signaled { signal: 9 });
    assert_eq!((&loss.gateway[..], loss.pid), ("gw0", Some(pid)));
    assert_eq!(loss.stderr_tail.trim_end(), "my last words");
    let text = format!("worker of gateway `gw0` (pid {pid}) was ended by signal 9; its last words: my last words");
    assert_eq!(outcome.to_string(), text);
    assert_eq!(self::outcome(&plain), outcome, "all of its channels are told");
    assert!(group[0].join(LIMIT));
    match group[0].remote_exec(&module("noop")) {
        Err(ExecError::GatewayClosed { gateway, reason }) => assert_eq!((&gateway[..], reason), ("gw0", text)),
        other => panic!("{other:?}"),
    }
    assert_echoes(&sibling);
}
