//! A worker that has been taken over, row by row: whatever it says or leaves unsaid, the host holds a bounded amount for it,
//! its channels end within a bound, and nobody else notices. [`super::hostile`] has the single broken rules.

use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use proptest::prelude::*;
use sandgate_wire::flow::Credit;
use sandgate_wire::isolation::{Layer, Report, State};
use sandgate_wire::limits::WINDOW_BYTES;
use sandgate_wire::message::{Output, Stream, WorkerHello, WorkerStatus, kind};
use sandgate_wire::text::is_active;
use sandgate_wire::{ChannelId, Limits, ToHost, ToWorker};

use crate::channel::Channel;
use crate::error::StatusError;
use crate::fake_worker::{
    FakeWorker, MOMENT, PATIENCE, Stage, bytes_of, close, credit, done, eventually, frame, hello, module, open,
};
use crate::output::OutputSink;
use crate::spec::Spec;
use crate::{Ending, KilledBy, LossCause, Outcome, Rejection, TrapKind};

/// How long the end of a hostile worker may take beyond the time that was given.
const BOUND: Duration = Duration::from_secs(5);
/// What an execution of these tests may have.
const CHANNELS: u32 = 8;
const MESSAGE_BYTES: u64 = 1 << 20;

fn spec() -> Spec {
    let limits = Limits { channels: CHANNELS, message_bytes: MESSAGE_BYTES, ..Limits::default() };
    Spec::popen().with_limits(limits).with_grace(5 * MOMENT)
}

