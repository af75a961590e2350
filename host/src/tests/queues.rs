//! Receive queues and the other functions over several channels.

use std::collections::HashMap;

use sandgate_wire::limits::WINDOW_MESSAGES;

use crate::channel::{Channel, Event};
use crate::error::{QueueError, ReceiveError, SendError, WaitError};
use crate::fake_worker::{MOMENT, PATIENCE, Stage, close, done, outcome_of_panic};
use crate::multi::{MultiChannel, SendEachError};
use crate::queue::ReceiveQueue;
use crate::{KilledBy, Outcome};

fn executions(stage: &mut Stage, count: usize) -> MultiChannel {
    (0..count).map(|_| stage.execution()).collect()
}

/// What a queue gives until all its channels have ended, as channel ids and events.
fn rest<T: serde::de::DeserializeOwned>(queue: &ReceiveQueue<T>) -> Vec<(u64, Event<T>)> {
    let mut found = Vec::new();
    loop {
        match queue.get_timeout(PATIENCE) {
            Ok((channel, event)) => found.push((channel.id(), event)),
            Err(QueueError::Exhausted) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn messages_come_as_they_arrived_and_each_channel_ends_once() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 2);
    stage.worker.data(3, &[0]);
    stage.settle();
    let queue = channels.make_receive_queue::<u8>().unwrap();
    let again = channels.clone().make_receive_queue::<u8>().unwrap();
    stage.worker.data(1, &[1]);
    stage.worker.data(3, &[2]);
    stage.worker.data(1, &[3]);
    stage.worker.send(&done(3, Outcome::Returned));
    stage.settle();
    let (first, event) = again.try_get().unwrap().expect("it is the same queue");
    assert_eq!((first, event), (channels[1].clone(), Event::Item(0)));
    stage.worker.data(1, &[4]);
    stage.worker.send(&done(1, outcome_of_panic()));
    let expected = [
        (1, Event::Item(1)),
        (3, Event::Item(2)),
        (1, Event::Item(3)),
        (3, Event::End(Outcome::Returned)),
        (1, Event::Item(4)),
        (1, Event::End(outcome_of_panic())),
    ];
    assert_eq!(rest(&queue), expected);
    for queue in [&queue, &again] {
        assert!(matches!(queue.get(), Err(QueueError::Exhausted)), "every time");
        assert!(matches!(queue.try_get(), Err(QueueError::Exhausted)));
        assert_eq!(queue.iter().count(), 0);
    }
    assert!(matches!(channels[0].receive::<u8>(), Err(ReceiveError::HasConsumer)));
}

#[test]
fn a_queue_waits_as_long_as_it_is_told_and_wakes_for_the_last_end() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 1);
    let queue = channels.make_receive_queue::<u8>().unwrap();
    assert!(queue.try_get().unwrap().is_none());
    assert!(matches!(queue.get_timeout(MOMENT), Err(QueueError::Timeout(after)) if after == MOMENT));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| rest(&queue))).collect();
        stage.worker.send(&done(1, Outcome::Returned));
        let found: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        assert_eq!(found, [(1, Event::End(Outcome::Returned))]);
    });
    assert!(matches!(MultiChannel::default().make_receive_queue::<u8>().unwrap().get(), Err(QueueError::Exhausted)));
}

#[test]
fn several_threads_share_a_queue_and_lose_nothing() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 3);
    let queue = channels.make_receive_queue::<u16>().unwrap();
    let found = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| rest(&queue))).collect();
        for value in 0..WINDOW_MESSAGES / 2 {
            for id in [1, 3, 5] {
                stage.worker.data(id, &postcard::to_allocvec(&value).unwrap());
            }
        }
        for id in [1, 3, 5] {
            stage.worker.send(&done(id, Outcome::Returned));
        }
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    let mut items: HashMap<u64, Vec<u16>> = HashMap::new();
    let mut ends = Vec::new();
    for (id, event) in found {
        match event {
            Event::Item(value) => items.entry(id).or_default().push(value),
            Event::End(_) => ends.push(id),
        }
    }
    ends.sort_unstable();
    assert_eq!(ends, [1, 3, 5]);
    for values in items.values_mut() {
        values.sort_unstable();
        assert!(values.iter().map(|value| u32::from(*value)).eq(0..WINDOW_MESSAGES / 2));
    }
}

#[test]
fn a_message_of_another_type_is_an_error_in_between() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 1);
    let queue = channels.make_receive_queue::<bool>().unwrap();
    stage.worker.data(1, &[9]);
    stage.worker.data(1, &[1]);
    stage.worker.send(&done(1, Outcome::Returned));
    let found: Vec<_> = queue.iter().map(|event| event.map(|(_, event)| event).map_err(|e| e.to_string())).collect();
    let text = "message on channel 1 of gateway `gw0` cannot be decoded as `bool`".to_owned();
    assert_eq!(found, [Err(text), Ok(Event::Item(true)), Ok(Event::End(Outcome::Returned))]);
}

