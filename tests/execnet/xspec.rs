//! `testing/test_xspec.py`: what a gateway is to be.

use std::path::Path;
use std::time::Duration;

use guest_protocol::WasiView;
use sandgate::{GatewayError, Group, Spec, SpecError};
use sandgate_tests::{LIMIT, Watched, builder, group, popen, run, spec, worker};

fn parse(text: &str) -> Spec {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn norm_attributes() {
    let parsed = parse(r"popen//id=a//chdir=d:\hello//grace=3s//executions=2");
    assert_eq!(parsed.given_id(), Some("a"));
    assert_eq!((parsed.grace(), parsed.max_executions()), (Duration::from_secs(3), 2));
    assert_eq!(parsed, Spec::popen().id("a").chdir(r"d:\hello").with_grace(Duration::from_secs(3)).executions(2));
    assert_eq!(parse("popen").given_id(), None);
    assert_eq!(parse("popen//nice=3"), Spec::popen().nice(3));
    // execnet splits at every `//`.
    assert_eq!(parse(r"popen//chdir=\//server/share"), Spec::popen().chdir("//server/share"));
}

#[test]
fn execmodel() {
    assert_eq!(parse("popen//executions=1").max_executions(), 1);
    assert_eq!(parse("popen").max_executions(), 64);
}

#[test]
fn env() {
    assert_eq!(parse("popen//env:NAME=value1").environment(), [("NAME".to_owned(), "value1".to_owned())]);
}

#[test]
fn samekeyword_twice_raises() {
    for text in ["popen//popen", "popen//popen=123", "popen//env:A=1//env:A=2"] {
        assert!(matches!(text.parse::<Spec>(), Err(SpecError::DuplicateKey { .. })), "{text}");
    }
}

#[test]
fn unknown_keys_are_refused() {
    let error = "popen//hullo=3".parse::<Spec>().unwrap_err();
    assert!(matches!(&error, SpecError::UnknownKey { key, .. } if key == "hullo"), "{error:?}");
}

#[test]
fn repr_and_string() {
    let text = format!("{:?}", parse("popen//id=this//worker=/that"));
    assert!(text.contains("this") && text.contains("/that"), "{text}");
}

#[test]
fn hash_equality() {
    assert_eq!(parse("popen"), parse("popen"));
    assert_ne!(parse("popen//worker=123"), parse("popen"));
    // Equal by what they say, where execnet compares texts.
    assert_eq!(parse("popen//id=a//nice=1"), parse("nice=1//popen//id=a"));
}

#[test]
fn no_type() {
    let group = builder().build();
    for text in ["hullo", "", "socket=qwepoipqwe:9000"] {
        let error = group.make_gateway(text).unwrap_err();
        assert!(matches!(error, GatewayError::Spec(SpecError::UnknownKey { .. })), "{text}: {error:?}");
    }
    let error = group.make_gateway("id=hello").unwrap_err();
    assert!(matches!(error, GatewayError::Spec(SpecError::NoKind { .. })), "{error:?}");
    assert!(group.is_empty());
}

#[test]
fn popen_default() {
    let group = builder().build();
    let gateway = group.make_default_gateway().unwrap();
    assert_eq!(gateway.spec(), &popen().id("gw0"));
    run(&gateway, "noop").wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn popen_nice() {
    let group = group(&["popen", "popen//nice=5"]);
    let nice = |position: usize| Watched::new(group[position].pid().unwrap()).nice();
    assert_eq!(nice(1), nice(0) + 5);
}

#[test]
fn popen_env() {
    let group = group(&["popen//env:NAME123=123"]);
    let view: WasiView = run(&group[0], "wasi_probe").receive_timeout(LIMIT).unwrap();
    // And nothing of the host's.
    assert_eq!(view.env, [("NAME123".to_owned(), "123".to_owned())]);
}

#[test]
fn popen_explicit() {
    let group = Group::new([format!("popen//worker={}", worker().display())]).unwrap();
    let exe = worker().canonicalize().unwrap();
    assert_eq!(Path::new(&Watched::new(group[0].pid().unwrap()).link("exe")), exe);
}

#[test]
fn popen_chdir_absolute() {
    let directory = tempfile::tempdir().unwrap();
    let group = builder().build();
    // A worker in namespaces of its own has left this directory for an empty root, and there would be nothing to see.
    let gateway = group
        .make_gateway(spec(&format!("popen//chdir={}//sandbox:namespaces=off", directory.path().display())))
        .unwrap();
    let cwd = Watched::new(gateway.pid().unwrap()).link("cwd");
    assert_eq!(Path::new(&cwd), directory.path().canonicalize().unwrap());
}

#[test]
fn popen_chdir_newsub() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("hello");
    let group = builder().build();
    let error = group.make_gateway(popen().chdir(&missing)).unwrap_err();
    let GatewayError::Launch { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains(&format!("in directory `{}`", missing.display())), "{source}");
    assert!(!missing.exists(), "nothing is made that nobody asked for");
    // execnet leaves a gateway behind.
    assert!(group.is_empty());
}
