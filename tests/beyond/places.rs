//! Specs of gateways elsewhere, the processes behind them, and launchers made for a test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use sandgate::{Channel, Gateway, Group, LinkProblem, LossCause, Outcome, Spec, WaitError};
use sandgate_tests::{LIMIT, Watched, builder, children_of, eventually, sibling, worker};

/// A link may be this long silent in tests that break links.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);

/// A gateway behind an agent that is started without a shell, and without ssh.
pub(crate) fn exec() -> Spec {
    let worker = worker().to_str().expect("a path that is text");
    Spec::exec([worker, "agent"]).expect("a program")
}

/// A group of these, with the tests' own cache.
#[track_caller]
pub(crate) fn group(specs: impl IntoIterator<Item = Spec>) -> Group {
    let group = builder().build();
    match group.make_gateways(specs) {
        Ok(_) => group,
        Err(error) => panic!("no group: {error:?}"),
    }
}

/// Whether a gateway runs a guest.
#[track_caller]
pub(crate) fn assert_echoes(gateway: &Gateway) {
    let channel = sibling(gateway);
    channel.close_send();
    channel.wait_close_timeout(LIMIT).expect("an echo that ends");
}

/// The process that started a gateway's worker: its agent.
pub(crate) fn agent_of(gateway: &Gateway) -> Watched {
    // The worker's id arrives a moment before or after its hello.
    eventually(LIMIT, "the worker's id", || gateway.pid().is_some());
    parent_of(gateway.pid().unwrap()).expect("the worker and its agent are there")
}

/// The process that started another one.
pub(crate) fn parent_of(pid: u32) -> Option<Watched> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ").expect("a name in parentheses");
    let parent = after_name.split(' ').nth(1).and_then(|parent| parent.parse().ok());
    Watched::find(parent.expect("the parent's id"))
}

/// The worker of a gateway.
pub(crate) fn worker_of(gateway: &Gateway) -> Watched {
    eventually(LIMIT, "the worker's id", || gateway.pid().is_some());
    Watched::new(gateway.pid().unwrap())
}

/// Everything that an agent has started, and itself.
pub(crate) fn family(agent: &Watched) -> Vec<Watched> {
    let children = children_of(agent.pid()).into_iter().filter_map(|child| Watched::find(child.pid));
    children.chain(Watched::find(agent.pid())).collect()
}

#[track_caller]
pub(crate) fn all_go(family: &[Watched]) {
    for process in family {
        eventually(LIMIT, &format!("process {} to be gone", process.pid()), || process.is_gone());
    }
}

/// How a channel's link was lost, and what is known of it.
#[track_caller]
pub(crate) fn lost_link(channel: &Channel) -> (LinkProblem, String) {
    match channel.wait_close_timeout(LIMIT) {
        Err(WaitError::Ended(Outcome::WorkerLost { loss })) => match loss.cause {
            LossCause::Link { problem, message } => (problem, message),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// A program of a few lines.
pub(crate) struct Script {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Script {
    pub(crate) fn new(lines: &str) -> Script {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("launcher");
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Script { _directory: directory, path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::exec([self.path()]).unwrap()
    }
}
