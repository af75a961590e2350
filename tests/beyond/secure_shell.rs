//! Gateways by ssh, with a real server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::process::Signal;
use sandgate::{GatewayError, LinkProblem, LossCause, ReachError, Spec};
use sandgate_tests::{LIMIT, SshServer, State, Watched, builder, children_of, popen, within, worker};

use crate::agents::task_processors;
use crate::places::{agent_of, all_go, assert_echoes, exec, family, group, lost_link};

#[track_caller]
fn failure(spec: Spec) -> ReachError {
    match builder().build().make_gateway(spec).unwrap_err() {
        GatewayError::Reach { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn task_processors_over_every_kind_of_gateway_in_one_group() {
    let Some(server) = SshServer::start("") else { return };
    let behind = server.spec().id("behind").via("launched");
    let beside = Spec::popen().id("beside").via("reached");
    task_processors(vec![popen(), exec().id("launched"), server.spec().id("reached"), behind, beside]);
}

#[test]
fn the_binary_is_copied_once_and_named_by_its_hash() {
    let Some(server) = SshServer::start("") else { return };
    assert!(server.copied().is_empty());
    let first = group([server.spec()]);
    assert_echoes(&first[0]);
    let copied = server.copied();
    assert_eq!(copied.len(), 1, "{copied:?}");
    let name = copied[0].file_name().unwrap().to_str().unwrap();
    assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    let metadata = fs::metadata(&copied[0]).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    assert_eq!(metadata.len(), fs::metadata(worker()).unwrap().len());
    let family = family(&agent_of(&first[0]));
    drop(first);
    all_go(&family);

    assert_echoes(&group([server.spec()])[0]);
    assert_eq!(server.copied(), copied);
    assert_eq!(fs::metadata(&copied[0]).unwrap().ino(), metadata.ino(), "it is the same file");
}

#[test]
fn a_copy_that_was_damaged_is_made_anew() {
    let Some(server) = SshServer::start("") else { return };
    assert_echoes(&group([server.spec()])[0]);
    let copied = server.copied();
    let whole = fs::metadata(worker()).unwrap().len();
    // An agent that runs keeps what it has: another file takes its place.
    for damage in [&b""[..], b"#!/bin/sh\n", b"\x7fELF"] {
        let damaged = copied[0].with_extension("damaged");
        fs::write(&damaged, damage).unwrap();
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o700)).unwrap();
        fs::rename(&damaged, &copied[0]).unwrap();
        assert_echoes(&group([server.spec()])[0]);
        assert_eq!((server.copied(), fs::metadata(&copied[0]).unwrap().len()), (copied.clone(), whole));
    }
}

#[test]
fn an_installed_agent_of_the_same_version_is_used() {
    let installed = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(worker(), installed.path().join("sandgate")).unwrap();
    let Some(server) = SshServer::start(&format!("PATH={}:/usr/bin:/bin", installed.path().display())) else { return };
    assert_echoes(&group([server.spec()])[0]);
    assert!(server.copied().is_empty());
}

#[test]
fn each_failure_says_which_it_is_in_the_words_of_ssh() {
    let Some(server) = SshServer::start("") else { return };
    let check = |error: ReachError, fits: fn(&ReachError) -> bool, words: &str| {
        let text = error.to_string();
        assert!(fits(&error) && text.contains(words), "{error:?}");
    };
    let stranger = failure(server.spec_with("wrong_key"));
    check(stranger, |it| matches!(it, ReachError::Authentication { .. }), "Permission denied");
    let unknown = failure(server.spec_with("wrong_host"));
    check(unknown, |it| matches!(it, ReachError::HostKey { .. }), "Host key verification failed");
    let config = |spec: Spec| spec.ssh_config(server.config()).agent(worker()).with_hello_deadline(LIMIT);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = failure(config(Spec::ssh(&format!("127.0.0.1:{closed}")).unwrap()));
    check(refused, |it| matches!(it, ReachError::Refused { .. }), "Connection refused");
    let nowhere = failure(config(Spec::ssh("nowhere.invalid").unwrap()));
    check(nowhere, |it| matches!(it, ReachError::NotFound { .. }), "nowhere.invalid");
    let broken = failure(server.spec().agent("/bin/true"));
    check(
        broken,
        |it| matches!(it, ReachError::Ended { cause: LossCause::Exited { code: 0 }, .. }),
        "exited with code 0",
    );
}

#[test]
fn a_client_that_is_killed_ends_everything_behind_it() {
    let Some(server) = SshServer::start("") else { return };
    within(LIMIT * 2, "an end", move || {
        let group = group([server.spec(), server.spec(), popen()]);
        let channel = State::Computes.enter(&group[0]);
        let family = family(&agent_of(&group[0]));
        let client = children_of(std::process::id()).into_iter().find(|child| child.name == "ssh").expect("a client");
        Watched::new(client.pid).signal(Signal::KILL);
        let (problem, message) = lost_link(&channel);
        assert!(problem == LinkProblem::Ended && message.contains("signal 9"), "{problem}: {message}");
        all_go(&family);
        assert_echoes(&group[2]);
    });
}

#[test]
fn what_keeps_a_binary_from_being_there_is_said() {
    let odd = tempfile::tempdir().unwrap();
    fs::write(odd.path().join("uname"), "#!/bin/sh\necho Plan9\n").unwrap();
    fs::set_permissions(odd.path().join("uname"), fs::Permissions::from_mode(0o755)).unwrap();
    let Some(server) = SshServer::start(&format!("PATH={}:/usr/bin:/bin", odd.path().display())) else { return };
    let platform = failure(server.spec_without_a_binary());
    assert!(matches!(&platform, ReachError::Platform { theirs, .. } if theirs.contains("plan9")), "{platform:?}");
    assert!(platform.to_string().contains("install `sandgate`"), "{platform}");

    let unreadable = failure(server.spec().agent("/nonexistent/agent"));
    assert!(
        matches!(&unreadable, ReachError::Copy { problem, .. } if problem.contains("/nonexistent/agent")),
        "{unreadable:?}"
    );

    // No directory can be made where a file is.
    fs::write(server.agents().parent().unwrap(), "").unwrap();
    let no_place = failure(server.spec());
    assert!(
        matches!(&no_place, ReachError::Copy { problem, .. } if problem.contains("cannot make the directory")),
        "{no_place:?}"
    );
}
