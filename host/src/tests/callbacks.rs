//! Callbacks: order, one end, errors that both sides see, and that nobody else has to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use sandgate_wire::message::Close;
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{ChannelId, ToWorker};

use crate::Outcome;
use crate::channel::{Channel, Event};
use crate::error::{ReceiveError, SendError, WaitError};
use crate::fake_worker::{MOMENT, PATIENCE, Stage, close, closed_by_host, done, eventually, outcome_of_panic};
use crate::spec::Spec;

/// Sets a callback that passes on what it gets.
fn listen(channel: &Channel) -> Receiver<Event<u8>> {
    let (sender, events) = unbounded();
    channel.set_callback(move |event| drop(sender.send(event))).unwrap();
    events
}

/// Everything that a callback got, which has let go of its sender.
fn all(events: &Receiver<Event<u8>>) -> Vec<Event<u8>> {
    let next = || match events.recv_timeout(PATIENCE) {
        Ok(event) => Some(event),
        Err(error) => {
            assert!(error.is_disconnected(), "waited {PATIENCE:?} for the callback to be dropped");
            None
        }
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn what_waits_comes_first_and_one_end_comes_last() {
    for outcome in [Outcome::Returned, outcome_of_panic()] {
        let mut stage = Stage::new();
        let channel = stage.execution();
        stage.worker.data(1, &[1]);
        stage.worker.data(1, &[2]);
        stage.settle();
        let events = listen(&channel);
        stage.worker.data(1, &[3]);
        stage.worker.send(&done(1, outcome.clone()));
        assert_eq!(channel.wait_close_timeout(PATIENCE).is_ok(), outcome.is_success());
        let items = [1, 2, 3].map(Event::Item);
        assert_eq!(all(&events), [&items[..], &[Event::End(outcome)]].concat());
    }
}

#[test]
fn the_end_comes_once_whatever_ends_the_channel() {
    type Ending = fn(&mut Stage, &Channel);
    let endings: [(&str, Ending); 5] = [
        ("worker lost", |stage, _| stage.worker.hang_up()),
        ("closed here", |_, channel| channel.close()),
        ("closed there", |stage, channel| stage.worker.send(&close(channel.id(), None))),
        ("killed", |_, channel| drop(channel.kill())),
        ("gateway killed", |stage, _| stage.gateway().kill()),
    ];
    for (what, end) in endings {
        for set_late in [false, true] {
            let mut stage = Stage::new();
            let channel = stage.plain();
            let early = (!set_late).then(|| listen(&channel));
            end(&mut stage, &channel);
            eventually(what, || channel.outcome().is_some());
            let events = early.unwrap_or_else(|| listen(&channel));
            let _ = channel.wait_close_timeout(PATIENCE);
            channel.close();
            let outcome = channel.outcome().unwrap();
            assert_eq!(all(&events), [Event::End(outcome)], "{what}, set late: {set_late}");
        }
    }
}

#[test]
fn a_gateway_is_known_to_be_gone_when_its_channels_end() {
    let mut stage = Stage::new();
    let channels: Vec<Channel> = (0..20).map(|_| stage.execution()).collect();
    let (sender, alive) = unbounded();
    for channel in &channels {
        let (gateway, sender) = (stage.gateway(), sender.clone());
        channel.set_callback(move |_: Event<u8>| assert!(sender.send(gateway.is_alive()).is_ok())).unwrap();
    }
    drop(sender);
    stage.worker.hang_up();
    assert_eq!(alive.iter().collect::<Vec<_>>(), [false; 20]);
}

#[test]
fn a_channel_has_one_consumer() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| channel.receive_timeout::<u8>(PATIENCE));
        let events = listen(&channel);
        assert!(matches!(blocked.join().unwrap(), Err(ReceiveError::HasConsumer)));
        assert_eq!(channel.set_callback(|_: Event<u8>| {}).unwrap_err().channel, 1);
        assert!(matches!(channel.receive::<u8>(), Err(ReceiveError::HasConsumer)));
        assert!(matches!(channel.try_receive::<u8>(), Err(ReceiveError::HasConsumer)));
        stage.worker.send(&done(1, Outcome::Returned));
        assert_eq!(all(&events), [Event::End(Outcome::Returned)]);
    });
    assert!(matches!(channel.receive::<u8>(), Err(ReceiveError::HasConsumer)), "also afterwards");
    assert!(channel.set_callback(|_: Event<u8>| {}).is_err());
}

