//! `Group::terminate` ends everything within one deadline, whatever the guests are doing, and every execution gets its one
//! outcome.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate::{Channel, Ending, Event, Group, Outcome, SendError, TerminationReport};
use sandgate_tests::{LIMIT, State, Watched, assert_one_end_each, eventually, group, module, run, within};

/// What a termination is given.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What it may take beyond that on a machine that does other things as well.
const MARGIN: Duration = Duration::from_secs(3);

fn terminate(group: &Arc<Group>) -> TerminationReport {
    let group = Arc::clone(group);
    let start = Instant::now();
    let report = within(LIMIT, "the termination of a group", move || group.terminate(TIMEOUT));
    let elapsed = start.elapsed();
    assert!(elapsed < TIMEOUT + MARGIN, "a termination within {TIMEOUT:?} took {elapsed:?}");
    report
}

fn processes(group: &Group) -> Vec<Watched> {
    group.iter().map(|gateway| Watched::new(gateway.pid().expect("a process"))).collect()
}

/// Terminates a group with a guest in `state`, and an idle gateway beside it.
fn check(state: State) {
    let group = Arc::new(group(&["popen"; 2]));
    let processes = processes(&group);
    let channel = state.enter(&group[0]);
    let report = terminate(&group);
    assert!(report.is_clean(), "no process has to be killed: {report:?}");
    assert_eq!(report.gateways[1].ending, Ending::Clean);
    assert!(processes.iter().all(Watched::is_gone));
    assert!(group.is_empty());
    assert_one_end_each(&[channel]);
}

#[test]
fn while_it_computes() {
    check(State::Computes);
}

#[test]
fn while_it_sleeps() {
    check(State::Sleeps);
}

#[test]
fn while_it_receives() {
    check(State::Receives);
}

#[test]
fn while_it_receives_for_ever() {
    check(State::ReceivesForEver);
}

#[test]
fn while_it_sends() {
    check(State::Sends);
}

#[test]
fn while_it_is_in_start() {
    check(State::InStart);
}

#[test]
fn while_both_directions_are_full() {
    check(State::BothFull);
}

/// The thread of the guest and the worker's main thread both come to the end then, whichever is first.
#[test]
fn while_many_receive_again_and_again() {
    for _ in 0..12 {
        let group = Arc::new(group(&["popen"; 16]));
        let channels: Vec<Channel> = group.iter().map(|gateway| State::Receives.enter(gateway)).collect();
        let report = terminate(&group);
        let unclean: Vec<_> = report.gateways.iter().filter(|gateway| gateway.ending != Ending::Clean).collect();
        assert!(unclean.is_empty(), "no process has to be killed: {unclean:?}");
        assert_one_end_each(&channels);
    }
}

