//! Launchers that do not lead to an agent: each failure says which it is, and leaves nothing behind.

use std::time::{Duration, Instant};

use sandgate::{GatewayError, LossCause, ReachError, Spec};
use sandgate_tests::{LIMIT, builder, children_of, eventually, worker};
use sandgate_wire::link::frame::{FrameEncoder, LinkFrame, PREAMBLE};
use sandgate_wire::link::message::{AgentHello, hello_body, kind};

use crate::places::{Script, assert_echoes, exec, group};

#[track_caller]
fn failure(spec: Spec) -> ReachError {
    let group = builder().build();
    let started = Instant::now();
    let error = group.make_gateway(spec.with_hello_deadline(Duration::from_secs(5))).unwrap_err();
    assert!(started.elapsed() < LIMIT);
    eventually(LIMIT, "nothing of the launcher to be left", || {
        children_of(std::process::id()).iter().all(|child| child.name != "launcher" && child.name != "sleep")
    });
    match error {
        GatewayError::Reach { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_failure_says_which_it_is() {
    let missing = failure(Spec::exec(["/nonexistent/launcher"]).unwrap());
    assert!(matches!(&missing, ReachError::NoLauncher { program, .. } if program.ends_with("launcher")), "{missing:?}");

    let not_there = failure(Script::new("echo 'sandgate: not found' >&2; exit 127").spec());
    assert!(matches!(&not_there, ReachError::NoBinary { words } if words.contains("not found")), "{not_there:?}");

    let crashed = failure(Script::new("echo oops >&2; exit 3").spec());
    let code = LossCause::Exited { code: 3 };
    assert!(
        matches!(&crashed, ReachError::Ended { cause, words } if *cause == code && words.contains("oops")),
        "{crashed:?}"
    );

    let killed = failure(Script::new("kill -9 $$").spec());
    assert!(matches!(killed, ReachError::Ended { cause: LossCause::Signaled { signal: 9 }, .. }), "{killed:?}");

    let stranger = failure(Script::new("echo Welcome; echo to another program").spec());
    assert!(matches!(&stranger, ReachError::NotAnAgent { said } if said.contains("Welcome")), "{stranger:?}");

    let garbage = failure(Script::new("exec cat /dev/zero").spec());
    assert!(matches!(garbage, ReachError::NotAnAgent { .. }), "{garbage:?}");

    let nonsense = failure(Script::new(r"printf '\000SANDGATE LINK\000\n'; exec cat /dev/urandom").spec());
    assert!(matches!(nonsense, ReachError::NotAnAgent { .. }), "{nonsense:?}");

    let silent = failure(Script::new("echo waiting >&2; exec sleep 1000").spec());
    assert!(matches!(&silent, ReachError::Silent { words, .. } if words.contains("waiting")), "{silent:?}");
}

#[test]
fn a_failure_leaves_the_group_as_it_was() {
    let group = group([exec()]);
    let broken = Script::new("exit 3");
    group.make_gateways([exec(), broken.spec()]).unwrap_err();
    assert_eq!(group.len(), 1);
    assert_echoes(&group[0]);
    let error = group.make_gateway(exec().via("nobody")).unwrap_err();
    assert!(matches!(&error, GatewayError::NoSuchWay { via, .. } if via == "nobody"), "{error}");
}

#[test]
fn noise_before_the_agent_is_put_up_with() {
    let noisy = format!("echo 'Last login: yesterday'; echo 'motd' >&2; exec '{}' agent", worker().display());
    let launcher = Script::new(&noisy);
    assert_echoes(&group([launcher.spec()])[0]);
}

#[test]
fn an_agent_is_not_for_people() {
    let error = sandgate_tests::output(worker(), &["agent", "--nonsense"], sandgate_tests::repository());
    assert_eq!(error.status.code(), Some(2));
}

/// A launcher that says what an agent of another time would, and waits.
fn agent_of_another_version(version: &str, link: Option<u16>) -> (Script, tempfile::NamedTempFile) {
    let mut hello = hello_body(&AgentHello { package_version: version.to_owned(), ..AgentHello::of_this_process("") });
    if let Some(link) = link {
        hello[..2].copy_from_slice(&link.to_le_bytes());
    }
    let mut said = PREAMBLE.to_vec();
    FrameEncoder::default().append(LinkFrame { kind: kind::HELLO, stream: 0, payload: &hello }, &mut said);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), said).unwrap();
    (Script::new(&format!("cat '{}'; exec sleep 1000", file.path().display())), file)
}

#[test]
fn an_agent_of_another_version_is_told_by_its_version() {
    let check = |version: &str, link, expected: &str| {
        let (launcher, _said) = agent_of_another_version(version, link);
        let error = failure(launcher.spec());
        assert!(matches!(&error, ReachError::Version { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("install the same version"), "{text}");
    };
    check("99.0.0", None, "99.0.0");
    check("99.0.0", Some(777), "777 of the link's protocol");
    check("\u{1b}[2J", None, "\\u{1b}[2J");
}
