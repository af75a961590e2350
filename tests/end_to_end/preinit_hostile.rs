//! Init functions that mean ill: each is ended by a limit that its error names, and nobody else notices.

use std::time::{Duration, Instant};

use guest_protocol::InitEnd;
use sandgate::{Init, InitError, LimitName, Module, ModuleLimitName, ModuleLimits, Outcome, Rejection, TrapKind};
use sandgate_tests::{LIMIT, group, module, popen};

use crate::preinit::{init, init_with, wat};

/// One second of time and 64 MiB.
fn tight(init: Init) -> Init {
    init.spec(popen().timeout(Duration::from_secs(1)).memory(64 << 20))
}

fn ends(how: InitEnd) -> Outcome {
    ended(module("warm").preinitialize_with(&tight(init_with("ends", &(how,)))))
}

fn ended(result: Result<Module, InitError>) -> Outcome {
    match result {
        Err(InitError::Ended { outcome, .. }) => *outcome,
        other => panic!("{other:?}"),
    }
}

fn rejected(result: Result<Module, InitError>) -> Rejection {
    match result {
        Err(InitError::Rejected { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_end_that_is_no_return_is_told() {
    match ends(InitEnd::Panic("no model".to_owned())) {
        Outcome::Panicked { message, location, backtrace } => {
            assert_eq!(message, "no model");
            assert!(location.unwrap().contains("warm.rs") && !backtrace.is_empty());
        }
        other => panic!("{other}"),
    }
    assert_eq!(ends(InitEnd::Fail("no luck".to_owned())), Outcome::Failed { message: "no luck".to_owned() });
    assert_eq!(ends(InitEnd::Exit(3)), Outcome::Exited { code: 3 });
    assert_eq!(ends(InitEnd::Exit(0)), Outcome::Exited { code: 0 });
}

#[test]
fn a_channel_is_refused() {
    for how in [InitEnd::Receive, InitEnd::Send, InitEnd::NewChannel] {
        match ends(how.clone()) {
            Outcome::Failed { message } => assert!(message.contains("outside of a task"), "{how:?}: {message}"),
            other => panic!("{how:?}: {other}"),
        }
    }
}

#[test]
fn time_memory_and_stack_are_limits_that_are_named() {
    let after = Duration::from_secs(1);
    assert_eq!(ends(InitEnd::Loop), Outcome::TimedOut { after });
    // What it prints beyond its bytes is dropped, so that it ends by its time.
    assert_eq!(ends(InitEnd::Print), Outcome::TimedOut { after });
    assert_eq!(ends(InitEnd::Bomb), Outcome::LimitExceeded { limit: LimitName::Memory, value: 64 << 20 });
    match ends(InitEnd::Recurse) {
        Outcome::Trapped { kind: TrapKind::StackOverflow, .. } => {}
        other => panic!("{other}"),
    }
    let text = ends(InitEnd::Recurse).to_string();
    assert!(text.contains("setting `stack=`"), "{text}");
    // Real time passes while it sleeps, if its clock is a real one.
    let real = popen().timeout(after).clock(sandgate::Clock::default());
    let sleeps = init_with("ends", &(InitEnd::Sleep,)).spec(real);
    assert_eq!(ended(module("warm").preinitialize_with(&sleeps)), Outcome::TimedOut { after });
    let fuel = init_with("ends", &(InitEnd::Loop,))
        .spec(popen().with_limits(sandgate::Limits { fuel: Some(1_000_000), ..sandgate::Limits::for_tasks() }));
    let outcome = ended(module("warm").preinitialize_with(&fuel));
    assert_eq!(outcome, Outcome::LimitExceeded { limit: LimitName::Fuel, value: 1_000_000 });
}

#[test]
fn input_is_within_limits() {
    let large = vec![7_u8; 1 << 20];
    let limits = sandgate::Limits { message_bytes: 1 << 10, ..sandgate::Limits::for_tasks() };
    let init = init_with("load", &(&large,)).spec(popen().with_limits(limits));
    let outcome = ended(module("warm").preinitialize_with(&init));
    assert_eq!(outcome, Outcome::LimitExceeded { limit: LimitName::Message, value: 1 << 10 });
}

#[test]
fn a_snapshot_is_no_larger_than_a_module() {
    let limits = ModuleLimits { module_bytes: 8 << 20, ..ModuleLimits::default() };
    let init = init_with("ends", &(InitEnd::Keep(20 << 20),)).spec(popen().with_module_limits(limits.clone()));
    let reason = rejected(module("warm").preinitialize_with(&init));
    let text = reason.to_string();
    assert!(text.starts_with("the snapshot takes ") && text.ends_with("(setting `module=`)"), "{text}");
    match reason {
        Rejection::ModuleLimit { limit: ModuleLimitName::ModuleBytes, found, value, .. } => {
            assert!(found > value && value == 8 << 20);
        }
        other => panic!("{other}"),
    }
    // All of it, one byte in a page, and one in sixteen: few bytes, but no small snapshot.
    for (pages, step) in [(200, 1), (400, 1000), (200, 16)] {
        let text = format!(
            r#"(module (memory (export "memory") {pages}) (func (export "sandgate_init:go") (local $at i32)
                (loop $next (i32.store8 (local.get $at) (i32.const 1))
                    (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {step})))
                        (i32.const {}))))))"#,
            pages * 65_536
        );
        let result = wat(&text).preinitialize_with(&self::init("go").spec(popen().with_module_limits(limits.clone())));
        let text = rejected(result).to_string();
        assert!(text.starts_with("the snapshot takes ") && text.contains("(setting `module=`)"), "{step}: {text}");
    }
}

