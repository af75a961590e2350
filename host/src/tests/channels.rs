//! What a channel promises its users: order, ends, credit, and what closing does.

use std::time::{Duration, Instant};

use sandgate_wire::limits::{WINDOW_BYTES, WINDOW_MESSAGES};
use sandgate_wire::message::{Close, kind};
use sandgate_wire::{ChannelId, ToWorker};

use crate::error::{ReceiveError, SendError, WaitError};
use crate::fake_worker::{
    MOMENT, PATIENCE, Stage, close, closed_by_host, credit, done, eventually, frame, module, outcome_of_panic,
    spec_of_messages,
};
use crate::spec::Spec;
use crate::{KilledBy, Outcome};

#[test]
fn messages_come_in_order_and_before_the_end() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    for value in 0..5 {
        stage.worker.data(1, &[value]);
    }
    stage.worker.send(&done(1, Outcome::Returned));
    assert_eq!(channel.iter::<u8>().map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(matches!(channel.receive::<u8>(), Err(ReceiveError::Ended(Outcome::Returned))));
}

#[test]
fn an_outcome_is_told_to_everybody_and_every_time() {
    for outcome in [Outcome::Returned, Outcome::Exited { code: 3 }, outcome_of_panic()] {
        let mut stage = Stage::new();
        let channel = stage.execution();
        std::thread::scope(|scope| {
            let receiving: Vec<_> = (0..3).map(|_| scope.spawn(|| channel.receive_timeout::<u8>(PATIENCE))).collect();
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| channel.wait_close_timeout(PATIENCE))).collect();
            stage.worker.send(&done(1, outcome.clone()));
            for thread in receiving {
                let error = thread.join().unwrap().unwrap_err();
                assert!(matches!(&error, ReceiveError::Ended(found) if *found == outcome), "{error}");
            }
            for thread in waiting {
                assert_eq!(thread.join().unwrap().is_ok(), outcome.is_success());
            }
        });
        for _ in 0..2 {
            assert!(matches!(channel.receive::<u8>(), Err(ReceiveError::Ended(found)) if found == outcome));
            assert!(matches!(channel.try_receive::<u8>(), Err(ReceiveError::Ended(found)) if found == outcome));
            assert!(matches!(channel.send(&1), Err(SendError::Ended(found)) if found == outcome));
            match channel.wait_close() {
                Ok(()) => assert!(outcome.is_success()),
                Err(WaitError::Ended(found)) => assert_eq!(found, outcome),
                Err(other) => panic!("{other}"),
            }
            assert_eq!(channel.outcome(), Some(outcome.clone()));
            assert!(channel.is_closed());
        }
        let mut items = channel.iter::<u8>();
        assert_eq!(items.next().is_none(), outcome.is_success());
        assert!(items.next().is_none(), "the end is said once");
    }
}

#[test]
fn waits_end_when_they_are_told_to() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    assert!(channel.try_receive::<u8>().unwrap().is_none());
    for timeout in [Duration::ZERO, MOMENT] {
        let start = Instant::now();
        assert!(
            matches!(channel.receive_timeout::<u8>(timeout), Err(ReceiveError::Timeout(after)) if after == timeout)
        );
        assert!(matches!(channel.wait_close_timeout(timeout), Err(WaitError::Timeout(after)) if after == timeout));
        assert!(start.elapsed() >= timeout);
    }
    stage.worker.data(1, &[5]);
    stage.settle();
    assert_eq!(channel.receive_timeout::<u8>(Duration::ZERO).unwrap(), 5);
}

#[test]
fn a_message_of_another_type_is_taken_and_the_channel_goes_on() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    stage.worker.data(1, b"\xff");
    stage.worker.data(1, b"\x01\x02");
    stage.worker.data(1, b"\x03");
    stage.worker.send(&done(1, Outcome::Returned));
    let found: Vec<_> = channel.iter::<bool>().map(|item| item.unwrap_err().to_string()).collect();
    assert_eq!(found, ["message cannot be decoded as `bool`"; 3]);
}

#[test]
fn closing_keeps_what_is_here_and_drops_what_comes() {
    let mut stage = Stage::new();
    let (task, plain) = (stage.execution(), stage.plain());
    for channel in [&task, &plain] {
        stage.worker.data(channel.id(), &[1]);
        stage.settle();
        channel.close();
        channel.close();
        channel.close_send();
        channel.close_with_error("too late");
        stage.worker.expect(&closed_by_host(channel.id()));
        stage.worker.data(channel.id(), &[2]);
        stage.settle();
        assert_eq!(channel.receive::<u8>().unwrap(), 1);
        assert!(matches!(channel.receive::<u8>(), Err(ReceiveError::Closed)));
        assert!(matches!(channel.send(&1), Err(SendError::Closed)));
        assert!(channel.is_closed());
        assert_eq!(channel.iter::<u8>().count(), 0, "this is a regular end");
    }
    plain.wait_close().unwrap();
    assert!(matches!(task.wait_close_timeout(MOMENT), Err(WaitError::Timeout(_))), "a task goes on");
    stage.worker.send(&done(1, outcome_of_panic()));
    assert!(matches!(task.wait_close_timeout(PATIENCE), Err(WaitError::Ended(Outcome::Panicked { .. }))));
    assert!(matches!(task.receive::<u8>(), Err(ReceiveError::Closed)), "and says what it said before");
}