#[test]
fn a_queue_is_made_of_all_channels_or_of_none() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 3);
    channels[2].set_callback(|_: Event<u8>| {}).unwrap();
    assert_eq!(channels.make_receive_queue::<u8>().unwrap_err().channel, 5);
    stage.worker.data(1, &[7]);
    assert_eq!(channels[0].receive_timeout::<u8>(PATIENCE).unwrap(), 7, "it is as it was");
    let twice = MultiChannel::new([channels[0].clone(), channels[0].clone()]);
    assert_eq!(twice.make_receive_queue::<u8>().unwrap_err().channel, 1);
    let some = MultiChannel::new([channels[0].clone(), channels[1].clone()]);
    let queue = some.make_receive_queue::<u8>().unwrap();
    assert!(twice.make_receive_queue::<u8>().is_err());
    assert!(channels[0].set_callback(|_: Event<u8>| {}).is_err());
    for id in [1, 3, 5] {
        stage.worker.send(&done(id, Outcome::Returned));
    }
    assert_eq!(rest(&queue).len(), 2);
}

#[test]
fn channels_closed_here_end_in_the_queue_after_what_they_had() {
    let mut stage = Stage::new();
    let channels: MultiChannel = [stage.plain(), stage.execution()].into_iter().collect();
    let queue = channels.make_receive_queue::<u8>().unwrap();
    for id in [1, 3] {
        stage.worker.data(id, &[1]);
    }
    stage.settle();
    for channel in &channels {
        channel.close();
        stage.worker.next("a close", |_| ());
        stage.worker.data(channel.id(), &[2]);
    }
    stage.worker.send(&close(1, Some("crossed")));
    stage.worker.send(&done(3, Outcome::Exited { code: 1 }));
    let expected = [
        (1, Event::Item(1)),
        (3, Event::Item(1)),
        (1, Event::End(Outcome::Closed)),
        (3, Event::End(Outcome::Exited { code: 1 })),
    ];
    assert_eq!(rest(&queue), expected);
}

#[test]
fn a_queue_ends_with_its_worker() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 2);
    let queue = channels.make_receive_queue::<u8>().unwrap();
    stage.worker.data(3, &[1]);
    stage.settle();
    stage.gateway().kill();
    let found = rest(&queue);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], (3, Event::Item(1)));
    let killed = Outcome::Killed { by: KilledBy::Terminate, started: true };
    assert!(found[1..].iter().all(|(_, event)| *event == Event::End(killed.clone())), "{found:?}");
}

#[test]
fn a_queue_that_nobody_reads_holds_a_window_and_no_more() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 1);
    let queue = channels.make_receive_queue::<u8>().unwrap();
    for _ in 0..WINDOW_MESSAGES {
        stage.worker.data(1, &[0]);
    }
    stage.settle();
    stage.worker.data(1, &[0]);
    stage.loss();
    let found = rest(&queue);
    assert_eq!(found.len(), WINDOW_MESSAGES as usize + 1);
    assert!(matches!(&found.last().unwrap().1, Event::End(outcome) if outcome.is_worker_lost()));
}

#[test]
fn a_queue_keeps_its_channels() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 1);
    let queue = channels.make_receive_queue::<u8>().unwrap();
    drop(channels);
    stage.worker.data(1, &[1]);
    let (channel, event) = queue.get_timeout(PATIENCE).unwrap();
    assert_eq!(event, Event::Item(1));
    channel.send(&2_u8).unwrap();
    stage.worker.expect_data(1, &[2]);
    drop((channel, queue));
    stage.worker.next("the close", |_| ());
}

fn ids(channels: impl IntoIterator<Item = Channel>) -> Vec<u64> {
    channels.into_iter().map(|channel| channel.id()).collect()
}

#[test]
fn send_each_reaches_those_that_take_it() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 3);
    channels[1].close();
    stage.worker.next("the close", |_| ());
    let error = channels.send_each(&5_u8).unwrap_err();
    let SendEachError::Channels { count: 3, failures } = error else { panic!("{error}") };
    assert!(matches!(failures[0].1, SendError::Closed));
    assert_eq!(ids(failures.into_iter().map(|(channel, _)| channel)), [3]);
    stage.worker.expect_data(1, &[5]);
    stage.worker.expect_data(5, &[5]);
}

#[test]
fn receive_each_loses_nothing() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 3);
    for id in [5, 1, 3] {
        stage.worker.data(id, &[u8::try_from(id).unwrap()]);
    }
    assert_eq!(channels.receive_each_timeout::<u8>(PATIENCE).unwrap(), [1, 3, 5]);
    stage.worker.data(1, &[7]);
    stage.worker.data(5, &[8]);
    stage.worker.send(&done(3, Outcome::Returned));
    stage.settle();
    let error = channels.receive_each::<u8>().unwrap_err();
    assert_eq!(error.to_string(), "1 of 3 channels gave no message");
    assert!(matches!(&error.results[..], [Ok(7), Err(ReceiveError::Ended(Outcome::Returned)), Ok(8)]));
    let error = channels.receive_each_timeout::<u8>(MOMENT).unwrap_err();
    assert_eq!(error.results.len(), 3);
}

#[test]
fn wait_close_collects_all_that_did_not_end_well() {
    let mut stage = Stage::new();
    let channels = executions(&mut stage, 4);
    stage.worker.send(&done(1, Outcome::Returned));
    stage.worker.send(&done(3, Outcome::Exited { code: 1 }));
    stage.worker.send(&done(5, outcome_of_panic()));
    let error = channels.wait_close_timeout(MOMENT).unwrap_err();
    assert_eq!((error.count, ids(error.failures.iter().map(|(channel, _)| channel.clone()))), (4, vec![3, 5, 7]));
    assert!(matches!(error.failures[2].1, WaitError::Timeout(_)));
    stage.worker.send(&done(7, Outcome::Returned));
    assert_eq!(channels.wait_close().unwrap_err().failures.len(), 2);
}
