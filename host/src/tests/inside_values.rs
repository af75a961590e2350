//! Channels inside values, both ways.

use sandgate_wire::ToWorker;
use serde::{Deserialize, Serialize, Serializer};

use crate::channel::Channel;
use crate::error::{ReceiveError, SendError};
use crate::fake_worker::{PATIENCE, Stage, close, closed_by_host, done, eventually, open, with_channels};
use crate::spec::Spec;
use crate::{Call, Outcome};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Pair {
    first: Channel,
    number: u8,
    second: Option<Channel>,
}

#[test]
fn a_channel_that_comes_back_is_the_same() {
    let mut stage = Stage::new();
    let (task, plain) = (stage.execution(), stage.plain());
    task.send(&Pair { first: plain.clone(), number: 9, second: Some(plain.clone()) }).unwrap();
    let payload = with_channels(&[plain.id()], &[0, 9, 1, 0]);
    stage.worker.next("the pair", |message| match message {
        Some(ToWorker::Data(_, chunk)) => assert_eq!((chunk.flags, chunk.payload), (2, &payload[..])),
        other => panic!("{other:?}"),
    });
    stage.worker.data_with(1, &[plain.id(), 1], &[0, 9, 1, 1]);
    let back: Pair = task.receive_timeout(PATIENCE).unwrap();
    assert_eq!(back, Pair { first: plain.clone(), number: 9, second: Some(task.clone()) });
    drop(back);
    stage.settle();
    assert!(!plain.is_closed(), "there is a handle left");
}

#[test]
fn a_channel_that_comes_back_after_its_end_is_still_the_same() {
    let mut stage = Stage::new();
    let (task, plain) = (stage.execution(), stage.plain());
    let ended = stage.execution();
    let (plain_id, ended_id) = (plain.id(), ended.id());
    stage.worker.data_with(1, &[plain_id, ended_id], &[0, 9, 1, 1]);
    stage.worker.data_with(1, &[plain_id, ended_id], &[0, 9, 1, 1]);
    stage.worker.send(&close(plain_id, Some("reason")));
    stage.worker.expect(&closed_by_host(plain_id));
    stage.worker.send(&done(ended_id, Outcome::Exited { code: 2 }));
    stage.settle();
    let back: Pair = task.receive().unwrap();
    assert_eq!(back, Pair { first: plain, number: 9, second: Some(ended) });
    drop(back);
    // With the last handle goes what was known about it.
    let back: Pair = task.receive().unwrap();
    assert!(back.first.is_closed() && back.second.unwrap().is_closed());
}

#[test]
fn a_guest_made_channel_is_claimed_with_what_waits_in_it() {
    let mut stage = Stage::new();
    let task = stage.execution();
    stage.worker.send(&open(2, 1));
    stage.worker.data(2, &[5]);
    let channel = {
        stage.worker.data_with(1, &[2], &[0]);
        task.receive_timeout::<Channel>(PATIENCE).unwrap()
    };
    assert_eq!(channel.receive_timeout::<u8>(PATIENCE).unwrap(), 5);
    channel.send(&6_u8).unwrap();
    stage.worker.expect_data(2, &[6]);
    drop(task);
    stage.worker.expect(&closed_by_host(1));
    stage.worker.send(&done(1, Outcome::Returned));
    stage.worker.data(2, &[7]);
    assert_eq!(channel.receive_timeout::<u8>(PATIENCE).unwrap(), 7, "it outlives its task");
    stage.worker.send(&close(2, None));
    channel.wait_close_timeout(PATIENCE).unwrap();
    stage.worker.expect(&closed_by_host(2));
    stage.settle();
    assert_eq!(stage.connection().open_channels(), 0);
}

#[test]
fn what_nobody_claimed_is_kept_until_its_task_is_dropped() {
    let mut stage = Stage::new();
    let task = stage.execution();
    for id in [2, 4, 6] {
        stage.worker.send(&open(id, 1));
    }
    stage.worker.data(4, &[5]);
    for id in [2, 4] {
        stage.worker.send(&close(id, None));
    }
    stage.worker.send(&done(1, Outcome::Returned));
    // 2 has left nothing; 4 has left a message; 6 is open.
    stage.worker.expect(&closed_by_host(2));
    stage.settle();
    assert_eq!(stage.connection().open_channels(), 2);
    drop(task);
    let mut closed = [0; 2].map(|_| stage.worker.next("a close", |message| format!("{message:?}")));
    closed.sort();
    assert_eq!(closed, [4, 6].map(|id| format!("{:?}", Some(closed_by_host(id)))));
    stage.worker.send(&close(6, None));
    stage.settle();
    assert_eq!(stage.connection().open_channels(), 0);
}