#[test]
fn a_close_wakes_who_waits_on_this_side() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    let full = vec![0_u8; usize::try_from(WINDOW_BYTES).unwrap()];
    channel.send_bytes(full).unwrap();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| channel.receive_timeout::<u8>(PATIENCE));
        let sending = scope.spawn(|| channel.send_bytes_timeout([0; 10], PATIENCE));
        scope.spawn(|| channel.close());
        assert!(matches!(receiving.join().unwrap(), Err(ReceiveError::Closed)));
        assert!(matches!(sending.join().unwrap(), Err(SendError::Closed)));
    });
    stage.worker.hang_up();
}

#[test]
fn closing_the_sending_half_leaves_the_other() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    channel.send(&1_u8).unwrap();
    channel.close_send();
    channel.close_send();
    stage.worker.expect_data(1, &[1]);
    stage.worker.expect(&ToWorker::Close(ChannelId(1), Close { error: None, sending_only: true }));
    assert!(matches!(channel.send(&1), Err(SendError::Closed)));
    assert!(!channel.is_closed());
    stage.worker.data(1, &[2]);
    assert_eq!(channel.receive_timeout::<u8>(PATIENCE).unwrap(), 2);
    channel.close_with_error("enough");
    let error = Some("enough".to_owned());
    stage.worker.expect(&ToWorker::Close(ChannelId(1), Close { error, sending_only: false }));
    stage.settle();
}

#[test]
fn the_text_of_a_close_is_cut_between_characters() {
    let mut stage = Stage::new();
    let channel = stage.plain();
    channel.close_with_error(&"é".repeat(20_000));
    stage.worker.next("the close", |message| match message {
        Some(ToWorker::Close(_, Close { error: Some(text), .. })) => assert_eq!(text, "é".repeat(8192)),
        other => panic!("{other:?}"),
    });
}

#[test]
fn both_sides_close_a_plain_channel_once() {
    let mut stage = Stage::new();
    let theirs = stage.plain();
    stage.worker.send(&close(theirs.id(), Some("reason")));
    stage.worker.expect(&closed_by_host(theirs.id()));
    stage.settle();
    let outcome = Outcome::ClosedWithError { message: "reason".to_owned() };
    assert_eq!(theirs.outcome(), Some(outcome.clone()));
    theirs.close();
    let ours = stage.plain();
    ours.close();
    stage.worker.expect(&closed_by_host(ours.id()));
    stage.worker.send(&close(ours.id(), Some("crossed")));
    stage.settle();
    assert_eq!((theirs.outcome(), ours.outcome()), (Some(outcome), Some(Outcome::Closed)));
    assert_eq!(stage.connection().open_channels(), 0);
}

#[test]
fn a_sender_waits_for_the_window_and_for_nothing_else() {
    let mut stage = Stage::with(spec_of_messages(4 * WINDOW_BYTES));
    let (task, other) = (stage.execution(), stage.plain());
    for _ in 0..WINDOW_MESSAGES {
        task.try_send(&7_u8).unwrap();
    }
    assert!(matches!(task.try_send(&7_u8), Err(SendError::Timeout(Duration::ZERO))));
    assert!(matches!(task.send_timeout(&7_u8, MOMENT), Err(SendError::Timeout(_))));
    for _ in 0..WINDOW_MESSAGES {
        stage.worker.expect_data(1, &[7]);
    }
    other.try_send(&8_u8).unwrap();
    stage.worker.expect_data(other.id(), &[8]);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| task.send_timeout(&9_u8, PATIENCE));
        stage.worker.send(&credit(1, 1, 1));
        sending.join().unwrap().unwrap();
        stage.worker.expect_data(1, &[9]);
        let sending = scope.spawn(|| task.send_timeout(&9_u8, PATIENCE));
        stage.worker.send(&done(1, Outcome::Returned));
        assert!(matches!(sending.join().unwrap(), Err(SendError::Ended(Outcome::Returned))));
    });
    let large = vec![1_u8; usize::try_from(3 * WINDOW_BYTES).unwrap()];
    other.send_bytes_timeout(large, MOMENT).unwrap();
    assert!(matches!(other.try_send(&8_u8), Err(SendError::Timeout(_))), "nothing beside it");
    let error = other.send_bytes(vec![1_u8; usize::try_from(4 * WINDOW_BYTES + 1).unwrap()]).unwrap_err();
    assert!(matches!(error, SendError::TooLarge { .. }), "{error}");
}