#[test]
fn while_the_worker_is_stopped_and_the_socket_is_full() {
    let group = Arc::new(group(&["popen"]));
    let process = Watched::new(group[0].pid().unwrap());
    let channels: Vec<Channel> = (0..4).map(|_| run(&group[0], "silent")).collect();
    process.signal(Signal::STOP);
    for channel in &channels {
        loop {
            match channel.send_bytes_timeout(vec![0; 256 * 1024], Duration::ZERO) {
                Ok(()) => {}
                Err(SendError::Timeout(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let report = terminate(&group);
    assert_eq!(report.gateways[0].ending, Ending::Killed);
    assert!(process.is_gone());
    assert_one_end_each(&channels);
}

#[test]
fn with_a_guest_in_every_state_at_once() {
    let group = Arc::new(group(&["popen"; 2]));
    let processes = processes(&group);
    let channels: Vec<Channel> =
        group.iter().flat_map(|gateway| State::ALL.map(|state| state.enter(gateway))).collect();
    let report = terminate(&group);
    assert!(report.is_clean(), "{report:?}");
    assert!(processes.iter().all(Watched::is_gone));
    assert_one_end_each(&channels);
}

#[test]
fn from_inside_a_callback() {
    let group = Arc::new(group(&["popen"; 2]));
    let processes = processes(&group);
    let _busy = State::Computes.enter(&group[1]);
    let channel = run(&group[0], "receives_forever");
    let (sender, said) = mpsc::channel();
    let terminated = Arc::clone(&group);
    channel
        .set_callback(move |event: Event<()>| match event {
            Event::Item(()) => drop(sender.send(Ok(terminated.terminate(TIMEOUT)))),
            Event::End(outcome) => drop(sender.send(Err(outcome))),
        })
        .unwrap();
    let report = said.recv_timeout(LIMIT).unwrap().expect("the item comes before the end");
    assert!(report.is_clean(), "{report:?}");
    assert!(processes.iter().all(Watched::is_gone));
    assert!(matches!(said.recv_timeout(LIMIT).unwrap(), Err(Outcome::Killed { .. })));
    assert!(said.recv_timeout(LIMIT).is_err(), "the end comes once, and then the callback is gone");
}

#[test]
fn after_a_manual_exit() {
    let group = Arc::new(group(&["popen"; 2]));
    let processes = processes(&group);
    let channel = State::Sleeps.enter(&group[0]);
    for gateway in group.iter().cloned().collect::<Vec<_>>() {
        gateway.exit();
        gateway.exit();
    }
    assert!(group.is_empty());
    let report = terminate(&group);
    assert_eq!(report.gateways.len(), 2, "those that were told to exit are still the group's to end: {report:?}");
    assert!(processes.iter().all(Watched::is_gone));
    assert_one_end_each(&[channel]);
}

#[test]
fn of_a_gateway_that_is_gone() {
    let group = group(&["popen//id=kept", "popen//id=again"]);
    let gone = group.get("again").unwrap().clone();
    gone.kill();
    assert!(gone.join(LIMIT));
    assert!(group.contains(&gone), "a gateway whose worker has died is a member");
    assert_eq!(gone.terminate(TIMEOUT).ending, Ending::AlreadyGone);
    assert!(!group.contains(&gone), "one that was terminated is not, whatever it was before");
    let next = group.make_gateway(group[0].spec().clone().id("again")).unwrap();
    assert!(next.is_alive() && group.get("again") == Some(&next));
    assert_eq!(group.len(), 2);
}

#[test]
fn twice() {
    let group = Arc::new(group(&["popen"]));
    let gateway = group[0].clone();
    let channel = State::Computes.enter(&gateway);
    let first = terminate(&group);
    let outcome = channel.outcome();
    assert!(outcome.is_some());
    assert!(terminate(&group).gateways.is_empty());
    let again = gateway.terminate(TIMEOUT);
    assert_eq!((again.ending, again.cause), (Ending::AlreadyGone, first.gateways[0].cause.clone()));
    assert_eq!(channel.outcome(), outcome);
}

#[test]
fn while_another_thread_terminates_more_patiently() {
    let group = Arc::new(group(&["popen"]));
    let process = Watched::new(group[0].pid().unwrap());
    let channel = State::Sleeps.enter(&group[0]);
    let patient = Arc::clone(&group);
    let first = thread::Builder::new().spawn(move || patient.terminate(LIMIT)).unwrap();
    eventually(LIMIT, "a termination that has begun", || group.is_empty());
    // Whoever reports it, it is gone when this returns.
    terminate(&group);
    assert!(process.is_gone());
    assert_eq!(first.join().unwrap().gateways.len(), 1, "it is reported once");
    assert_one_end_each(&[channel]);
}

#[test]
fn right_after_remote_exec() {
    let group = Arc::new(group(&["popen"; 2]));
    let module = module("send_one");
    let channels: Vec<Channel> =
        (0..20).flat_map(|_| group.remote_exec(&module).unwrap().iter().cloned().collect::<Vec<_>>()).collect();
    let report = terminate(&group);
    assert!(report.is_clean(), "{report:?}");
    for channel in &channels {
        // Accepted is accepted: execnet loses it.
        assert_eq!(channel.outcome(), Some(Outcome::Returned));
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 1);
        assert!(channel.receive_timeout::<u32>(LIMIT).unwrap_err().is_end());
    }
}

#[test]
fn right_after_remote_exec_of_guests_that_stay() {
    let group = Arc::new(group(&["popen"; 2]));
    let stubborn = State::Computes.module();
    let channels: Vec<Channel> = group.remote_exec(&stubborn).unwrap().iter().cloned().collect();
    let report = terminate(&group);
    assert!(report.is_clean(), "{report:?}");
    for channel in &channels {
        assert!(matches!(channel.outcome(), Some(Outcome::Killed { .. })), "{:?}", channel.outcome());
    }
    assert_one_end_each(&channels);
}

#[test]
fn a_new_gateway_can_be_made_afterwards() {
    let group = Arc::new(group(&["popen"]));
    terminate(&group);
    let gateway = group.make_default_gateway().unwrap();
    assert_eq!(gateway.id(), "gw1");
    run(&gateway, "noop").wait_close_timeout(LIMIT).unwrap();
    assert_eq!(terminate(&group).gateways.len(), 1);
}
