//! Callers that read the connection themselves: every way in which such a wait ends, and what becomes of everybody else.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use sandgate_wire::limits::WINDOW_MESSAGES;
use sandgate_wire::message::{WorkerStatus, kind};
use sandgate_wire::outcome::LossCause;
use sandgate_wire::{ToHost, ToWorker};

use crate::channel::{Channel, Event};
use crate::error::{ReceiveError, SendError, WaitError};
use crate::fake_worker::{MOMENT, PATIENCE, Stage, closed_by_host, credit, done, eventually, frame, module};
use crate::spec::Spec;
use crate::{KilledBy, Limits, MultiChannel, Outcome};

/// Waits until nobody reads, nor will by itself, so that the next to wait leads.
fn until_free(stage: &Stage) {
    eventually("the connection to be left alone", || stage.connection().reading.is_left_alone());
}

/// Waits until a caller leads, and sleeps.
fn until_led(stage: &Stage) {
    eventually("a caller to lead", || stage.connection().reading.has_sleeping_leader());
}

/// Does `wait` on a thread, and `end` once that leads. Returns what the wait has come to.
fn led<R: Send>(stage: &mut Stage, wait: impl FnOnce() -> R + Send, end: impl FnOnce(&mut Stage)) -> R {
    until_free(stage);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(wait);
        until_led(stage);
        let leads = stage.connection().reading.leads();
        end(stage);
        let result = waiting.join().unwrap();
        assert!(stage.connection().reading.leads() > leads, "it led to the end");
        result
    })
}

fn receive(channel: &Channel) -> Result<u8, ReceiveError> {
    channel.receive_timeout::<u8>(PATIENCE)
}

#[test]
fn whoever_waits_for_a_message_reads_it() {
    let mut stage = Stage::new();
    let task = stage.execution();
    for value in 0..100 {
        assert_eq!(led(&mut stage, || receive(&task), |stage| stage.worker.data(1, &[value])).unwrap(), value);
    }
}

#[test]
fn a_message_in_parts_and_a_frame_in_bytes_are_waited_for() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let result = led(
        &mut stage,
        || task.receive_bytes_timeout(PATIENCE),
        |stage| {
            let first = [&4_u64.to_le_bytes()[..], b"ab"].concat();
            for byte in [frame(kind::DATA, 1, 1, &first), frame(kind::DATA, 0, 1, b"cd")].concat() {
                stage.worker.raw(&[byte]);
            }
        },
    );
    assert_eq!(result.unwrap(), b"abcd");
}

#[test]
fn the_end_of_the_channel_ends_the_wait() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let result = led(&mut stage, || receive(&task), |stage| stage.worker.send(&done(1, Outcome::Returned)));
    assert!(matches!(result, Err(ReceiveError::Ended(Outcome::Returned))));
    let task = stage.execution();
    let result = led(
        &mut stage,
        || task.wait_close_timeout(PATIENCE),
        |stage| {
            stage.worker.send(&done(task.id(), Outcome::Exited { code: 3 }));
        },
    );
    assert!(matches!(result, Err(WaitError::Ended(Outcome::Exited { code: 3 }))));
}

#[test]
fn credit_ends_the_wait() {
    let mut stage = Stage::new();
    let task = stage.execution();
    for _ in 0..WINDOW_MESSAGES {
        task.send_bytes_timeout(*b"x", PATIENCE).unwrap();
        stage.worker.expect_data(1, b"x");
    }
    let send = || task.send_bytes_timeout(*b"y", PATIENCE);
    led(&mut stage, send, |stage| stage.worker.send(&credit(1, 1, 1))).unwrap();
    stage.worker.expect_data(1, b"y");
}

#[test]
fn the_deadline_ends_the_wait_and_the_connection_is_read_on() {
    let mut stage = Stage::new();
    let (task, other) = (stage.execution(), stage.execution());
    let before = Instant::now();
    until_free(&stage);
    let leads = stage.connection().reading.leads();
    assert!(matches!(task.receive_timeout::<u8>(MOMENT), Err(ReceiveError::Timeout(_))));
    assert!(before.elapsed() >= MOMENT && stage.connection().reading.leads() > leads);
    // Nobody waits, and nobody has to.
    stage.worker.send(&done(other.id(), Outcome::Returned));
    eventually("the end to be noticed", || other.outcome().is_some());
    eventually("the connection to be attended", || stage.connection().reading.is_attended());
}

#[test]
fn a_close_by_another_thread_ends_the_wait() {
    let mut stage = Stage::new();
    let plain = stage.plain();
    let result = led(&mut stage, || receive(&plain), |_| plain.close());
    assert!(matches!(result, Err(ReceiveError::Closed | ReceiveError::Ended(Outcome::Closed))), "{result:?}");
    stage.worker.expect(&closed_by_host(1));
    let task = stage.execution();
    for _ in 0..WINDOW_MESSAGES {
        task.send_bytes_timeout(*b"x", PATIENCE).unwrap();
    }
    let result = led(&mut stage, || task.send_bytes_timeout(*b"x", PATIENCE), |_| task.close());
    assert!(matches!(result, Err(SendError::Closed | SendError::Ended(_))), "{result:?}");
}

#[test]
fn a_consumer_that_is_set_meanwhile_ends_the_wait() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let (said, heard) = channel();
    let result = led(
        &mut stage,
        || receive(&task),
        |_| {
            let callback = move |event: Event<u8>| drop(said.send(event));
            task.set_callback::<u8>(callback).unwrap();
        },
    );
    assert!(matches!(result, Err(ReceiveError::HasConsumer)), "{result:?}");
    stage.worker.data(1, &[7]);
    assert!(matches!(heard.recv_timeout(PATIENCE).unwrap(), Event::Item(7)));
}