/// What becomes of the worker.
enum Expected {
    /// The host drops it at once, and says so in these words.
    Dropped(&'static str),
    /// It is a worker like another, until somebody has waited for it long enough.
    Borne,
}
use Expected::{Borne, Dropped};

/// Holds after everything a worker did: what the host keeps for it is bounded by the limits, not by the worker.
fn assert_bounded(stage: &Stage, channels: &[&Channel]) {
    let table = stage.connection().table.lock();
    let (open, past) = (table.endpoints.len(), table.past.len());
    assert!(open <= channels.len() + channels.len() * CHANNELS as usize, "{open} channels are open");
    assert!(past <= open + channels.len() * (1 + CHANNELS as usize), "{past} channels are remembered");
    assert_eq!(table.made.values().sum::<u32>() as usize, table.makers.len());
    let endpoints: Vec<_> = table.endpoints.values().cloned().collect();
    drop(table);
    for endpoint in endpoints {
        let (messages, bytes) = endpoint.waiting();
        assert!(messages <= 1024 && bytes <= WINDOW_BYTES + MESSAGE_BYTES, "{messages} messages of {bytes} bytes");
    }
    let (pieces, bytes) = stage.connection().output.waiting();
    assert!(pieces <= 1 << 16 && bytes <= channels.len() * (64 << 10), "{pieces} pieces of output, {bytes} bytes");
}

fn check(name: &str, expected: &Expected, script: impl FnOnce(&mut FakeWorker)) {
    let mut witness = Stage::with(Spec::popen().id("witness"));
    let untouched = witness.execution();
    let mut stage = Stage::with(spec());
    let (task, sibling, plain) = (stage.execution(), stage.execution(), stage.plain());
    assert_eq!([task.id(), sibling.id(), plain.id()], [1, 3, 5]);

    script(&mut stage.worker);
    match expected {
        Dropped(words) => {
            let loss = stage.loss();
            assert!(loss.to_string().contains(words), "{name}: `{words}` was expected, not `{loss}`");
        }
        Borne => {
            let start = Instant::now();
            let (gateway, alive) = (stage.gateway(), stage.connection().is_alive());
            assert!(alive, "{name}: {:?}", stage.loss());
            assert!(matches!(gateway.status_timeout(MOMENT), Err(StatusError::Timeout { .. })), "{name}");
            assert!(task.receive_bytes_timeout(Duration::ZERO).is_err() || task.outcome().is_none(), "{name}");
            assert_bounded(&stage, &[&task, &sibling, &plain]);
            // A kill that is not obeyed costs the worker, within the grace.
            let killed = sibling.kill().expect("an outcome");
            assert_eq!(killed, Outcome::Killed { by: KilledBy::Kill, started: true }, "{name}");
            assert!(start.elapsed() < BOUND, "{name}: its end took {:?}", start.elapsed());
            stage.loss();
            assert_eq!(gateway.terminate(Duration::ZERO).ending, Ending::AlreadyGone);
        }
    }
    assert_bounded(&stage, &[&task, &sibling, &plain]);
    for channel in [&task, &sibling, &plain] {
        let first = channel.outcome().unwrap_or_else(|| panic!("{name}: channel {} has no end", channel.id()));
        assert!(channel.send_bytes(*b"x").is_err(), "{name}");
        assert_eq!(channel.outcome(), Some(first), "{name}: outcomes are sticky");
    }
    witness.worker.data(untouched.id(), &[7]);
    assert_eq!(untouched.receive_timeout::<u8>(PATIENCE).unwrap(), 7, "{name}");
}

fn many(count: u64, message: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    (1..=count).flat_map(message).collect()
}

fn printed(channel: u64, bytes: &[u8]) -> Vec<u8> {
    let output = Output { stream: Stream::Stdout, truncated: false, bytes };
    bytes_of(&ToHost::Output(ChannelId(channel), output))
}

#[test]
fn every_row_ends_within_its_bound() {
    let whole = frame(kind::DATA, 0, 1, &[7; 1000]);
    let parts = |flags: u8, bytes: &[u8]| frame(kind::DATA, flags, 1, bytes);
    let total = |bytes: u64| bytes.to_le_bytes().to_vec();
    let rows: Vec<(&str, Expected, Vec<u8>)> = vec![
        ("nothing at all", Borne, vec![]),
        ("a byte", Borne, whole[..1].to_vec()),
        ("half a header", Borne, whole[..8].to_vec()),
        ("a header alone", Borne, whole[..16].to_vec()),
        ("half a payload", Borne, whole[..500].to_vec()),
        ("all but a byte", Borne, whole[..whole.len() - 1].to_vec()),
        ("half of the largest frame", Borne, frame(kind::DATA, 0, 1, &[0; 256 << 10])[..128 << 10].to_vec()),
        (
            "a frame that is too long",
            Dropped("larger than the maximum"),
            vec![0, 0, 0, 0x7f, 6, 0, 0, 0].into_iter().chain([0; 8]).collect(),
        ),
        ("zeros", Dropped("message kind 0 does not exist"), vec![0; 4096]),
        ("a file", Dropped("broke the protocol"), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".repeat(10)),
        ("half a message", Borne, parts(1, &[total(MESSAGE_BYTES), vec![0; 1000]].concat())),
        ("a message in empty parts", Borne, [parts(1, &total(8)), parts(1, b"").repeat(10_000)].concat()),
        (
            "a message that is longer than it said",
            Dropped("arrived as"),
            [parts(1, &total(8)), parts(1, &[0; 64]).repeat(1000)].concat(),
        ),
        ("a message over the limit", Dropped("larger than the maximum"), parts(1, &total(MESSAGE_BYTES + 1))),
        ("channels up to the limit", Borne, many(CHANNELS.into(), |n| bytes_of(&open(2 * n, 1)))),
        (
            "one channel too many",
            Dropped("execution 1 has more than 8 channels"),
            many(u64::from(CHANNELS) + 1, |n| bytes_of(&open(2 * n, 1))),
        ),
        (
            "channels of both executions",
            Borne,
            many(2 * u64::from(CHANNELS), |n| bytes_of(&open(2 * n, 1 + 2 * (n % 2)))),
        ),
        (
            "a flood of channels that hold a message each",
            Dropped("has more than 8 channels"),
            many(1000, |n| {
                [bytes_of(&open(2 * n, 1)), frame(kind::DATA, 0, 2 * n, b"x"), bytes_of(&close(2 * n, None))].concat()
            }),
        ),
        (
            "channels made and closed",
            Borne,
            many(1000, |n| [bytes_of(&open(2 * n, 1)), bytes_of(&close(2 * n, None))].concat()),
        ),
        (
            "full windows",
            Borne,
            [1_u64, 3, 5].iter().flat_map(|id| frame(kind::DATA, 0, *id, &[0; 1024]).repeat(1024)).collect(),
        ),
        ("one message more than the window", Dropped("without credit"), frame(kind::DATA, 0, 5, b"").repeat(1025)),
        ("credits of nothing for ever", Borne, bytes_of(&credit(1, 0, 0)).repeat(10_000)),
        ("credits from nowhere", Dropped("more credit than it was sent"), bytes_of(&credit(1, 0, 1))),
        (
            "as much credit as there is",
            Dropped("more credit than it was sent"),
            bytes_of(&credit(1, u64::MAX, u32::MAX)),
        ),
        ("negative credit", Dropped("more credit than it was sent"), bytes_of(&credit(3, (-1_i64).cast_unsigned(), 0))),
        ("output as long as it has credit", Borne, printed(1, &[b'x'; 64 << 10])),
        ("output by the byte whose credit nobody reads", Borne, printed(1, b"x").repeat(100_000)),
        ("a second completion", Dropped("does not run"), bytes_of(&done(3, Outcome::Returned)).repeat(2)),
        ("a completion of a channel", Dropped("is no execution"), bytes_of(&done(5, Outcome::Returned))),
        ("another hello", Dropped("a second hello"), bytes_of(&hello())),
        ("an answer to nobody", Dropped("nobody asked for"), bytes_of(&ToHost::Status(WorkerStatus::default()))),
        ("somebody else's channels", Dropped("does not exist"), frame(kind::DATA, 0, 7, b"x")),
        ("the connection's own channel", Dropped("does not exist"), frame(kind::DATA, 0, 0, b"x")),
    ];
    for (name, expected, bytes) in rows {
        check(name, &expected, |worker| worker.raw_or_refused(&bytes));
    }
}

#[test]
fn who_provokes_answers_without_reading_them_is_dropped() {
    let start = Instant::now();
    check("channels made and closed without end", &Dropped("it does not read what it is sent"), |worker| {
        worker.raw_or_refused(&many(100_000, |n| [bytes_of(&open(2 * n, 1)), bytes_of(&close(2 * n, None))].concat()));
    });
    assert!(start.elapsed() < 2 * BOUND, "it took {:?}", start.elapsed());
}

#[test]
fn a_byte_at_a_time_is_as_good_as_silence() {
    check("a byte at a time", &Borne, |worker| {
        for byte in &frame(kind::DATA, 0, 1, &[7; 1000])[..400] {
            worker.raw(&[*byte]);
        }
    });
}

#[test]
fn a_worker_that_goes_away_says_so() {
    for bytes in [&b""[..], &[1, 2, 3]] {
        check("its end is closed", &Dropped("its connection ended"), |worker| {
            worker.raw(bytes);
            worker.hang_up();
        });
    }
}

#[test]
fn hellos_that_no_worker_says() {
    let report = |layers: Vec<(Layer, State)>| Report { layers };
    let with = |change: &dyn Fn(&mut WorkerHello)| {
        let ToHost::Hello(mut greeting) = hello() else { unreachable!() };
        change(&mut greeting);
        bytes_of(&ToHost::Hello(greeting))
    };
    let twice = vec![(Layer::Seccomp, State::Off); 2];
    for (words, bytes) in [
        ("engine of 257 bytes", with(&|it| it.engine = "e".repeat(257))),
        ("engine of 250000 bytes", with(&|it| it.engine = "e".repeat(250_000))),
        ("engine with control characters", with(&|it| it.engine = "e\u{1b}[2J".to_owned())),
        ("version of 65 bytes", with(&|it| it.package_version = "1".repeat(65))),
        ("version with control characters", with(&|it| it.package_version = "\u{9b}".to_owned())),
        ("`seccomp` twice", with(&|it| it.isolation = report(twice.clone()))),
        ("twice", with(&|it| it.isolation = report(vec![(Layer::User, State::Off); 100_000]))),
        (
            "report of 4097 bytes",
            with(&|it| it.isolation = report(vec![(Layer::User, State::Missing("x".repeat(4097)))])),
        ),
        (
            "report with control",
            with(&|it| it.isolation = report(vec![(Layer::User, State::Partial("\0".to_owned()))])),
        ),
    ] {
        let mut stage = Stage::before_hello(Spec::popen(), OutputSink::Discard);
        stage.worker.expect_hello();
        stage.worker.raw_or_refused(&bytes);
        let ready = stage.connection().wait_ready(crate::deadline::Deadline::after(PATIENCE));
        let cause = ready.map(drop).expect_err(words).cause;
        assert!(
            matches!(&cause, LossCause::ProtocolViolation { message } if message.contains(words)),
            "{words}: {cause:?}"
        );
    }
}

/// What an execution's outcome is when the worker says this one.
fn told(said: Outcome) -> Outcome {
    let mut stage = Stage::new();
    let task = stage.execution();
    stage.worker.send(&done(1, said));
    eventually("the outcome", || task.outcome().is_some());
    task.outcome().unwrap()
}

fn texts(outcome: &Outcome) -> usize {
    format!("{outcome:?}").len()
}

#[test]
fn long_and_ugly_texts_are_cut_and_shown_safely() {
    let long = || "\u{1b}]0;owned\u{7}\u{202e}".repeat(6000);
    let names = || vec!["\u{1b}[31m".repeat(1000); 40];
    let rows = vec![
        Outcome::Failed { message: long() },
        Outcome::Panicked { message: long(), location: Some(long()), backtrace: vec![] },
        Outcome::Panicked { message: String::new(), location: None, backtrace: vec![String::new(); 200_000] },
        Outcome::Trapped { kind: TrapKind::Unreachable, backtrace: names(), stack_bytes: Some(u64::MAX) },
        Outcome::Rejected { reason: Rejection::InvalidModule { message: long() } },
        Outcome::Rejected { reason: Rejection::UnknownImport { import: long(), hint: "\u{1b}c".to_owned() } },
        Outcome::Rejected { reason: Rejection::UnknownTask { name: "\0".to_owned(), available: names() } },
        Outcome::Rejected {
            reason: Rejection::BadArguments { message: "\r".to_owned(), available: vec![String::new(); 200_000] },
        },
        Outcome::Rejected { reason: Rejection::AbiVersion { found: long(), supported: String::new() } },
        Outcome::Rejected { reason: Rejection::Instantiation { message: long() } },
    ];
    for said in rows {
        let kept = told(said.clone());
        let shown = kept.to_string();
        assert!(!shown.contains(is_active), "{shown}");
        // Debug escapes most, so that a byte is up to seven.
        assert!(texts(&kept) < 1 << 20, "{} bytes are kept", texts(&kept));
        assert_eq!(std::mem::discriminant(&kept), std::mem::discriminant(&said));
    }
    let short = Outcome::Failed { message: "no \u{1b} such file".to_owned() };
    assert_eq!(told(short.clone()), short, "what is short is kept as it is");
    assert_eq!(short.to_string(), "task failed: no \\u{1b} such file");

    let mut stage = Stage::new();
    let plain = stage.plain();
    stage.worker.send(&close(1, Some(&long()[..60_000])));
    eventually("the end", || plain.outcome().is_some());
    let Some(Outcome::ClosedWithError { message }) = plain.outcome() else { panic!("{plain:?}") };
    assert!(message.len() <= 16 << 10);
}

#[test]
fn what_a_decoder_quotes_is_shown_safely() {
    let error = crate::error::CodecError::new("not `\u{1b}[2J`".repeat(10_000));
    let shown = error.to_string();
    assert!(!shown.contains(is_active) && shown.len() < 64 << 10, "{} bytes", shown.len());
}

#[test]
fn numbers_of_a_status_are_only_shown() {
    let mut stage = Stage::new();
    let gateway = stage.gateway();
    let lie = WorkerStatus { running: u32::MAX, queued: u32::MAX, channels: u32::MAX, finished: u64::MAX };
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| gateway.status_timeout(PATIENCE).unwrap());
        stage.worker.expect(&ToWorker::Status);
        stage.worker.send(&ToHost::Status(lie));
        let status = asking.join().unwrap();
        assert_eq!((status.running, status.finished, status.host_channels), (u32::MAX, u64::MAX, 0));
    });
}

