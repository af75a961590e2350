//! A script interpreter in the sandbox, pre-initialised: source text goes over the channel, and the script talks with the
//! host.

use guest_protocol::ScriptValue::{self, Bytes, Float, Int, List, Map, Text, Unit};
use sandgate::{Channel, Gateway, Group, Module, Outcome, WaitError};
use sandgate_tests::{LIMIT, group, module};

use crate::preinit::init_with;

const PRELUDE: &str = "fn twice(x) { x * 2 }\nfn hello(name) { `hello, ${name}` }";

fn warm() -> Module {
    module("script").preinitialize_with(&init_with("prepare", &(PRELUDE,))).unwrap()
}

fn start(gateway: &Gateway, module: &Module, source: &str) -> Channel {
    let channel = gateway.remote_exec(module).unwrap();
    channel.send(&source).unwrap();
    channel
}

fn receive(channel: &Channel) -> ScriptValue {
    channel.receive_timeout(LIMIT).unwrap()
}

#[test]
fn a_script_receives_and_sends() {
    let group = group(&["popen"]);
    for module in [module("script"), warm()] {
        let channel = start(&group[0], &module, "channel.send(channel.receive() + 1)");
        channel.send(&Int(41)).unwrap();
        assert_eq!(receive(&channel), Int(42));
        channel.wait_close_timeout(LIMIT).unwrap();
    }
}

#[test]
fn values_go_both_ways() {
    let group = group(&["popen"]);
    let channel = start(&group[0], &warm(), "loop { let value = channel.receive(); channel.send(value); }");
    let map = [("a".to_owned(), Int(1)), ("b".to_owned(), List(vec![Unit, ScriptValue::Bool(true)]))];
    let values = [
        Unit,
        ScriptValue::Bool(false),
        Int(i64::MIN),
        Float(-0.5),
        Text("é\0x".to_owned()),
        Bytes(vec![0, 255]),
        List(vec![Int(1), List(vec![])]),
        Map(map.into_iter().collect()),
        Text("x".repeat(1 << 20)),
    ];
    for value in values {
        channel.send(&value).unwrap();
        assert_eq!(receive(&channel), value);
    }
    channel.close();
    let value = |source: &str| {
        let channel = group[0].remote_exec_fn(&warm(), "run", &(source,)).unwrap();
        receive(&channel)
    };
    assert_eq!(value("'c'"), Text("c".to_owned()));
    assert_eq!(value("#{ list: [1, 2.5] }"), Map([("list".to_owned(), List(vec![Int(1), Float(2.5)]))].into()));
}

#[test]
fn the_prelude_is_there_and_nothing_of_another_script() {
    let group: Group = group(&["popen"]);
    let warm = warm();
    let value = |source: &str| {
        let channel = group[0].remote_exec_fn(&warm, "run", &(source,)).unwrap();
        let value = channel.receive_timeout::<ScriptValue>(LIMIT);
        (value, channel.wait_close_timeout(LIMIT))
    };
    assert_eq!(value("twice(21)").0.unwrap(), Int(42));
    assert_eq!(value("hello(\"you\")").0.unwrap(), Text("hello, you".to_owned()));
    // What one defines and changes is not there for the next, and what it breaks is whole again.
    assert_eq!(
        value("let mine = 5; fn mine_too() { 1 } fn twice(x) { 0 } mine + mine_too() + twice(3)").0.unwrap(),
        Int(6)
    );
    assert_eq!(value("twice(3)").0.unwrap(), Int(6));
    for gone in ["mine", "mine_too()"] {
        let (value, ended) = value(gone);
        assert!(value.is_err());
        let text = ended.unwrap_err().to_string();
        assert!(text.contains("not found"), "{text}");
    }
}

#[test]
fn an_error_of_a_script_is_the_tasks_with_its_line() {
    let group = group(&["popen"]);
    let warm = warm();
    let check = |source: &str, words: &[&str]| {
        let channel = start(&group[0], &warm, source);
        match channel.wait_close_timeout(LIMIT) {
            Err(WaitError::Ended(Outcome::Failed { message })) => {
                assert!(words.iter().all(|word| message.contains(word)), "{source}: {message}");
            }
            other => panic!("{source}: {other:?}"),
        }
    };
    check("let x = 1;\n\nx / 0", &["Division by zero", "line 3"]);
    check("let x = 1;\nlet = 2;", &["line 2"]);
    check("\nthrow \"mine\"", &["mine", "line 2"]);
    check("\nno_such(1)", &["no_such", "line 2"]);
    check("fn deep(x) { deep(x + 1) }\ndeep(1)", &["Stack overflow", "line 2"]);
    check("let f = || 1;\nchannel.send(f)", &["Fn", "cannot be sent", "line 2"]);
    check("let l = [];\nfor i in 0..100 { l = [l]; }\nchannel.send(l)", &["64 levels", "line 3"]);
    let channel = start(&group[0], &warm, "let a = 1;\nchannel.receive()");
    channel.close_send();
    let text = channel.wait_close_timeout(LIMIT).unwrap_err().to_string();
    assert!(text.contains("line 2"), "{text}");
    // A prelude that is wrong is an error of the init function.
    let error = module("script").preinitialize_with(&init_with("prepare", &("fn a( {",))).unwrap_err().to_string();
    assert!(error.contains("prelude: ") && error.contains("line 1"), "{error}");
}

#[test]
fn a_script_that_does_not_end_is_ended() {
    let group = group(&["popen//timeout=500ms//memory=64M"]);
    let warm = warm();
    let ended = |source: &str| start(&group[0], &warm, source).wait_close_timeout(LIMIT).unwrap_err().to_string();
    assert!(ended("loop {}").contains("deadline"));
    let bomb = ended("let x = \"x\"; loop { x += x; }");
    assert!(bomb.contains("memory"), "{bomb}");
    let channel = start(&group[0], &warm, "channel.send(1)");
    assert_eq!(receive(&channel), Int(1));
}