/// A callback that waits to be let through.
fn blocked(channel: &Channel) -> (Receiver<()>, Sender<()>) {
    let (entered, has_entered) = bounded(10);
    let (let_go, may_go) = bounded::<()>(10);
    channel
        .set_callback(move |_: Event<u8>| {
            let _ = entered.send(());
            let _ = may_go.recv_timeout(PATIENCE);
        })
        .unwrap();
    (has_entered, let_go)
}

#[test]
fn a_callback_that_blocks_harms_its_own_channel_alone() {
    let mut stage = Stage::new();
    let (slow, quick) = (stage.execution(), stage.execution());
    let (entered, let_go) = blocked(&slow);
    stage.worker.data(slow.id(), &[1]);
    entered.recv_timeout(PATIENCE).expect("the callback to begin");
    let events = listen(&quick);
    stage.worker.data(quick.id(), &[2]);
    assert_eq!(events.recv_timeout(PATIENCE).unwrap(), Event::Item(2));
    stage.worker.send(&done(slow.id(), Outcome::Returned));
    stage.settle();
    assert_eq!(slow.outcome(), Some(Outcome::Returned));
    assert!(matches!(slow.wait_close_timeout(MOMENT), Err(WaitError::Timeout(_))), "its callback has not seen the end");
    let_go.send(()).unwrap();
    entered.recv_timeout(PATIENCE).expect("the end to be delivered");
    assert!(matches!(slow.wait_close_timeout(MOMENT), Err(WaitError::Timeout(_))), "nor returned from it");
    let_go.send(()).unwrap();
    slow.wait_close_timeout(PATIENCE).unwrap();
    stage.worker.send(&done(quick.id(), Outcome::Returned));
    quick.wait_close_timeout(PATIENCE).unwrap();
}

#[test]
fn a_callback_that_fails_is_an_error_on_both_sides() {
    type Act = fn(u8);
    let cases: [(&str, &[u8], Act); 3] = [
        ("oh", &[1], |_| panic!("oh")),
        ("oh 1", &[1], |value| panic!("oh {value}")),
        ("message cannot be decoded as `u8`: 1 bytes are left over", &[1, 2], |_| ()),
    ];
    for (text, bytes, act) in cases {
        let mut stage = Stage::new();
        let channel = stage.execution();
        let (sender, events) = unbounded();
        let callback = move |event| match event {
            Event::Item(value) => act(value),
            Event::End(outcome) => drop(sender.send(outcome)),
        };
        channel.set_callback(callback).unwrap();
        stage.worker.data(1, bytes);
        stage.worker.data(1, &[3]);
        let error = Some(format!("callback failed: {text}"));
        stage.worker.expect(&ToWorker::Close(ChannelId(1), Close { error, sending_only: false }));
        let outcome = Outcome::CallbackFailed { message: text.to_owned() };
        for _ in 0..2 {
            let error = channel.wait_close_timeout(PATIENCE).unwrap_err();
            assert!(matches!(&error, WaitError::Ended(found) if *found == outcome), "{error}");
        }
        assert!(matches!(channel.send(&1), Err(SendError::Ended(found)) if found == outcome));
        stage.worker.send(&done(1, Outcome::Returned));
        stage.settle();
        assert_eq!(
            events.iter().collect::<Vec<_>>(),
            std::slice::from_ref(&outcome),
            "one end, and the closure is gone"
        );
        assert_eq!(channel.outcome(), Some(outcome));
    }
}

#[test]
fn a_task_whose_callback_failed_can_still_be_killed() {
    let mut stage = Stage::with(Spec::popen().with_grace(PATIENCE));
    let channel = stage.execution();
    channel.set_callback(|event: Event<u8>| assert!(matches!(event, Event::End(_)))).unwrap();
    stage.worker.data(1, &[1]);
    stage.worker.next("the close", |_| ());
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| channel.kill());
        stage.worker.expect(&ToWorker::Kill(ChannelId(1), KilledBy::Kill));
        stage.worker.send(&done(1, Outcome::Killed { by: KilledBy::Kill, started: true }));
        assert!(matches!(killing.join().unwrap(), Ok(Outcome::CallbackFailed { .. })));
    });
}

