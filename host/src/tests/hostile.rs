//! A worker that breaks the rules is dropped: its channels end and say why, and nobody else notices.

use std::sync::Arc;

use proptest::prelude::*;
use sandgate_wire::ChannelId;
use sandgate_wire::ToHost;
use sandgate_wire::assembly::SEVERAL;
use sandgate_wire::flow::Credit;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::limits::{WINDOW_BYTES, WINDOW_MESSAGES};
use sandgate_wire::message::{Compiled, Initialized, Output, Stream, WorkerStatus, kind};
use sandgate_wire::outcome::WorkerLoss;
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket};

use crate::fake_worker::{
    FakeWorker, PATIENCE, Stage, bytes_of, close, credit, done, eventually, frame, hello, open, spec_of_messages,
    with_channels,
};
use crate::output::OutputSink;
use crate::spec::Spec;
use crate::{LossCause, Outcome};

type Script = Box<dyn Fn(&mut FakeWorker)>;

fn raw(bytes: Vec<u8>) -> Script {
    Box::new(move |worker| worker.raw_or_refused(&bytes))
}

fn say(messages: &[ToHost<'_>]) -> Script {
    raw(messages.iter().flat_map(bytes_of).collect())
}

fn data(chunks: &[(u8, &[u8])]) -> Script {
    raw(chunks.iter().flat_map(|(flags, payload)| frame(kind::DATA, *flags, 1, payload)).collect())
}

fn output(channel: u64, truncated: bool, bytes: &[u8]) -> ToHost<'_> {
    ToHost::Output(ChannelId(channel), Output { stream: Stream::Stdout, truncated, bytes })
}

/// Runs a script against a host with the execution 1 and the plain channel 3, beside another connection.
fn check(expected: &str, script: &Script) {
    let mut witness = Stage::with(Spec::popen().id("witness"));
    let untouched = witness.execution();
    let mut stage = Stage::with(spec_of_messages(2 * WINDOW_BYTES));
    let (task, plain) = (stage.execution(), stage.plain());
    assert_eq!((task.id(), plain.id()), (1, 3));

    script(&mut stage.worker);
    let loss = stage.loss();
    let LossCause::ProtocolViolation { message } = &loss.cause else {
        panic!("`{expected}` was expected, not {loss}");
    };
    assert!(message.contains(expected), "`{expected}` was expected, not `{message}`");
    let lost = Outcome::WorkerLost { loss: loss.clone() };
    assert!(plain.outcome() == Some(lost.clone()) || plain.outcome() == Some(Outcome::Closed), "{plain:?}");
    if task.outcome() != Some(Outcome::Returned) {
        assert_eq!(task.outcome(), Some(lost), "{expected}");
    }
    stage.worker.drain();

    witness.worker.data(untouched.id(), &[7]);
    assert_eq!(untouched.receive_timeout::<u8>(PATIENCE).unwrap(), 7);
    untouched.send(&8_u8).unwrap();
    witness.worker.expect_data(untouched.id(), &[8]);
}

