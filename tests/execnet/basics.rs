//! `testing/test_basics.py`: values, errors, and what lies under a channel.

use std::fmt::Debug;
use std::time::Duration;

use guest_protocol::WasiView;
use sandgate::{ExecError, Module, Outcome, ReceiveError, Rejection, WaitError};
use sandgate_tests::{LIMIT, Watched, group, module, run};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[test]
fn serializer_api() {
    let group = group(&["popen"]);
    let echo = run(&group[0], "echo");
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(echo: &sandgate::Channel, value: T) {
        echo.send(&value).unwrap();
        assert_eq!(echo.receive_timeout::<T>(LIMIT).unwrap(), value);
    }
    check(&echo, "123".to_owned());
    check(&echo, 42_u32);
    check(&echo, vec![1_i64, 2, 3]);
    check(&echo, ("23".to_owned(), 25_u8));
    // execnet's serializer fails on the first of these.
    check(&echo, i128::from(i32::MIN) - 1);
    check(&echo, (f64::MIN_POSITIVE, Some('ß'), [(); 3], Duration::from_millis(1)));
}

#[test]
fn serializer_api_version_error() {
    let group = group(&["popen"]);
    let future = r#"(module
        (import "sandgate_v999" "channel_new" (func (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")))"#;
    let module = Module::from_bytes(wat::parse_str(future).unwrap()).unwrap();
    match group[0].remote_exec(&module).unwrap_err() {
        ExecError::Rejected { reason: Rejection::AbiVersion { found, supported }, .. } => {
            assert_eq!((&found[..], &supported[..]), ("sandgate_v999", "sandgate_v1"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn geterrortext() {
    let group = group(&["popen"]);
    let error = run(&group[0], "fails").receive_timeout::<u32>(LIMIT).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task failed: cannot load the table: line `3` is broken: invalid digit found in string"
    );
}

#[test]
fn stdouterrin_setnull() {
    let group = group(&["popen"]);
    let process = Watched::new(group[0].pid().unwrap());
    assert_eq!([process.link("fd/0"), process.link("fd/1")], ["/dev/null", "/dev/null"]);
    let view: WasiView = run(&group[0], "wasi_probe").receive_timeout(LIMIT).unwrap();
    assert_eq!(view.stdin, Ok(0), "a guest reads the end of a file");
}

#[test]
fn factory_create() {
    let group = group(&["popen"; 2]);
    let first = group[0].new_channel().unwrap();
    let second = group[0].new_channel().unwrap();
    assert_eq!((first.id(), second.id()), (1, 3));
    assert_eq!(group[1].new_channel().unwrap().id(), 1, "each gateway has ids of its own");
}

#[test]
fn channel_timeouterror() {
    let group = group(&["popen"]);
    let limit = Duration::from_millis(10);
    let error = group[0].new_channel().unwrap().wait_close_timeout(limit).unwrap_err();
    assert!(matches!(error, WaitError::Timeout(after) if after == limit), "{error:?}");
}

/// The reason why a named task of the guest `tasks` does not run.
fn rejection<T: Serialize>(task: &str, arguments: &T) -> Rejection {
    let group = group(&["popen"]);
    let channel = group[0].remote_exec_fn(&module("tasks"), task, arguments).unwrap();
    match channel.receive_timeout::<u32>(LIMIT) {
        Err(ReceiveError::Ended(Outcome::Rejected { reason })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_prototype_fails() {
    match rejection("greet", &(5_u32,)) {
        Rejection::BadArguments { message, available } => {
            assert!(message.contains("task `greet` takes (String,)"), "{message}");
            assert!(available.contains(&"add".to_owned()), "{available:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn function_without_known_source_fails() {
    match rejection("fail", &()) {
        Rejection::UnknownTask { name, available } => {
            assert_eq!(name, "fail");
            assert!(available.contains(&"fails".to_owned()), "{available:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn function_with_global_fails() {
    let group = group(&["popen"]);
    let module =
        Module::from_bytes(wat::parse_str(r#"(module (import "env" "sys" (func)) (func (export "_start")))"#).unwrap());
    match group[0].remote_exec(&module.unwrap()).unwrap_err() {
        ExecError::Rejected { reason: Rejection::UnknownImport { import, .. }, .. } => assert_eq!(import, "env::sys"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn remote_exec_function_with_kwargs() {
    let group = group(&["popen"]);
    let channel = group[0].remote_exec_fn(&module("tasks"), "greet", &("world",)).unwrap();
    assert_eq!(channel.receive_timeout::<String>(LIMIT).unwrap(), "hello, world");
}

#[test]
fn remote_exc_no_kwargs() {
    let reason = rejection("no_args", &(1_u32,));
    assert!(matches!(reason, Rejection::BadArguments { .. }), "{reason:?}");
}
