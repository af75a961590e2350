//! What an agent does for a host that it trusts no more than it must, and what reaches neither workers nor errors.

use std::fs;
use std::time::{Duration, SystemTime};

use sandgate::isolation::Demand;
use sandgate::{GatewayError, Spec};
use sandgate_tests::{LIMIT, SshServer, builder, children_of, eventually, popen, worker};

use crate::places::{Script, agent_of, assert_echoes, exec, group, worker_of};

/// A gateway behind an agent with these arguments.
fn agent(arguments: &[&str]) -> Spec {
    let worker = worker().to_str().unwrap();
    Spec::exec([&[worker, "agent"], arguments].concat()).unwrap()
}

#[track_caller]
fn refused(spec: Spec, words: &str) {
    let error = builder().build().make_gateway(spec).unwrap_err();
    let cause = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
    let text = format!("{error}: {cause}");
    assert!(text.contains("--confined") && text.contains(words), "{text}");
}

#[test]
fn a_confined_agent_runs_guests_and_nothing_else() {
    let confined = || agent(&["--confined"]);
    assert_echoes(&group([confined(), confined().sandbox(Demand::Require)])[0]);
    refused(confined().worker("/bin/true"), "worker=");
    refused(confined().chdir("/"), "chdir=");
    refused(confined().dir("/data", "/etc"), "directories");
    refused(confined().sandbox(Demand::Off), "sandbox");
    let group = group([confined().id("first")]);
    let error = group.make_gateway(exec().via("first")).unwrap_err();
    assert!(
        matches!(&error, GatewayError::Reach { source, .. } if source.to_string().contains("--confined")),
        "{error:?}"
    );
    assert_echoes(&group[0]);
}

#[test]
fn an_agent_has_as_many_processes_as_it_may() {
    let two = || agent(&["--max-processes", "2"]);
    let group = group([two(), two()]);
    let error = group.make_gateway(two()).unwrap_err().to_string();
    assert!(error.contains("--max-processes"), "{error}");
    group[0].exit();
    eventually(LIMIT, "a place for another one", || group.make_gateway(two()).is_ok());
    assert_echoes(&group[1]);
}

#[test]
fn a_key_can_be_good_for_guests_alone() {
    let Some(server) = SshServer::start("") else { return };
    server.force_command(&format!("{} agent --confined", worker().display()));
    assert_echoes(&group([server.spec()])[0]);
    assert!(server.copied().is_empty(), "nothing but the command runs");
    refused(server.spec().dir("/data", "/etc"), "directories");
}

#[test]
fn nothing_of_an_environment_reaches_a_worker() {
    let lines = format!("SANDGATE_TOKEN=hunter2 exec '{}' agent", worker().display());
    let launcher = Script::new(&lines);
    let group = group([launcher.spec(), popen()]);
    assert_echoes(&group[0]);
    let agent = agent_of(&group[0]);
    let of_agent = fs::read(format!("/proc/{}/environ", agent.pid())).unwrap();
    assert!(String::from_utf8_lossy(&of_agent).contains("hunter2"), "the agent has what its launcher gave it");
    for gateway in group.iter() {
        let environment = fs::read(format!("/proc/{}/environ", worker_of(gateway).pid())).unwrap();
        assert_eq!(String::from_utf8_lossy(&environment), "", "{}", gateway.id());
    }
    assert!(children_of(agent.pid()).iter().all(|child| {
        fs::read(format!("/proc/{}/environ", child.pid)).is_ok_and(|environment| environment.is_empty())
    }));
}

#[test]
fn arguments_of_launchers_are_in_no_error() {
    let with_token = |lines: &str| {
        let launcher = Script::new(lines);
        let spec = Spec::exec([launcher.path(), "--token=hunter2"]).unwrap();
        (launcher, spec.with_hello_deadline(Duration::from_secs(5)))
    };
    for lines in ["exit 3", "exit 127", "kill -9 $$", "echo no agent", "exec sleep 1000", "exec cat /dev/zero"] {
        let (_launcher, spec) = with_token(lines);
        let error = builder().build().make_gateway(spec).unwrap_err();
        let text = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!text.contains("hunter2"), "{lines}: {text}");
    }
    let missing = Spec::exec(["/nonexistent/launcher", "--token=hunter2"]).unwrap();
    let error = builder().build().make_gateway(missing).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"));
    let (_launcher, spec) = with_token(&format!("exec '{}' agent", worker().display()));
    let group = group([spec]);
    let channel = sandgate_tests::run(&group[0], "spin");
    let agent = agent_of(&group[0]);
    agent.signal(rustix::process::Signal::KILL);
    let outcome = channel.wait_close_timeout(LIMIT).unwrap_err();
    let text = format!("{outcome} {outcome:?} {:?} {:?}", group[0], group);
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn agents_of_old_versions_are_cleared_away() {
    let Some(server) = SshServer::start("") else { return };
    let day = Duration::from_secs(24 * 60 * 60);
    fs::create_dir_all(server.agents()).unwrap();
    let old: Vec<_> = (0..6_u32).map(|digit| server.agents().join(format!("{digit:064x}"))).collect();
    for (age, path) in old.iter().enumerate() {
        let file = fs::File::create(path).unwrap();
        file.set_modified(SystemTime::now() - day * u32::try_from(age * 20).unwrap()).unwrap();
    }
    assert_echoes(&group([server.spec()])[0]);
    // Its own; three more whatever their age, of which the first two were used within a month.
    eventually(LIMIT, "the old ones to be gone", || server.copied().len() == 4);
    assert!(old[..3].iter().all(|path| path.exists()), "{:?}", server.copied());
    assert_echoes(&group([server.spec()])[0]);
    assert_eq!(server.copied().len(), 4);
}