#[test]
fn hostile_modules_are_refused_as_by_a_compiler() {
    let check = |text: &str, words: &str| {
        let reason = rejected(wat(text).preinitialize_with(&init("go"))).to_string();
        assert!(reason.contains(words), "{reason}");
    };
    check(r#"(module (import "env" "x" (func)) (func (export "sandgate_init:go")))"#, "unknown import `env::x`");
    check(r#"(module (memory i64 1) (func (export "sandgate_init:go")))"#, "memory64");
    check(r#"(module (func (export "sandgate_init:go") (param i32)))"#, "no init function `go`");
    check(r#"(module (memory (export "sandgate_init:go") 1))"#, "no init function `go`");
    let text = Module::from_bytes(*b"\0asm\x01\0\0\0\xff").unwrap();
    assert!(matches!(rejected(text.preinitialize_with(&init("go"))), Rejection::InvalidModule { .. }));
    let limits = ModuleLimits { functions: 10, ..ModuleLimits::default() };
    let init = init("load").spec(popen().with_module_limits(limits));
    let reason = rejected(module("warm").preinitialize_with(&init)).to_string();
    assert!(reason.contains("setting `functions=`"), "{reason}");
    let limits = ModuleLimits { compile_time: Duration::from_millis(1), ..ModuleLimits::default() };
    let init = self::init("load").spec(popen().with_module_limits(limits));
    let reason = rejected(module("warm").preinitialize_with(&init)).to_string();
    assert!(reason.contains("setting `compile-time=`"), "{reason}");
}

/// Every import there is, each called with zeros and with what is no address.
#[test]
fn every_import_can_be_called_and_none_does_harm() {
    let functions: &[(&str, &str, &str)] = &[
        ("sandgate_v1", "channel_send", "iiiiiI"),
        ("sandgate_v1", "channel_receive", "iiiiiiI"),
        ("sandgate_v1", "channel_wait", "iiI"),
        ("sandgate_v1", "channel_close", "iiii"),
        ("sandgate_v1", "channel_error", "iiii"),
        ("sandgate_v1", "channel_new", ""),
        ("sandgate_v1", "channel_drop", "i"),
    ];
    let mut wasi: Vec<(&str, &str, &str)> =
        WASI.iter().map(|(name, of)| ("wasi_snapshot_preview1", *name, *of)).collect();
    wasi.extend([("sandgate_v1", "call_args", "iiiii"), ("sandgate_v1", "task_report", "iii")]);
    let call = |(module, name, of): (&str, &str, &str), value: i32| {
        let parameters: String = of.chars().map(|it| if it == 'i' { " i32" } else { " i64" }).collect();
        let arguments: String = of
            .chars()
            .map(|it| if it == 'i' { format!("(i32.const {})", value) } else { format!("(i64.const {value})") })
            .collect();
        let import = format!(r#"(import "{module}" "{name}" (func ${name} (param{parameters}) (result i32)))"#);
        (import, format!("(call ${name} {arguments})"))
    };
    // Of the channels' functions each says that it is not allowed, and it does not matter with what.
    for value in [0, -1, 70_000] {
        let calls: Vec<_> = functions.iter().map(|function| call(*function, value)).collect();
        let imports: String = calls.iter().map(|(import, _)| import.as_str()).collect();
        let body: String =
            calls.iter().map(|(_, call)| format!("(if (i32.ne {call} (i32.const -9)) (then (unreachable)))")).collect();
        let text =
            format!(r#"(module {imports} (memory (export "memory") 1) (func (export "sandgate_init:go") {body}))"#);
        let snapshot = wat(&text).preinitialize_with(&init("go")).unwrap();
        assert!(snapshot.bytes().len() < 2048);
        let calls: Vec<_> = wasi.iter().map(|function| call(*function, value)).collect();
        let imports: String = calls.iter().map(|(import, _)| import.as_str()).collect();
        let body: String = calls.iter().map(|(_, call)| format!("(drop {call})")).collect();
        let text =
            format!(r#"(module {imports} (memory (export "memory") 1) (func (export "sandgate_init:go") {body}))"#);
        // Some of them take what is no address for the end of their guest.
        match wat(&text).preinitialize_with(&init("go")) {
            Ok(_) => {}
            Err(InitError::Ended { outcome, .. }) if matches!(*outcome, Outcome::Trapped { .. }) => {}
            other => panic!("{value}: {other:?}"),
        }
    }
}

/// All that return a number.
const WASI: &[(&str, &str)] = &[
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "iIi"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "iiiIi"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_prestat_get", "ii"),
    ("fd_pwrite", "iiiIi"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiiIi"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiiIIi"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiiIIii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("random_get", "ii"),
    ("sched_yield", ""),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

#[test]
fn others_are_not_disturbed() {
    let group = group(&["popen"]);
    std::thread::scope(|scope| {
        // More of them than there are places.
        let hostile: Vec<_> = [InitEnd::Loop, InitEnd::Print, InitEnd::Loop, InitEnd::Bomb]
            .into_iter()
            .map(|how| scope.spawn(move || ends(how)))
            .collect();
        // A gateway goes on, modules are compiled, and another gateway is made.
        let began = Instant::now();
        for number in 0..5 {
            let fresh = format!(r#"(module (func (export "_start")) (@custom "{number}" "{}"))"#, std::process::id());
            group[0].remote_exec(&wat(&fresh)).unwrap().wait_close_timeout(LIMIT).unwrap();
        }
        let other = sandgate_tests::group(&["popen"]);
        other[0].remote_exec(&module("noop")).unwrap().wait_close_timeout(LIMIT).unwrap();
        assert!(began.elapsed() < 2 * LIMIT, "{:?}", began.elapsed());
        for thread in hostile {
            let outcome = thread.join().unwrap();
            assert!(matches!(outcome, Outcome::TimedOut { .. } | Outcome::LimitExceeded { .. }), "{outcome}");
        }
    });
}