#[test]
fn output_by_the_byte_takes_no_more_than_its_bytes() {
    let (release, blocked) = bounded::<()>(0);
    let (sender, lines) = unbounded();
    let sink = OutputSink::callback(move |line| {
        let _ = blocked.recv_timeout(PATIENCE);
        let _ = sender.send(line.text.len());
    });
    let mut stage = Stage::with_output(Spec::popen(), sink);
    let task = stage.execution();
    let bytes = [&b"\n"[..], &vec![b'x'; (64 << 10) - 1]].concat();
    stage.worker.raw(&bytes.chunks(1).flat_map(|byte| printed(1, byte)).collect::<Vec<_>>());
    stage.settle_past(|message| matches!(message, ToWorker::OutputCredit(..)));
    let (pieces, waiting) = stage.connection().output.waiting();
    // How much of it waits depends on when the thread that delivers got its first piece.
    assert!(pieces <= 2, "{pieces} pieces of {waiting} bytes");
    drop(release);
    stage.worker.send(&done(1, Outcome::Returned));
    task.wait_close_timeout(PATIENCE).unwrap();
    let mut sum = 0;
    while sum < (64 << 10) - 1 {
        sum += lines.recv_timeout(PATIENCE).expect("all of it is handed on");
    }
}

/// One thing that either side does.
#[derive(Debug, Clone)]
enum Step {
    Says(Vec<u8>),
    /// The guest of this execution makes a channel, as it should.
    Makes(u64),
    Executes,
    Opens,
    Sends(usize),
    Receives(usize),
    Closes(usize),
    Drops(usize),
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop::sample::select(vec![
        Outcome::Returned,
        Outcome::Exited { code: -1 },
        Outcome::TimedOut { after: Duration::MAX },
        Outcome::Killed { by: KilledBy::Terminate, started: false },
        Outcome::Failed { message: "\u{1b}".to_owned() },
        Outcome::Trapped { kind: TrapKind::Other, backtrace: vec![String::new()], stack_bytes: None },
    ])
}

