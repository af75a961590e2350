//! `testing/test_channel.py`: what a channel does, by itself and as a file.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use guest_protocol::{Action, Answer, Op, OpError};
use sandgate::{Channel, Event, ExecError, Module, Outcome, ReceiveError, Rejection, SendError, WaitError};
use sandgate_tests::{LIMIT, Ops, group, module, run, run_with};

/// Long enough to see that nothing comes, short enough to wait for.
const SOON: Duration = Duration::from_millis(20);

/// Sets a callback that passes all it gets on.
fn events<T: serde::de::DeserializeOwned + Send + 'static>(channel: &Channel) -> mpsc::Receiver<Event<T>> {
    let (sender, events) = mpsc::channel();
    // The test may have seen enough.
    channel.set_callback(move |event| drop(sender.send(event))).expect("the channel's first callback");
    events
}

/// All events up to the end of the channel, which is the last.
fn all<T>(events: &mpsc::Receiver<Event<T>>) -> Vec<Event<T>> {
    let mut all = Vec::new();
    loop {
        let event = events.recv_timeout(LIMIT).expect("an event before the end");
        let is_end = matches!(event, Event::End(_));
        all.push(event);
        if is_end {
            assert!(events.recv_timeout(SOON).is_err(), "something comes after the end");
            return all;
        }
    }
}

#[track_caller]
fn ended(result: Result<u32, ReceiveError>) -> Outcome {
    match result {
        Err(ReceiveError::Ended(outcome)) => outcome,
        other => panic!("not at its end: {other:?}"),
    }
}

#[track_caller]
fn failed_to_wait(result: Result<(), WaitError>) -> Outcome {
    match result {
        Err(WaitError::Ended(outcome)) => outcome,
        other => panic!("ended well, or not at all: {other:?}"),
    }
}

#[test]
fn serialize_error() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "unserialisable");
    match ended(channel.receive_timeout(LIMIT)) {
        Outcome::Failed { message } => assert!(message.contains("Secret"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn channel_close_and_then_receive_error() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "fails");
    let first = ended(channel.receive_timeout(LIMIT));
    assert!(matches!(first, Outcome::Failed { .. }), "{first:?}");
    // execnet tells an error once, and the plain end from then on.
    assert_eq!(ended(channel.receive()), first);
    assert_eq!(failed_to_wait(channel.wait_close()), first);
    assert_eq!(failed_to_wait(channel.wait_close()), first);
}

#[test]
fn channel_finish_and_then_end() {
    let group = group(&["popen"]);
    let channel = run_with(&group[0], "send_value", &42_u32);
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 42);
    for _ in 0..3 {
        let error = channel.receive_timeout::<u32>(LIMIT).unwrap_err();
        assert!(error.is_end(), "{error:?}");
    }
}

#[test]
fn waitclose_timeouterror() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "receive_then_42");
    assert!(matches!(channel.wait_close_timeout(SOON), Err(WaitError::Timeout(SOON))));
    channel.send(&1_u32).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn channel_receive_timeout() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo");
    assert!(matches!(channel.receive_timeout::<u32>(SOON), Err(ReceiveError::Timeout(SOON))));
    channel.send(&1_u32).unwrap();
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 1);
}

#[test]
fn channel_close_and_then_receive_error_multiple() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "panics");
    for item in 0..3_u32 {
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), item);
    }
    let outcome = ended(channel.receive_timeout(LIMIT));
    assert!(matches!(&outcome, Outcome::Panicked { message, .. } if message == "boom at item 3"), "{outcome:?}");
}

#[test]
fn channel_local_close() {
    let group = group(&["popen"]);
    let channel = group[0].new_channel().unwrap();
    channel.close();
    channel.wait_close_timeout(LIMIT).unwrap();
    assert!(channel.is_closed());
    assert!(matches!(channel.send(&1_u32), Err(SendError::Ended(_) | SendError::Closed)));
}

#[test]
fn channel_local_close_error() {
    let group = group(&["popen"]);
    let ops = Ops::start(&group[0]);
    let channel = ops.new_channel();
    assert_eq!(ops.on(1, Action::CloseWithError("error".into())), Answer::Done);
    let expected = Outcome::ClosedWithError { message: "error".into() };
    assert_eq!(failed_to_wait(channel.wait_close_timeout(LIMIT)), expected);
    assert_eq!(ended(channel.receive_timeout(LIMIT)), expected);
    ops.finish();
}

