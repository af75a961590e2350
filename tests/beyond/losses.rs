//! Links that are lost: whoever waits is told how, in time, and nothing is left at the far end.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate::{LinkProblem, LossCause, Outcome, Recycle, WaitError};
use sandgate_tests::{LIMIT, State, Watched, children_of, run, start_host, within, worker};

use crate::places::{HEARTBEAT, Script, agent_of, all_go, assert_echoes, exec, family, group, lost_link, worker_of};

#[test]
fn an_agent_that_is_killed_is_noticed_at_once() {
    let group = group([exec(), exec()]);
    let channels = [State::Receives.enter(&group[0]), State::Computes.enter(&group[1])];
    let agent = agent_of(&group[0]);
    let family = family(&agent);
    agent.signal(Signal::KILL);
    for channel in &channels {
        assert_eq!(lost_link(channel).0, LinkProblem::Ended);
        let text = channel.outcome().unwrap().to_string();
        assert!(text.contains("ended by signal 9"), "{text}");
    }
    all_go(&family);
}

#[test]
fn an_agent_that_is_frozen_is_noticed_by_its_silence() {
    let group = group([exec().with_heartbeat(HEARTBEAT)]);
    let channel = State::Receives.enter(&group[0]);
    let agent = agent_of(&group[0]);
    let family = family(&agent);
    let frozen = Instant::now();
    agent.signal(Signal::STOP);
    assert_eq!(lost_link(&channel).0, LinkProblem::Silent { after: HEARTBEAT });
    let took = frozen.elapsed();
    assert!(took >= HEARTBEAT / 2 && took < HEARTBEAT * 5, "{took:?}");
    all_go(&family);
}

#[test]
fn an_agent_whose_host_is_silent_ends_with_all_it_has_started() {
    within(LIMIT * 2, "an agent that nobody talks to", || {
        // Between the two stands a process that can be frozen, and keeps the pipes open.
        let between = Script::new(&format!("cat | '{}' agent | cat", worker().display()));
        let group = group([between.spec().with_heartbeat(HEARTBEAT)]);
        let channel = State::Computes.enter(&group[0]);
        let agent = agent_of(&group[0]);
        let family = family(&agent);
        let launcher = children_of(std::process::id()).into_iter().find(|it| it.name == "launcher").unwrap();
        let cats: Vec<_> = children_of(launcher.pid).into_iter().filter(|it| it.name == "cat").collect();
        assert_eq!(cats.len(), 2);
        cats.iter().for_each(|cat| Watched::new(cat.pid).signal(Signal::STOP));
        all_go(&family);
        assert_eq!(lost_link(&channel).0, LinkProblem::Silent { after: HEARTBEAT });
    });
}

#[test]
fn what_is_not_what_was_sent_is_noticed() {
    // Changes one byte of what the agent says, some way into the stream. `dd` keeps nothing back.
    let corrupting = format!(
        "'{}' agent | {{ dd bs=1 count=3000 status=none; dd bs=1 count=1 status=none of=/dev/null; printf X; exec cat; }}",
        worker().display()
    );
    let launcher = Script::new(&corrupting);
    let group = group([launcher.spec()]);
    let channel = run(&group[0], "echo");
    let family = family(&agent_of(&group[0]));
    for _ in 0..200 {
        if channel.send_bytes(vec![7; 100]).is_err() || channel.receive_bytes_timeout(LIMIT).is_err() {
            break;
        }
    }
    assert_eq!(lost_link(&channel).0, LinkProblem::Corrupt);
    all_go(&family);
}

#[test]
fn a_worker_that_is_killed_is_lost_alone() {
    let group = group([exec(), exec()]);
    let channel = State::Receives.enter(&group[0]);
    worker_of(&group[0]).signal(Signal::KILL);
    match channel.wait_close_timeout(LIMIT) {
        Err(WaitError::Ended(Outcome::WorkerLost { loss })) => {
            assert_eq!(loss.cause, LossCause::Signaled { signal: 9 });
            assert_eq!(loss.gateway, "gw0");
        }
        other => panic!("{other:?}"),
    }
    assert_echoes(&group[1]);
}

#[test]
fn a_gateway_that_replaces_its_worker_reaches_the_machine_anew() {
    let group = group([exec().recycle(Recycle { after_loss: true, ..Recycle::default() })]);
    let lost = State::Receives.enter(&group[0]);
    agent_of(&group[0]).signal(Signal::KILL);
    assert_eq!(lost_link(&lost).0, LinkProblem::Ended);
    assert_echoes(&group[0]);
    assert_eq!(group[0].status().unwrap().recycled.losses, 1);
}

#[test]
fn a_host_that_dies_takes_everything_along() {
    let spec = format!("spec:exec={} agent", worker().display().to_string().replace('/', "\\/"));
    let mut host = start_host(env!("CARGO_BIN_EXE_host-process"), "leave", &[&spec, "spin", "silent"]);
    let agents = children_of(host.process.pid()).into_iter().filter_map(|child| Watched::find(child.pid));
    let families: Vec<_> = agents.flat_map(|agent| family(&agent)).chain(host.workers.drain(..)).collect();
    assert!(families.len() >= 3, "an agent and its workers");
    host.process.kill();
    all_go(&families);
}

#[test]
fn a_group_with_a_frozen_machine_is_terminated_in_time() {
    let group = group([exec()]);
    let channel = State::Computes.enter(&group[0]);
    let agent = agent_of(&group[0]);
    let family = family(&agent);
    agent.signal(Signal::STOP);
    let started = Instant::now();
    group.terminate(Duration::from_millis(200));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(channel.outcome().is_some());
    all_go(&family);
}