#[test]
fn what_the_user_takes_comes_back_as_credit() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    for _ in 0..3 {
        for _ in 0..WINDOW_MESSAGES / 2 {
            stage.worker.data(1, &[1]);
        }
        stage.settle();
        for _ in 0..WINDOW_MESSAGES / 2 {
            channel.receive::<u8>().unwrap();
        }
        let half = u64::from(WINDOW_MESSAGES / 2);
        let taken = sandgate_wire::flow::Credit { bytes: half, messages: WINDOW_MESSAGES / 2 };
        stage.worker.expect(&ToWorker::Credit(ChannelId(1), taken));
    }
}

#[test]
fn a_message_larger_than_the_window_arrives() {
    let mut stage = Stage::with(spec_of_messages(4 * WINDOW_BYTES));
    let channel = stage.execution();
    let total = 3 * WINDOW_BYTES;
    let block = vec![5; 256 * 1024 - 8];
    let mut left = usize::try_from(total).unwrap();
    let mut first = total.to_le_bytes().to_vec();
    while left > block.len() {
        let payload = [std::mem::take(&mut first), block.clone()].concat();
        stage.worker.raw(&frame(kind::DATA, 1, 1, &payload));
        left -= block.len();
    }
    stage.worker.raw(&frame(kind::DATA, 0, 1, &block[..left]));
    let bytes = channel.receive_bytes_timeout(PATIENCE).unwrap();
    assert_eq!(bytes.len() as u64, total);
    stage.worker.next("credit for it", |message| {
        assert!(matches!(message, Some(ToWorker::Credit(_, credit)) if credit.bytes == total), "{message:?}");
    });
}

#[test]
fn the_last_handle_closes_and_a_detached_one_does_not() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    let clone = channel.clone();
    assert_eq!(channel, clone);
    drop(channel);
    stage.settle();
    drop(clone);
    stage.worker.expect(&closed_by_host(1));
    let detached = stage.execution();
    let id = detached.id();
    detached.detach();
    stage.worker.expect(&ToWorker::Close(ChannelId(id), Close { error: None, sending_only: true }));
    let taken = WINDOW_MESSAGES / 2;
    for _ in 0..taken {
        stage.worker.data(id, b"nobody listens");
    }
    stage.worker.next("credit for what nobody listens to", |message| {
        assert!(matches!(message, Some(ToWorker::Credit(_, credit)) if credit.messages == taken), "{message:?}");
    });
    stage.worker.send(&done(id, Outcome::Returned));
    stage.worker.send(&done(1, Outcome::Returned));
    stage.settle();
    assert_eq!(stage.connection().open_channels(), 0);
}

#[test]
fn a_kill_reaches_the_worker_before_what_waits_and_returns_the_outcome() {
    let mut stage = Stage::with(Spec::popen().with_grace(PATIENCE));
    let channel = stage.execution();
    let killed = Outcome::Killed { by: KilledBy::Kill, started: true };
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| channel.kill());
        stage.worker.expect(&ToWorker::Kill(ChannelId(1), KilledBy::Kill));
        stage.worker.send(&done(1, killed.clone()));
        assert_eq!(killing.join().unwrap().unwrap(), killed);
    });
    assert_eq!(channel.kill().unwrap(), killed, "again");
    let plain = stage.plain();
    assert_eq!(plain.kill().unwrap(), Outcome::Closed);
    stage.worker.expect(&closed_by_host(plain.id()));
    stage.settle();
}

#[test]
fn a_kill_without_an_answer_ends_the_worker_after_the_grace() {
    let mut stage = Stage::with(Spec::popen().with_grace(MOMENT));
    let (channel, sibling) = (stage.execution(), stage.execution());
    let start = Instant::now();
    let killed = Outcome::Killed { by: KilledBy::Kill, started: true };
    assert_eq!(channel.kill().unwrap(), killed);
    assert!(start.elapsed() >= MOMENT);
    stage.loss();
    assert_eq!(channel.outcome(), Some(killed));
    assert!(sibling.outcome().unwrap().is_worker_lost());
    assert!(stage.gateway().remote_exec(&module()).is_err());
}

#[test]
fn a_handle_that_goes_while_the_channel_comes_back_does_not_close_it() {
    let mut stage = Stage::new();
    let channel = stage.plain();
    // The race, in slow motion: the old handle's drop runs when there is a new handle.
    channel.endpoint().abandon();
    stage.settle();
    assert!(!channel.is_closed());
    let endpoint = std::sync::Arc::clone(channel.endpoint());
    drop(channel);
    stage.worker.expect(&closed_by_host(1));
    eventually("the endpoint to be closed", || endpoint.is_closed());
}

#[test]
fn a_channel_is_a_file() {
    use std::io::{BufRead as _, Read as _, Write as _};
    let mut stage = Stage::new();
    let channel = stage.execution();
    channel.writer().write_all(b"to the guest").unwrap();
    stage.worker.expect_data(1, b"to the guest");
    for part in [&b"one\ntw"[..], b"", b"o\nrest"] {
        stage.worker.data(1, part);
    }
    stage.worker.send(&done(1, Outcome::Returned));
    let mut reader = channel.reader();
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"rest");
    let error = channel.writer().write(b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}