#[test]
fn channel_error_reporting() {
    let group = group(&["popen"]);
    let channel = group[0].remote_exec_fn(&module("tasks"), "panics", &()).unwrap();
    match ended(channel.receive_timeout(LIMIT)) {
        Outcome::Panicked { message, location, backtrace } => {
            assert_eq!(message, "boom in a task");
            assert!(location.as_ref().is_some_and(|at| at.contains("tasks.rs:")), "{location:?}");
            assert!(backtrace.iter().any(|frame| frame.contains("panics")), "{backtrace:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn channel_syntax_error() {
    let group = group(&["popen"]);
    let source = Module::from_bytes(*b"def foo()\n return 1\nfoo()\n").unwrap();
    match group[0].remote_exec(&source).unwrap_err() {
        ExecError::Rejected { reason: Rejection::InvalidModule { message }, .. } => assert_ne!(message, ""),
        other => panic!("{other:?}"),
    }
    run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn channel_iter() {
    let group = group(&["popen"]);
    let channel = run_with(&group[0], "counts", &3_u32);
    let values: Result<Vec<u32>, _> = channel.iter().collect();
    assert_eq!(values.unwrap(), [0, 1, 2]);
}

#[test]
fn channel_pass_in_structure() {
    let group = group(&["popen"]);
    let channel = group[0].remote_exec_fn(&module("channels"), "replies", &()).unwrap();
    let [reply_on, first, second] = std::array::from_fn(|_| group[0].new_channel().unwrap());
    channel.send(&("data".to_owned(), &reply_on, vec![&first, &second])).unwrap();
    for new in [&reply_on, &first, &second] {
        assert_eq!(new.receive_timeout::<String>(LIMIT).unwrap(), "DATA");
    }
}

#[test]
fn channel_multipass() {
    let group = group(&["popen"]);
    let channels = module("channels");
    let ours = group[0].new_channel().unwrap();
    let channel = group[0].remote_exec_fn(&channels, "returns", &(&ours,)).unwrap();
    assert_eq!(channel.receive_timeout::<Channel>(LIMIT).unwrap(), ours);
    channel.send(&()).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();

    let channel = group[0].remote_exec_fn(&channels, "serves", &(1_u32,)).unwrap();
    let (_, twice, theirs): (String, Channel, Vec<Channel>) = channel.receive_timeout(LIMIT).unwrap();
    assert_eq!(theirs, std::slice::from_ref(&twice));
    twice.send(&7_u32).unwrap();
    assert_eq!(theirs[0].receive_timeout::<u32>(LIMIT).unwrap(), 7);
}

#[test]
fn channel_passing_over_channel() {
    let group = group(&["popen"]);
    let ops = Ops::start(&group[0]);
    let inner = ops.new_channel();
    assert_eq!(ops.on(1, Action::Send(42)), Answer::Done);
    assert_eq!(inner.receive_timeout::<u32>(LIMIT).unwrap(), 42);
    ops.finish();
    inner.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(group[0].status().unwrap().host_channels, 0, "the channels of an execution go with it");
}

#[test]
fn channel_receiver_callback() {
    let group = group(&["popen"]);
    let ops = Ops::start(&group[0]);
    let events = events::<Answer<Channel>>(&ops.channel);
    assert!(matches!(ops.channel.receive::<u32>(), Err(ReceiveError::HasConsumer)));
    assert!(ops.channel.set_callback(|_: Event<u32>| ()).is_err(), "a channel has one callback");
    ops.tell(Op::DropAll);
    ops.tell(Op::On(9, Action::Close));
    ops.tell(Op::New);
    ops.finish();
    let all = all(&events);
    assert_eq!(all[0], Event::Item(Answer::Done));
    assert!(matches!(all[1], Event::Item(Answer::Error(OpError::Other(_)))), "{all:?}");
    assert!(matches!(all[2], Event::Item(Answer::Channel(_))), "{all:?}");
    assert_eq!(all.len(), 4);
}

#[test]
fn channel_callback_after_receive() {
    let group = group(&["popen"]);
    let channel = run_with(&group[0], "counts", &3_u32);
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 0);
    let events = events::<u32>(&channel);
    assert!(matches!(channel.receive::<u32>(), Err(ReceiveError::HasConsumer)));
    assert_eq!(all(&events), [Event::Item(1), Event::Item(2), Event::End(Outcome::Returned)]);
}

#[test]
fn waiting_for_callbacks() {
    let group = group(&["popen"]);
    let channel = run_with(&group[0], "send_value", &42_u32);
    let (entered, enters) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    channel
        .set_callback(move |event: Event<u32>| {
            entered.send(event).expect("the test waits");
            wait.recv_timeout(LIMIT).expect("the test lets it go on");
        })
        .unwrap();
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), Event::Item(42));
    // The task has returned, or is about to; the callback has not.
    assert!(matches!(channel.wait_close_timeout(SOON), Err(WaitError::Timeout(_))));
    go_on.send(()).unwrap();
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), Event::End(Outcome::Returned));
    assert!(matches!(channel.wait_close_timeout(SOON), Err(WaitError::Timeout(_))));
    go_on.send(()).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();
}