#[test]
fn what_waits_can_be_claimed_after_both_ends() {
    let mut stage = Stage::new();
    let task = stage.execution();
    for id in [2, 4] {
        stage.worker.send(&open(id, 1));
        stage.worker.data_with(1, &[id], &[0]);
    }
    stage.worker.data(2, &[5]);
    stage.worker.send(&close(2, None));
    stage.worker.send(&close(4, Some("reason")));
    stage.worker.send(&done(1, Outcome::Returned));
    stage.settle();
    let channel: Channel = task.receive().unwrap();
    stage.worker.expect(&closed_by_host(2));
    assert_eq!(channel.iter::<u8>().map(Result::unwrap).collect::<Vec<_>>(), [5]);
    let failed: Channel = task.receive().unwrap();
    stage.worker.expect(&closed_by_host(4));
    let outcome = Outcome::ClosedWithError { message: "reason".to_owned() };
    assert!(matches!(failed.receive::<u8>(), Err(ReceiveError::Ended(found)) if found == outcome));
    stage.settle();
    assert_eq!(stage.connection().open_channels(), 0);
}

#[test]
fn channels_of_a_lost_worker_say_so_when_they_are_claimed() {
    let mut stage = Stage::new();
    let task = stage.execution();
    stage.worker.send(&open(2, 1));
    stage.worker.data(2, &[5]);
    stage.worker.data_with(1, &[2], &[0]);
    stage.worker.hang_up();
    stage.loss();
    let channel: Channel = task.receive().unwrap();
    assert_eq!(channel.receive::<u8>().unwrap(), 5);
    assert!(matches!(channel.receive::<u8>(), Err(ReceiveError::Ended(outcome)) if outcome.is_worker_lost()));
}

#[test]
fn a_channel_of_another_gateway_is_refused() {
    let mut here = Stage::with(Spec::popen().id("here"));
    let mut there = Stage::with(Spec::popen().id("there"));
    let (task, foreign) = (here.execution(), there.execution());
    let error = task.send(&foreign).unwrap_err();
    assert_eq!(error.to_string(), "a channel of gateway `there` cannot be sent over gateway `here`");
    let call = Call::task("t").args(&(&foreign,)).unwrap();
    assert!(here.gateway().remote_exec_with(&crate::fake_worker::module(), &call).is_err());
    let many: Vec<Channel> = (0..65).map(|_| here.plain()).collect();
    assert!(matches!(task.send(&many), Err(SendError::TooManyChannels { count: 65, maximum: 64 })));
    task.send(&many[..64]).unwrap();
}

#[test]
fn positions_and_ids_that_do_not_exist_are_errors_of_the_message() {
    let mut stage = Stage::new();
    let task = stage.execution();
    stage.worker.data(1, &[0]);
    stage.worker.data_with(1, &[1], &[1]);
    stage.worker.data_with(1, &[99], &[0]);
    stage.worker.data_with(1, &[0], &[0]);
    stage.worker.data_with(1, &[1], &[0]);
    for _ in 0..4 {
        assert!(matches!(task.receive_timeout::<Channel>(PATIENCE), Err(ReceiveError::Decode { .. })));
    }
    assert_eq!(task.receive_timeout::<Channel>(PATIENCE).unwrap(), task);
}

/// Serialises other values while it is serialised.
struct Nested<'a>(&'a Channel);

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(postcard::to_allocvec(self.0).is_ok(), "this is inside of a send");
        self.0.send(&(1_u8, self.0)).unwrap();
        (7_u8, self.0).serialize(serializer)
    }
}

/// Panics while it is serialised or deserialised.
#[derive(Debug)]
struct Panics;

impl Serialize for Panics {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("in serialize")
    }
}

impl<'de> Deserialize<'de> for Panics {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Panics, D::Error> {
        panic!("in deserialize")
    }
}

#[test]
fn a_channel_is_serialised_by_sending_it_and_not_otherwise() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let outside = |channel: &Channel| {
        assert!(postcard::to_allocvec(channel).is_err());
        assert!(postcard::from_bytes::<Channel>(&[0]).is_err());
    };
    outside(&task);
    task.send(&Nested(&task)).unwrap();
    for number in [1, 7] {
        let payload = with_channels(&[1], &[number, 0]);
        stage.worker.next("a message", |message| match message {
            Some(ToWorker::Data(_, chunk)) => assert_eq!(chunk.payload, payload),
            other => panic!("{other:?}"),
        });
    }
    outside(&task);
    stage.worker.data(1, &[0]);
    let quietly = |act: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
    assert!(quietly(&|| drop(task.send(&(&task, Panics)))).is_err());
    assert!(quietly(&|| drop(task.receive_timeout::<Panics>(PATIENCE))).is_err());
    outside(&task);
}

#[test]
fn a_channel_claimed_from_a_message_that_fails_is_closed_again() {
    let mut stage = Stage::new();
    let task = stage.execution();
    stage.worker.send(&open(2, 1));
    stage.worker.data_with(1, &[2], &[0, 9, 7]);
    assert!(matches!(task.receive_timeout::<Pair>(PATIENCE), Err(ReceiveError::Decode { .. })));
    stage.worker.expect(&closed_by_host(2));
    stage.worker.send(&close(2, None));
    eventually("the channel to be settled", || stage.connection().open_channels() == 1);
}