#[test]
fn the_end_of_the_worker_ends_the_wait_once() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let result = led(&mut stage, || receive(&task), |stage| stage.worker.hang_up());
    assert!(matches!(result, Err(ReceiveError::Ended(Outcome::WorkerLost { .. }))), "{result:?}");
    stage.loss();

    let mut stage = Stage::new();
    let task = stage.execution();
    let result = led(&mut stage, || receive(&task), |stage| stage.connection().kill_process());
    let killed = Outcome::Killed { by: KilledBy::Terminate, started: true };
    assert!(matches!(&result, Err(ReceiveError::Ended(outcome)) if *outcome == killed), "{result:?}");
    stage.loss();
}

#[test]
fn what_breaks_the_rules_does_so_whoever_reads_it() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let result = led(&mut stage, || receive(&task), |stage| stage.worker.data(99, b"x"));
    assert!(matches!(result, Err(ReceiveError::Ended(Outcome::WorkerLost { .. }))), "{result:?}");
    let expected = LossCause::ProtocolViolation { message: "channel 99 does not exist".to_owned() };
    assert_eq!(stage.loss().cause, expected);
}

#[test]
fn a_wall_time_that_is_over_ends_the_wait() {
    let limits = Limits { wall_time: Some(MOMENT), ..Limits::default() };
    let mut stage = Stage::with(Spec::popen().with_limits(limits).with_grace(MOMENT));
    let task = stage.execution();
    let result = led(&mut stage, || receive(&task), |_| {});
    assert!(matches!(result, Err(ReceiveError::Ended(Outcome::TimedOut { .. }))), "{result:?}");
}

#[test]
fn whoever_leads_wakes_the_others() {
    let mut stage = Stage::new();
    let tasks = [stage.execution(), stage.execution(), stage.execution()];
    let (said, heard) = channel();
    let callback = move |event: Event<u8>| drop(said.send(event));
    tasks[2].set_callback::<u8>(callback).unwrap();
    let gateway = stage.gateway();
    until_free(&stage);
    std::thread::scope(|scope| {
        let leading = scope.spawn(|| receive(&tasks[0]));
        until_led(&stage);
        let beside = scope.spawn(|| receive(&tasks[1]));
        let status = scope.spawn(|| gateway.status_timeout(PATIENCE));
        stage.worker.expect(&ToWorker::Status);
        stage.worker.send(&ToHost::Status(WorkerStatus::default()));
        status.join().unwrap().unwrap();
        stage.worker.data(tasks[2].id(), &[3]);
        assert!(matches!(heard.recv_timeout(PATIENCE).unwrap(), Event::Item(3)));
        stage.worker.data(tasks[1].id(), &[2]);
        assert_eq!(beside.join().unwrap().unwrap(), 2);
        // It leads on, though it may not sleep again yet.
        until_led(&stage);
        stage.worker.data(tasks[0].id(), &[1]);
        assert_eq!(leading.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn those_beside_a_leader_are_read_for_when_it_leaves() {
    for round in 0..50 {
        let mut stage = Stage::new();
        let (task, other) = (stage.execution(), stage.execution());
        let queued = stage.execution();
        let queue = MultiChannel::new([queued.clone()]).make_receive_queue::<u8>().unwrap();
        until_free(&stage);
        std::thread::scope(|scope| {
            let leading = scope.spawn(|| receive(&task));
            until_led(&stage);
            let beside = scope.spawn(|| receive(&other));
            stage.worker.data(task.id(), &[1]);
            assert_eq!(leading.join().unwrap().unwrap(), 1);
            // Whether `beside` had begun to wait by then or not.
            stage.worker.data(queued.id(), &[3]);
            assert!(matches!(queue.get_timeout(PATIENCE).unwrap().1, Event::Item(3)), "round {round}");
            stage.worker.data(other.id(), &[2]);
            assert_eq!(beside.join().unwrap().unwrap(), 2, "round {round}");
        });
    }
}

#[test]
fn callers_take_turns_and_lose_nothing() {
    const ROUNDS: u32 = 2000;
    let mut stage = Stage::new();
    let tasks: Vec<_> = (0..4).map(|_| stage.execution()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = tasks
            .iter()
            .map(|task| {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        task.send_timeout(&round, PATIENCE).unwrap();
                        assert_eq!(task.receive_timeout::<u32>(PATIENCE).unwrap(), round);
                    }
                })
            })
            .collect();
        let mut answered = 0;
        while answered < ROUNDS * 4 {
            let echo = stage.worker.next("a message", |message| match message {
                Some(ToWorker::Data(channel, chunk)) => Some((channel.0, chunk.payload.to_vec())),
                Some(ToWorker::Credit(..)) => None,
                other => panic!("a message was expected, not {other:?}"),
            });
            if let Some((channel, bytes)) = echo {
                answered += 1;
                stage.worker.data(channel, &bytes);
                stage.worker.send(&credit(channel, bytes.len() as u64, 1));
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn nobody_leads_before_the_hello() {
    let mut stage = Stage::before_hello(Spec::popen(), crate::output::OutputSink::Discard);
    assert!(stage.connection().reading.try_lead(stage.connection()).is_none());
    stage.worker.expect_hello();
    stage.worker.send(&crate::fake_worker::hello());
    stage.connection().wait_ready(crate::deadline::Deadline::after(PATIENCE)).unwrap();
    eventually("somebody to be allowed to lead", || stage.connection().reading.try_lead(stage.connection()).is_some());
    let task = stage.gateway().remote_exec(&module()).unwrap();
    stage.worker.expect_execute();
    stage.worker.data(task.id(), &[1]);
    assert_eq!(receive(&task).unwrap(), 1);
    assert!(task.receive_timeout::<u8>(Duration::ZERO).is_err());
}