/// Passes a channel with a callback to a guest, drops the host's handle if it says so, and sends five values back on it.
fn check_callback_stays_active(early_free: bool) {
    let group = group(&["popen"]);
    let ops = Ops::start(&group[0]);
    let channel = group[0].new_channel().unwrap();
    let events = events::<u32>(&channel);
    ops.take(&channel);
    let kept = if early_free { None } else { Some(channel) };
    for value in 0..5 {
        assert_eq!(ops.on(1, Action::Send(value * 100)), Answer::Done);
    }
    // The guest's handle was the last one that sends.
    assert_eq!(ops.ask(Op::DropAll), Answer::Done);
    let items = [0, 100, 200, 300, 400].map(Event::Item);
    let all = all(&events);
    assert_eq!(all[..5], items);
    assert_eq!(all[5..], [Event::End(Outcome::Closed)]);
    if let Some(channel) = kept {
        channel.wait_close_timeout(LIMIT).unwrap();
    }
    ops.finish();
}

#[test]
fn channel_callback_stays_active() {
    check_callback_stays_active(true);
}

#[test]
fn channel_callback_remote_freed() {
    check_callback_stays_active(false);
}

#[test]
fn channel_endmarker_callback() {
    let group = group(&["popen"]);
    let channel = run_with(&group[0], "counts", &2_u32);
    assert_eq!(all(&events::<u32>(&channel)), [Event::Item(0), Event::Item(1), Event::End(Outcome::Returned)]);
    channel.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn channel_endmarker_callback_error() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "fails");
    let all = all(&events::<u32>(&channel));
    let outcome = failed_to_wait(channel.wait_close_timeout(LIMIT));
    assert!(matches!(&outcome, Outcome::Failed { message } if message.contains("cannot load the table")));
    assert_eq!(all, [Event::End(outcome)]);
}

#[test]
fn channel_callback_error() {
    let group = group(&["popen"]);
    let ops = Ops::start(&group[0]);
    let channel = group[0].new_channel().unwrap();
    let (sender, ends) = mpsc::channel();
    channel
        .set_callback(move |event: Event<u32>| match event {
            Event::Item(value) => panic!("no {value}, please"),
            Event::End(outcome) => drop(sender.send(outcome)),
        })
        .unwrap();
    ops.take(&channel);
    assert_eq!(ops.on(1, Action::Send(42)), Answer::Done);

    let expected = Outcome::CallbackFailed { message: "no 42, please".into() };
    assert_eq!(failed_to_wait(channel.wait_close_timeout(LIMIT)), expected);
    assert_eq!(ends.recv_timeout(LIMIT).unwrap(), expected, "the callback gets the end all the same");
    match ops.on(1, Action::Receive) {
        Answer::Error(OpError::Peer(text)) => assert!(text.contains("no 42, please"), "{text}"),
        other => panic!("the guest is not told: {other:?}"),
    }
    // execnet's gateway may be dead by now.
    ops.finish();
    run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn channel_file_write() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo");
    channel.writer().write_all(b"hello world\n").unwrap();
    assert_eq!(channel.receive_bytes_timeout(LIMIT).unwrap(), b"hello world\n");
    // The file is gone, the channel goes on.
    channel.send(&42_u32).unwrap();
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 42);
}

#[test]
fn channel_file_write_error() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "noop");
    let mut file = channel.writer();
    channel.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(file.write(b"hello").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn channel_file_proxyclose() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo_last");
    let mut file = channel.writer();
    file.write_all(b"hello world").unwrap();
    channel.close_send();
    assert_eq!(file.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(channel.receive_bytes_timeout(LIMIT).unwrap(), b"hello world");
}

#[test]
fn channel_file_read() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo");
    channel.send_bytes(*b"xyab").unwrap();
    channel.send_bytes(*b"cde").unwrap();
    let mut file = channel.reader();
    let mut two = [0; 2];
    file.read_exact(&mut two).unwrap();
    let mut five = [0; 5];
    file.read_exact(&mut five).unwrap();
    assert_eq!((&two, &five), (b"xy", b"abcde"));
}

#[test]
fn channel_file_read_empty() {
    let group = group(&["popen"]);
    let mut file = run(&group[0], "noop").reader();
    for length in [3, 5] {
        assert_eq!(file.read(&mut vec![0; length]).unwrap(), 0);
    }
}

#[test]
fn channel_file_readline_remote() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo");
    channel.send_bytes(*b"123\n45").unwrap();
    channel.close_send();
    channel.wait_close_timeout(LIMIT).unwrap();
    let lines: Vec<String> = channel.reader().lines().map(Result::unwrap).collect();
    assert_eq!(lines, ["123", "45"]);
}