/// Any well-formed message about any channel.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![40 => prop::sample::select(vec![1_u64, 2, 3, 4]), 4 => 1_u64..10, 1 => any::<u64>()];
    let data = (0_u8..4, 0_u64..40, prop::collection::vec(1_u64..10, 0..3), prop::collection::vec(any::<u8>(), 0..40));
    let data = (id.clone(), data).prop_map(|(id, (flags, total, ids, bytes))| {
        let total = if flags & 1 == 1 { total.to_le_bytes().to_vec() } else { vec![] };
        let ids = if flags & 2 == 2 { crate::fake_worker::with_channels(&ids, b"") } else { vec![] };
        frame(kind::DATA, flags, id, &[total, ids, bytes].concat())
    });
    let credit = (id.clone(), prop_oneof![0_u64..3, any::<u64>()], 0_u32..3)
        .prop_map(|(id, bytes, messages)| bytes_of(&ToHost::Credit(ChannelId(id), Credit { bytes, messages })));
    let output =
        (id.clone(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(id, truncated, bytes)| {
            let output = Output { stream: Stream::Stderr, truncated, bytes: &bytes };
            bytes_of(&ToHost::Output(ChannelId(id), output))
        });
    prop_oneof![
        6 => data,
        2 => credit,
        3 => (id.clone(), id.clone()).prop_map(|(channel, parent)| bytes_of(&open(channel, parent))),
        2 => (id.clone(), prop::option::of(".{0,4}")).prop_map(|(id, error)| bytes_of(&close(id, error.as_deref()))),
        2 => (id, any_outcome()).prop_map(|(id, outcome)| bytes_of(&done(id, outcome))),
        2 => output,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_message().prop_map(Step::Says),
        4 => prop::sample::select(vec![1_u64, 1, 1, 5]).prop_map(Step::Makes),
        2 => Just(Step::Executes),
        1 => Just(Step::Opens),
        1 => (0_usize..6).prop_map(Step::Sends),
        2 => (0_usize..6).prop_map(Step::Receives),
        1 => (0_usize..6).prop_map(Step::Closes),
        1 => (0_usize..6).prop_map(Step::Drops),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_sequence_of_messages_ends_in_outcomes(steps in prop::collection::vec(step(), 0..60)) {
        let mut stage = Stage::with_output(spec(), OutputSink::callback(drop));
        let gateway = stage.gateway();
        let mut channels = vec![gateway.remote_exec(&module()).unwrap(), gateway.new_channel().unwrap()];
        let (mut made, mut next) = (2, 2);
        for step in steps {
            let at = |index: usize| channels.get(index).cloned();
            match step {
                Step::Says(bytes) => stage.worker.raw_or_refused(&bytes),
                Step::Makes(parent) => {
                    stage.worker.raw_or_refused(&bytes_of(&open(next, parent)));
                    next += 2;
                }
                Step::Executes => channels.extend(gateway.remote_exec(&module())),
                Step::Opens => channels.extend(gateway.new_channel()),
                Step::Sends(index) => drop(at(index).map(|it| it.send_bytes_timeout(*b"x", Duration::ZERO))),
                Step::Receives(index) => {
                    // With the channels in it, which makes new ones; postcard writes a position as one byte.
                    if let Some(Ok(Some(channel))) = at(index).map(|it| it.try_receive::<Channel>()) {
                        channels.push(channel);
                    }
                }
                Step::Closes(index) => drop(at(index).map(|it| it.close())),
                Step::Drops(index) => {
                    if index < channels.len() {
                        channels.swap_remove(index);
                    }
                }
            }
            made += 1;
        }
        let table = stage.connection().table.lock();
        prop_assert!(table.endpoints.len() <= made * (1 + CHANNELS as usize));
        prop_assert!(table.past.len() <= made * (2 + CHANNELS as usize));
        drop(table);
        stage.worker.hang_up_if_there();
        stage.loss();
        for channel in &channels {
            prop_assert!(channel.outcome().is_some());
        }
    }
}
