//! The examples of execnet's documentation on multiple channels, one test each: container, queue, callback, endmarkers and
//! task processors. `host/cli/examples` has them as programs. And what sandgate adds to them: a queue that grows.
//!
//! Every wait has a deadline of its own where the library offers one, and [`WHOLE`] over all.

use std::time::Duration;

use sandgate::{Channel, Event, Group, Module, MultiChannel, Outcome, QueueError, ReceiveQueue, Spec};
use sandgate_tests::{guest, process_ten_tasks, within, worker};
use serde::de::DeserializeOwned;

/// For one scenario. The first execution of a module compiles it.
const WHOLE: Duration = Duration::from_secs(60);
/// For one message.
const SOON: Duration = Duration::from_secs(20);

fn group(gateways: usize) -> Group {
    Group::new(vec![Spec::popen().worker(worker()); gateways]).expect("gateways start")
}

fn module(name: &str) -> Module {
    Module::from_file(guest(name)).expect("a module")
}

/// Two gateways, of which one sends 1 and the other 2.
fn one_and_two() -> (Group, Channel, Channel) {
    let group = group(2);
    let one = group[0].remote_exec(&module("send_one")).expect("it is accepted");
    let two = group[1].remote_exec(&module("send_two")).expect("it is accepted");
    (group, one, two)
}

/// The next message; ends before it are put aside.
fn item<T: DeserializeOwned>(queue: &ReceiveQueue<T>, timeout: Duration) -> (Channel, T) {
    loop {
        if let (channel, Event::Item(value)) = queue.get_timeout(timeout).expect("an item") {
            return (channel, value);
        }
    }
}

#[test]
fn a_multi_channel_is_a_container() {
    within(WHOLE, "the container", || {
        let (_group, one, two) = one_and_two();
        let channels = MultiChannel::new([one.clone(), two.clone()]);
        assert_eq!(channels.len(), 2);
        assert!(channels[0] == one && channels[1] == two);
        assert!(channels.contains(&one) && channels.contains(&two));
        assert_eq!(channels.receive_each_timeout::<u32>(SOON).unwrap().iter().sum::<u32>(), 3);
    });
}

#[test]
fn results_come_from_a_queue() {
    within(WHOLE, "two results", || {
        let (_group, one, two) = one_and_two();
        let queue = MultiChannel::new([one, two]).make_receive_queue::<u32>().unwrap();
        let (first_channel, first) = item(&queue, SOON);
        let (second_channel, second) = item(&queue, Duration::from_secs(3));
        assert_eq!(first + second, 3);
        assert_ne!(first_channel, second_channel);
    });
}

#[test]
fn a_callback_collects() {
    within(WHOLE, "the callback", || {
        let group = group(1);
        let channel = group[0].remote_exec(&module("receive_then_42")).unwrap();
        let (collector, collected) = std::sync::mpsc::channel();
        channel
            .set_callback(move |event: Event<u32>| {
                if let Event::Item(value) = event {
                    collector.send(value).unwrap();
                }
            })
            .unwrap();
        channel.send(&1_u32).unwrap();
        channel.wait_close_timeout(SOON).unwrap();
        assert_eq!(collected.try_iter().collect::<Vec<u32>>(), [42]);
    });
}

#[test]
fn ends_come_from_the_queue_after_a_termination() {
    within(WHOLE, "three ends", || {
        let group = group(3);
        let channels = group.remote_exec(&module("add_one")).unwrap();
        let queue = channels.make_receive_queue::<u32>().unwrap();
        channels[0].send(&1_u32).unwrap();
        let (channel, event) = queue.get_timeout(SOON).unwrap();
        assert_eq!((channel, event), (channels[0].clone(), Event::Item(2)));

        let report = group.terminate(Duration::from_secs(1));
        assert_eq!(report.gateways.len(), 3);
        let mut ended = Vec::new();
        for _ in 0..3 {
            let (channel, Event::End(outcome)) = queue.get_timeout(SOON).unwrap() else {
                panic!("only ends are left");
            };
            assert_eq!(outcome == Outcome::Returned, channel == channels[0], "{channel:?}: {outcome}");
            ended.push(channel.gateway_id().to_owned());
        }
        ended.sort();
        assert_eq!(ended, ["gw0", "gw1", "gw2"]);
        assert_eq!(format!("{group:?}"), "<Group []>");
    });
}

#[test]
fn task_processors_lose_no_result_and_end_cleanly() {
    within(WHOLE, "ten tasks on four gateways", || {
        let group = group(4);
        process_ten_tasks(&group, SOON);
    });
}

#[test]
fn a_queue_takes_further_channels_also_when_it_was_exhausted() {
    within(WHOLE, "a queue that grows", || {
        let (group, one, two) = one_and_two();
        let queue = MultiChannel::new([one.clone()]).make_receive_queue::<u32>().unwrap();
        let rest = || queue.iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(rest(), [(one.clone(), Event::Item(1)), (one.clone(), Event::End(Outcome::Returned))]);

        two.wait_close_timeout(SOON).unwrap();
        queue.add(&two).unwrap();
        let three = group[0].remote_exec(&module("add_one")).unwrap();
        queue.add(&three).unwrap();
        three.send(&2_u32).unwrap();
        // What waited in the channel comes before what arrives later.
        let expected = [
            (two.clone(), Event::Item(2)),
            (two.clone(), Event::End(Outcome::Returned)),
            (three.clone(), Event::Item(3)),
            (three.clone(), Event::End(Outcome::Returned)),
        ];
        assert_eq!(rest(), expected);

        for channel in [one, two, three] {
            assert_eq!(queue.add(&channel).unwrap_err().channel, channel.id(), "it feeds the queue already");
        }
        assert!(matches!(queue.get_timeout(Duration::ZERO), Err(QueueError::Exhausted)));
    });
}