#[test]
fn frames_that_are_none() {
    check("frame of 4294967295 bytes", &raw(vec![0xff, 0xff, 0xff, 0xff, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
    check("frame of 262145 bytes", &raw(vec![1, 0, 4, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
    check("not one of this protocol", &raw(vec![0, 0, 0, 0, 6, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
    for kind in [0, kind::LOAD, kind::EXECUTE, kind::KILL, kind::TERMINATE, 99, 255] {
        check(&format!("message kind {kind} does not exist"), &raw(frame(kind, 0, 1, b"")));
    }
    for (kind, body) in [
        (kind::CREDIT, &b"short"[..]),
        (kind::DONE, b"\xff"),
        (kind::OPEN, b"1"),
        (kind::STATUS, b""),
        (kind::CLOSE, b"an error without its flag"),
    ] {
        check(&format!("message of kind {kind} is malformed"), &raw(frame(kind, 0, 3, body)));
    }
    check("message of kind 9 is malformed", &raw(frame(kind::CLOSE, 2, 3, b"\xff is not UTF-8")));
}

#[test]
fn messages_out_of_place() {
    check("a second hello", &say(&[hello()]));
    check("a status that nobody asked for", &say(&[ToHost::Status(WorkerStatus::default())]));
    let compiled =
        Compiled::Done { engine: "e".to_owned(), bytes: 1, shape: Default::default(), description: Vec::new() };
    check("a worker does not compile", &say(&[ToHost::Compiled(compiled)]));
    check("a worker takes no snapshots", &say(&[ToHost::Initialized(Initialized::Done { bytes: 1 })]));
}

#[test]
fn several_messages_in_a_frame_that_are_none() {
    let within = [&6_u64.to_le_bytes()[..], b"ab"].concat();
    for (expected, chunks) in [
        ("too short", &[(SEVERAL, &b""[..])][..]),
        ("too short", &[(SEVERAL, b"\x01\0a\x05\0ab")]),
        ("too short", &[(SEVERAL, b"\x01\0a\x05")]),
        ("unknown flags 0x9", &[(SEVERAL | 1, b"\x01\0a")]),
        ("unknown flags 0xa", &[(SEVERAL | 2, b"\x01\0a")]),
        ("unknown flags 0x8", &[(1, &within), (SEVERAL, b"\x01\0a")]),
        ("without credit", &[(SEVERAL, &[0; 2 * (WINDOW_MESSAGES as usize + 1)])]),
    ] {
        check(expected, &data(chunks));
    }
    let late = [
        bytes_of(&open(2, 1)),
        frame(kind::DATA, SEVERAL, 2, b"\x01\0x\x01\0y"),
        bytes_of(&close(2, None)),
        frame(kind::DATA, SEVERAL, 2, b"\x01\0z"),
    ];
    check("a message on channel 2 after its close", &raw(late.concat()));
}

#[test]
fn what_came_before_something_that_is_refused_is_counted_and_can_be_taken() {
    let mut stage = Stage::new();
    let task = stage.execution();
    let (ours, theirs) = socket_pair().unwrap();
    for (bad, before) in
        [(&b""[..], &[(0, &b"one"[..]), (0, b"two")][..]), (b"\x01\0a\x05", &[(SEVERAL, b"\x01\0x\x01\0y")])]
    {
        let chunks = before.iter().copied().chain([(SEVERAL, bad)]);
        let bytes: Vec<u8> = chunks.flat_map(|(flags, bytes)| frame(kind::DATA, flags, 1, bytes)).collect();
        rustix::io::write(&theirs, &bytes).unwrap();
    }
    let mut frames = FrameReader::new(Box::new(unix_socket(ours, Descriptors::Refuse).1));
    // Whatever is taken is credited, and uncounted, at once.
    task.endpoint().credit_is_wanted();
    for expected in [[b"one".to_vec(), b"two".to_vec()], [b"x".to_vec(), b"y".to_vec()]] {
        assert!(frames.wait_for_frame().unwrap());
        assert!(task.endpoint().arrive(&mut frames).is_err());
        // The connection has not ended by it yet.
        for expected in expected {
            assert_eq!(task.receive_bytes_timeout(PATIENCE).unwrap(), expected);
        }
    }
}

#[test]
fn channels_that_were_never_opened() {
    for id in [0, 2, 4, 5, 99, u64::MAX, u64::MAX - 1] {
        check(&format!("channel {id} does not exist"), &raw(frame(kind::DATA, 0, id, b"")));
        check(&format!("channel {id} does not exist"), &say(&[credit(id, 0, 0)]));
        check(&format!("channel {id} does not exist"), &say(&[close(id, None)]));
        check(&format!("channel {id} does not exist"), &say(&[output(id, false, b"x")]));
        check(&format!("execution {id} does not run"), &say(&[done(id, Outcome::Returned)]));
    }
}

#[test]
fn opens_that_are_not_the_workers_to_make() {
    for (expected, messages) in [
        ("channel id 5 out of order", vec![open(5, 1)]),
        ("channel id 1 out of order", vec![open(1, 1)]),
        ("channel id 0 out of order", vec![open(0, 1)]),
        ("channel id 2 out of order", vec![open(4, 1), open(2, 1)]),
        ("channel id 2 out of order", vec![open(2, 1), open(2, 1)]),
        ("channel id 2 out of order", vec![open(2, 1), close(2, None), open(2, 1)]),
        ("of an execution 99 that does not run", vec![open(2, 99)]),
        ("of an execution 0 that does not run", vec![open(2, 0)]),
        ("of an execution 2 that does not run", vec![open(2, 2)]),
        ("of an execution 3 that does not run", vec![open(2, 3)]),
        ("of an execution 1 that does not run", vec![done(1, Outcome::Returned), open(2, 1)]),
    ] {
        check(expected, &say(&messages));
    }
}

#[test]
fn ends_that_are_not_the_workers_to_say() {
    let loss = WorkerLoss {
        gateway: "gw9".to_owned(),
        pid: None,
        cause: LossCause::Exited { code: 0 },
        stderr_tail: String::new(),
    };
    let message = || "made up".to_owned();
    for (expected, messages) in [
        ("execution 1 does not run", vec![done(1, Outcome::Returned), done(1, Outcome::Returned)]),
        ("channel 3 is no execution", vec![done(3, Outcome::Returned)]),
        ("cannot end as it says", vec![done(1, Outcome::Closed)]),
        ("cannot end as it says", vec![done(1, Outcome::ClosedWithError { message: message() })]),
        ("cannot end as it says", vec![done(1, Outcome::CallbackFailed { message: message() })]),
        ("cannot end as it says", vec![done(1, Outcome::WorkerLost { loss })]),
        ("channel 1 cannot be closed like that", vec![close(1, None)]),
    ] {
        check(expected, &say(&messages));
    }
    check("channel 3 cannot be closed like that", &raw(frame(kind::CLOSE, 1, 3, b"")));
    let unclaimed = |last: Vec<u8>| {
        let first = [bytes_of(&open(2, 1)), frame(kind::DATA, 0, 2, b"x"), bytes_of(&close(2, None))].concat();
        raw([first, last].concat())
    };
    check("channel 2 was closed twice", &unclaimed(bytes_of(&close(2, None))));
    check("a message on channel 2 after its close", &unclaimed(frame(kind::DATA, 0, 2, b"y")));
}

#[test]
fn more_than_there_is_credit_for() {
    let too_many = vec![(0, &b""[..]); WINDOW_MESSAGES as usize + 1];
    check("without credit", &data(&too_many));
    let block = vec![0; 64 * 1024];
    let blocks = usize::try_from(WINDOW_BYTES).unwrap() / block.len();
    let mut too_much = vec![(0, &block[..]); blocks];
    too_much.push((0, b"x"));
    check("without credit", &data(&too_much));
    for (bytes, messages) in [(1, 0), (0, 1), (u64::MAX, 0), (0, u32::MAX)] {
        check("more credit than it was sent", &say(&[credit(1, bytes, messages)]));
    }
    check("execution 1 sent output without credit", &say(&[output(1, false, &vec![b'x'; 64 * 1024 + 1])]));
    check("execution 1 sent output without bytes", &say(&[output(1, false, b"")]));
    check("sent output after the last of it", &say(&[output(1, true, b""), output(1, true, b"")]));
    check("channel 3 is no execution", &say(&[output(3, false, b"x")]));
}

#[test]
fn chunks_that_do_not_fit() {
    let total = |total: u64, rest: &[u8]| [&total.to_le_bytes()[..], rest].concat();
    let over = total(2 * WINDOW_BYTES + 1, b"");
    check("is larger than the maximum of", &data(&[(1, &over)]));
    check("is larger than the maximum of", &data(&[(1, &total(u64::MAX, b""))]));
    check("too short for its flags", &data(&[(1, b"1234567")]));
    check("too short for its flags", &data(&[(2, &with_channels(&[1, 2], b"")[..9])]));
    check("carries 65 channels", &data(&[(2, &with_channels(&[1; 65], b""))]));
    check("unknown flags 0x80", &data(&[(0x80, b"")]));
    check("unknown flags 0x2", &data(&[(1, &total(9, b"abc")), (2, b"")]));
    check("of 5 bytes arrived as 6", &data(&[(1, &total(5, b"abc")), (0, b"def")]));
    check("of 5 bytes arrived as 4", &data(&[(1, &total(5, b"abc")), (0, b"d")]));
    check("of 5 bytes arrived as 6", &data(&[(1, &total(5, b"abcdef"))]));
}

#[test]
fn what_is_late_for_a_past_channel_is_left_alone() {
    let mut stage = Stage::new();
    let (task, plain) = (stage.execution(), stage.plain());
    plain.close();
    stage.worker.next("the close", |_| ());
    stage.worker.send(&close(3, None));
    stage.worker.send(&done(1, Outcome::Returned));
    for id in [1, 3] {
        stage.worker.data(id, b"late");
        stage.worker.send(&credit(id, u64::MAX, 1));
        stage.worker.send(&close(id, Some("late")));
        stage.worker.send(&output(id, false, b"late"));
    }
    stage.settle();
    assert_eq!((task.outcome(), plain.outcome()), (Some(Outcome::Returned), Some(Outcome::Closed)));
}

#[test]
fn credit_for_what_it_has_not_read_does_not_fill_the_hosts_memory() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    let block = vec![0_u8; 64 * 1024];
    let mut sent = 0;
    while channel.send_bytes_timeout(block.clone(), std::time::Duration::ZERO).is_ok() {
        sent += 1;
    }
    assert_eq!(sent * 64 * 1024, WINDOW_BYTES);
    stage.worker.send(&ToHost::Credit(ChannelId(1), Credit { bytes: WINDOW_BYTES, messages: 16 }));
    assert!(stage.loss().to_string().contains("more credit than it was sent"), "{}", stage.loss());
}

#[test]
fn a_worker_that_provokes_answers_without_reading_them_is_dropped() {
    let mut stage = Stage::new();
    let _task = stage.execution();
    let pairs = |from: u64| (from..from + 1000).flat_map(|n| [open(2 * n, 1), close(2 * n, None)]);
    let mut next = 1;
    while stage.connection().is_alive() {
        assert!(next < 1_000_000, "a million closes wait in the host");
        let bytes: Vec<u8> = pairs(next).flat_map(|message| bytes_of(&message)).collect();
        stage.worker.raw_or_refused(&bytes);
        next += 1000;
    }
    let cause = LossCause::Unresponsive { message: "it does not read what it is sent".to_owned() };
    assert_eq!(stage.loss().cause, cause);
}

#[test]
fn a_conversation_cut_anywhere_ends_every_channel() {
    let conversation: Vec<Vec<u8>> = vec![
        frame(kind::DATA, 0, 1, b"\x05"),
        bytes_of(&open(2, 1)),
        frame(kind::DATA, 2, 1, &with_channels(&[2, 3], b"\x00")),
        frame(kind::DATA, 1, 2, &[&4_u64.to_le_bytes()[..], b"ab"].concat()),
        frame(kind::DATA, 0, 2, b"cd"),
        bytes_of(&credit(1, 0, 0)),
        bytes_of(&output(1, false, b"printed")),
        bytes_of(&close(2, Some("reason"))),
        bytes_of(&close(3, None)),
        bytes_of(&done(1, Outcome::Exited { code: 4 })),
    ];
    let whole = conversation.concat();
    let last = whole.len();
    for end in 0..=last {
        let mut stage = Stage::with_output(Spec::popen(), OutputSink::callback(|_| {}));
        let (task, plain) = (stage.execution(), stage.plain());
        stage.worker.raw(&whole[..end]);
        stage.worker.hang_up();
        let loss = stage.loss();
        let lost = Outcome::WorkerLost { loss };
        assert_eq!(task.outcome(), Some(if end == last { Outcome::Exited { code: 4 } } else { lost }), "cut at {end}");
        assert!(plain.outcome().is_some());
    }
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![0_u64, 1, 2, 3, 4, 5, u64::MAX]);
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![vec![1, 0, 0, 0, 0, 0, 0, 0], vec![0; 12], vec![]]),
    ];
    let likely = (0_u8..20, 0_u8..4, known, body).prop_map(|(kind, flags, id, body)| frame(kind, flags, id, &body));
    prop_oneof![4 => likely, 1 => prop::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn arbitrary_bytes_after_the_hello_end_in_an_outcome(parts in prop::collection::vec(anything(), 0..30)) {
        let mut stage = Stage::new();
        let (task, plain) = (stage.execution(), stage.plain());
        stage.worker.raw_or_refused(&parts.concat());
        stage.worker.hang_up_if_there();
        stage.loss();
        prop_assert!(task.wait_close_timeout(PATIENCE).is_ok() || task.outcome().is_some());
        prop_assert!(plain.outcome().is_some());
    }
}

#[test]
fn threads_of_a_lost_connection_end_by_themselves() {
    let mut stage = Stage::new();
    let connection = Arc::downgrade(stage.connection());
    let task = stage.execution();
    stage.worker.raw(&[0xff; 16]);
    stage.loss();
    drop(task);
    stage.connection().join();
    // This stage and nobody else.
    eventually("both threads to let go", || connection.strong_count() == 1);
    assert!(stage.gateway().remote_exec(&crate::fake_worker::module()).is_err());
    assert!(stage.gateway().new_channel().is_err());
}
