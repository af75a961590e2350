//! Channels of a guest's own making, passed to it, and waited for together.

use sandgate::{Call, Channel, Outcome, ReceiveError, SendError, WaitError};
use sandgate_tests::{LIMIT, group, module, run, run_with, within};

#[test]
fn a_guest_waits_for_several_at_once() {
    let group = group(&["popen"]);
    let channels: [Channel; 3] = std::array::from_fn(|_| group[0].new_channel().unwrap());
    let report = run_with(&group[0], "selects", &channels);
    let next = || report.receive_timeout::<(u32, Option<u32>)>(LIMIT).unwrap();
    for (position, value) in [(2, 7_u32), (0, 8), (1, 9), (2, 10)] {
        channels[position as usize].send(&value).unwrap();
        assert_eq!(next(), (position, Some(value)));
    }
    for position in [1, 2, 0] {
        channels[position as usize].close_send();
        assert_eq!(next(), (position, None));
    }
    report.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn a_result_comes_on_the_channel_that_was_passed() {
    let group = group(&["popen"]);
    let result = group[0].new_channel().unwrap();
    let numbers = run_with(&group[0], "sums", &result);
    for number in 1..=100_u32 {
        numbers.send(&number).unwrap();
    }
    numbers.close_send();
    assert_eq!(result.receive_timeout::<u64>(LIMIT).unwrap(), 5050);
    numbers.wait_close_timeout(LIMIT).unwrap();
}

/// Runs a task of `channels` that makes a channel, sends one value or two on it, and ends it in its own way.
fn check_inner(task: &str, values: &[u32], end: Outcome) {
    let group = group(&["popen"]);
    let outer = group[0].remote_exec_fn(&module("channels"), task, &()).unwrap();
    let inner: Channel = outer.receive_timeout(LIMIT).unwrap();
    for value in values {
        assert_eq!(inner.receive_timeout::<u32>(LIMIT).unwrap(), *value);
    }
    for _ in 0..2 {
        assert!(matches!(inner.receive_timeout::<u32>(LIMIT), Err(ReceiveError::Ended(outcome)) if outcome == end));
    }
    // The task waits for a message, if it has not returned.
    let _ = outer.send(&());
    outer.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(group[0].status().unwrap().host_channels, 0);
}

#[test]
fn a_guest_ends_channels_in_several_ways() {
    check_inner("closes", &[1, 2], Outcome::Closed);
    check_inner("closes_with_error", &[1], Outcome::ClosedWithError { message: "inner trouble".into() });
    check_inner("drops", &[1], Outcome::Closed);
    check_inner("leaves", &[1], Outcome::Closed);
}

#[test]
fn channels_have_a_limit_and_are_given_back() {
    let group = group(&["popen//channels=10", "popen"]);
    let tasks = module("channels");
    let exhausts = group[0].remote_exec_fn(&tasks, "exhausts", &()).unwrap();
    assert_eq!(exhausts.receive_timeout::<u32>(LIMIT).unwrap(), 9, "and the execution's own");
    let recycles = group[1].remote_exec_fn(&tasks, "recycles", &(20_000_u32,)).unwrap();
    recycles.receive_timeout::<()>(LIMIT).unwrap();
    recycles.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn a_guest_forwards_from_one_channel_to_another() {
    let group = group(&["popen"]);
    let [from, to] = std::array::from_fn(|_| group[0].new_channel().unwrap());
    let task = group[0].remote_exec_fn(&module("channels"), "forwards", &((&from, &to),)).unwrap();
    for number in 0..100_u32 {
        from.send(&number).unwrap();
    }
    from.close_send();
    let numbers: Vec<u32> = to.iter().map(Result::unwrap).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    task.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn a_channel_that_comes_back_after_its_end_is_the_same() {
    let group = group(&["popen"]);
    let ours = group[0].new_channel().unwrap();
    let task = group[0].remote_exec_fn(&module("tasks"), "returns_channel", &(&ours,)).unwrap();
    // The guest sends it back and ends, and its end closes what it had.
    ours.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(task.receive_timeout::<Channel>(LIMIT).unwrap(), ours);
}

#[test]
fn a_channel_of_another_gateway_is_refused() {
    let group = group(&["popen"; 2]);
    let (echo, foreign) = (run(&group[0], "echo"), group[1].new_channel().unwrap());
    match echo.send(&foreign) {
        Err(SendError::ForeignChannel { ours, theirs }) => assert_eq!((&ours[..], &theirs[..]), ("gw0", "gw1")),
        other => panic!("{other:?}"),
    }
    let call = Call::start().args(&foreign).unwrap();
    assert!(group[0].remote_exec_with(&module("echo"), &call).is_err());
    echo.send(&1_u32).unwrap();
    assert_eq!(echo.receive_timeout::<u32>(LIMIT).unwrap(), 1);
}

#[test]
fn all_who_wait_are_told_the_same() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "silent");
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let channel = channel.clone();
            std::thread::Builder::new().spawn(move || channel.receive::<u32>()).unwrap()
        })
        .collect();
    let killed = channel.clone();
    let outcome = within(LIMIT, "the end of a killed execution", move || killed.kill()).unwrap();
    for waiter in waiters {
        assert!(matches!(waiter.join().unwrap(), Err(ReceiveError::Ended(same)) if same == outcome));
    }
    assert!(matches!(channel.wait_close(), Err(WaitError::Ended(same)) if same == outcome));
}

#[test]
fn a_detached_execution_goes_on() {
    let group = group(&["popen"]);
    let result = group[0].new_channel().unwrap();
    let numbers = run_with(&group[0], "sums", &result);
    numbers.send(&5_u32).unwrap();
    numbers.detach();
    assert_eq!(result.receive_timeout::<u64>(LIMIT).unwrap(), 5);
}
