//! `Channel::kill` ends one execution, whatever it is doing, and nothing else.

use std::sync::mpsc;

use sandgate::{Channel, Event, KilledBy, Outcome, WaitError};
use sandgate_tests::{LIMIT, State, assert_echoes, assert_one_end_each, builder, group, run, sibling, spec, within};

const KILLED: Outcome = Outcome::Killed { by: KilledBy::Kill, started: true };

fn kill(channel: &Channel) -> Outcome {
    let channel = channel.clone();
    within(LIMIT, "the end of a killed execution", move || channel.kill()).expect("an outcome")
}

/// Kills a guest in `state`, with a sibling on the same gateway that has to go on.
fn check(state: State) {
    let group = group(&["popen"]);
    let sibling = sibling(&group[0]);
    let channel = state.enter(&group[0]);
    assert_eq!(kill(&channel), KILLED);
    assert_eq!(kill(&channel), KILLED, "an outcome stays");
    assert_one_end_each(&[channel]);
    assert_echoes(&sibling);
    run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
    assert_eq!(group[0].status().unwrap().running, 1, "the sibling is left");
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

#[test]
fn before_it_has_begun() {
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen//executions=1")).unwrap();
    let first = sibling(&gateway);
    let second = run(&gateway, "send_one");
    assert_eq!(kill(&second), Outcome::Killed { by: KilledBy::Kill, started: false });
    assert_echoes(&first);
    first.close_send();
    first.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn after_it_has_ended() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "send_one");
    channel.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(kill(&channel), Outcome::Returned);
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 1);
}

#[test]
fn all_of_many_at_once() {
    let group = group(&["popen"]);
    let sibling = sibling(&group[0]);
    let channels: Vec<Channel> = State::ALL.iter().map(|state| state.enter(&group[0])).collect();
    for channel in &channels {
        assert_eq!(kill(channel), KILLED);
    }
    assert_echoes(&sibling);
}

#[test]
fn from_its_own_callback() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "receives_forever");
    let (sender, said) = mpsc::channel();
    let own = channel.clone();
    channel
        .set_callback(move |event: Event<()>| match event {
            Event::Item(()) => drop(sender.send(own.kill())),
            Event::End(outcome) => drop(sender.send(Ok(outcome))),
        })
        .unwrap();
    assert!(matches!(said.recv_timeout(LIMIT).unwrap(), Err(WaitError::InCallback)));
    assert_eq!(said.recv_timeout(LIMIT).unwrap().unwrap(), KILLED);
}
