//! Links: what two hundred of them leave on the host, and what two hundred workers leave with one agent.

use std::fs;

use rustix::process::Signal;
use sandgate::{Gateway, Spec};
use sandgate_tests::{
    LIMIT, Watched, assert_echoes, builder, children_of, eventually, resident_bytes, run, sibling, worker,
};

const LINKS: usize = 200;
/// Those after which a process has what it keeps: places for threads, memory that is given back to nobody.
const FIRST: usize = 40;
/// What memory may grow by afterwards. A stream's window alone is 2 MiB.
const FLAT_BYTES: u64 = 8 << 20;

/// A gateway behind an agent.
fn exec() -> Spec {
    Spec::exec([worker().to_str().unwrap(), "agent"]).unwrap()
}

/// One with two processes between host and agent that can be killed, which cuts the link for both.
fn relayed() -> Spec {
    Spec::exec(["sh", "-c", &format!("cat | '{}' agent | cat", worker().display())]).unwrap()
}

/// The agent that has started a gateway's worker.
fn agent_of(gateway: &Gateway) -> Watched {
    eventually(LIMIT, "the worker's id", || gateway.pid().is_some());
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid().unwrap())).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    Watched::new(after_name.split(' ').nth(1).unwrap().parse().unwrap())
}

/// Links that are ended, killed and cut in turn, each with a guest that runs.
pub(crate) fn many_links() {
    let mut before = 0;
    for turn in 0..LINKS {
        if turn == FIRST {
            before = resident_bytes();
        }
        let group = builder().build();
        let gateway = group.make_gateway(if turn % 3 == 2 { relayed() } else { exec() }).unwrap();
        let channel = run(&gateway, "silent");
        assert_echoes(&sibling(&gateway));
        let agent = agent_of(&gateway);
        let far: Vec<Watched> = children_of(agent.pid()).iter().filter_map(|child| Watched::find(child.pid)).collect();
        match turn % 3 {
            0 => assert!(group.terminate(LIMIT).gateways.len() == 1),
            1 => agent.signal(Signal::KILL),
            _ => {
                let shells = children_of(std::process::id()).into_iter().filter(|child| child.name == "sh");
                let between = shells.flat_map(|shell| children_of(shell.pid)).filter(|child| child.name == "cat");
                between.filter_map(|cat| Watched::find(cat.pid)).for_each(|cat| cat.signal(Signal::KILL));
            }
        }
        eventually(LIMIT, "the end of the channel", || channel.outcome().is_some());
        drop(group);
        for process in far.iter().chain([&agent]) {
            eventually(LIMIT, "nothing to be left at the far end", || process.is_gone());
        }
    }
    let after = resident_bytes();
    assert!(after < before + FLAT_BYTES, "the host has grown from {before} to {after} bytes");
}

/// Threads of an agent with one worker: the link's three, the spawner, and two for the worker.
const THREADS: usize = 6;

/// What an agent holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    children: usize,
}

impl Held {
    fn by(agent: &Watched) -> Held {
        let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", agent.pid())).unwrap().count();
        Held { descriptors: count("fd"), threads: count("task"), children: children_of(agent.pid()).len() }
    }

    fn resident(agent: &Watched) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", agent.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
    }
}

/// Workers of one agent that end, are killed and killed from behind in turn.
pub(crate) fn many_workers_of_one_agent() {
    let group = builder().build();
    let first = group.make_gateway(exec()).unwrap();
    assert_echoes(&sibling(&first));
    let agent = agent_of(&first);
    let mut before = None;
    for turn in 0..LINKS {
        if turn == FIRST {
            before = Some((settled(&agent), Held::resident(&agent)));
        }
        let gateway = group.make_gateway(exec()).unwrap();
        let channel = run(&gateway, "silent");
        assert_echoes(&sibling(&gateway));
        match turn % 3 {
            0 => drop(gateway.terminate(LIMIT)),
            1 => gateway.kill(),
            _ => Watched::new(gateway.pid().unwrap()).signal(Signal::KILL),
        }
        eventually(LIMIT, "the end of the channel", || channel.outcome().is_some());
        gateway.terminate(LIMIT);
    }
    let (held, bytes) = before.unwrap();
    eventually(LIMIT, "the agent to hold no more than it held", || {
        let now = Held::by(&agent);
        now.children == held.children && now.descriptors <= held.descriptors && now.threads <= THREADS
    });
    let after = Held::resident(&agent);
    assert!(after < bytes + FLAT_BYTES, "the agent has grown from {bytes} to {after} bytes");
    assert_echoes(&sibling(&first));
}

/// What an agent holds while it has one worker, once those before are gone.
fn settled(agent: &Watched) -> Held {
    eventually(LIMIT, "one worker to be left", || Held::by(agent).children == 1);
    let mut held = Held::by(agent);
    eventually(LIMIT, "the threads of workers to be gone", || {
        let before = std::mem::replace(&mut held, Held::by(agent));
        before == held && held.threads <= THREADS
    });
    held
}