#[test]
fn a_callback_that_panics_at_the_end_has_had_its_end() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    channel.set_callback(|_: Event<u8>| panic!("at the end")).unwrap();
    stage.worker.send(&done(1, Outcome::Returned));
    channel.wait_close_timeout(PATIENCE).unwrap();
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("when dropped");
        }
    }
}

#[test]
fn a_callback_that_panics_when_it_is_dropped_keeps_nobody_waiting() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    let bomb = Bomb;
    channel
        .set_callback(move |_: Event<u8>| {
            let _ = &bomb;
        })
        .unwrap();
    stage.worker.send(&done(1, Outcome::Returned));
    channel.wait_close_timeout(PATIENCE).unwrap();
}

#[test]
fn a_callback_may_use_its_channel_but_not_wait_for_its_end() {
    let mut stage = Stage::with(Spec::popen().with_grace(MOMENT));
    let channel = stage.execution();
    let own = channel.clone();
    let (sender, results) = unbounded();
    channel
        .set_callback(move |event: Event<u8>| {
            if let Event::Item(value) = event {
                own.send(&(value + 1)).unwrap();
                let _ = sender.send((own.wait_close().unwrap_err().to_string(), own.kill().unwrap_err().to_string()));
            }
        })
        .unwrap();
    stage.worker.data(1, &[1]);
    stage.worker.expect_data(1, &[2]);
    stage.worker.expect(&ToWorker::Kill(ChannelId(1), KilledBy::Kill));
    let text = "a callback cannot wait for the end of its own channel".to_owned();
    assert_eq!(results.recv_timeout(PATIENCE).unwrap(), (text.clone(), text));
    // The worker does not obey, so it is killed after the grace, though nobody waits.
    stage.loss();
    assert_eq!(channel.outcome(), Some(Outcome::Killed { by: KilledBy::Kill, started: true }));
}

#[test]
fn a_callback_goes_on_without_a_handle() {
    let mut stage = Stage::new();
    let channel = stage.plain();
    let events = listen(&channel);
    drop(channel);
    stage.worker.expect(&ToWorker::Close(ChannelId(1), Close { error: None, sending_only: true }));
    stage.worker.data(1, &[1]);
    stage.worker.send(&close(1, None));
    assert_eq!(all(&events), [Event::Item(1), Event::End(Outcome::Closed)]);
    stage.worker.expect(&closed_by_host(1));
    stage.settle();
    assert_eq!(stage.connection().open_channels(), 0);
}

#[test]
fn order_holds_while_many_channels_deliver_at_once() {
    const CHANNELS: u64 = 8;
    let mut stage = Stage::new();
    let channels: Vec<Channel> = (0..CHANNELS).map(|_| stage.execution()).collect();
    let running = Arc::new(AtomicUsize::new(0));
    let events: Vec<Receiver<u8>> = channels
        .iter()
        .map(|channel| {
            let (sender, events) = unbounded();
            let (running, mut inside) = (Arc::clone(&running), AtomicUsize::new(0));
            let callback = move |event| {
                running.fetch_add(1, Ordering::Relaxed);
                assert_eq!(std::mem::replace(inside.get_mut(), 1), 0, "one at a time");
                if let Event::Item(value) = event {
                    let _ = sender.send(value);
                }
                *inside.get_mut() = 0;
            };
            channel.set_callback(callback).unwrap();
            events
        })
        .collect();
    for round in 0..=255 {
        for channel in &channels {
            stage.worker.data(channel.id(), &[round]);
        }
    }
    for channel in &channels {
        stage.worker.send(&done(channel.id(), Outcome::Returned));
    }
    for (channel, events) in channels.iter().zip(events) {
        channel.wait_close_timeout(PATIENCE).unwrap();
        assert_eq!(events.iter().collect::<Vec<_>>(), (0..=255).collect::<Vec<_>>());
    }
    assert_eq!(running.load(Ordering::Relaxed), 257 * channels.len());
}
