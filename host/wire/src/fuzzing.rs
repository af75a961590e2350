//! The body of the fuzz target `frames`, and its seeds. Built for tests and for cargo-fuzz only; see `fuzz/README.md`.
//!
//! What it promises: whatever bytes a peer sends, and however the stream is cut, the reader gives the same frames and the
//! same error, holds at most one frame, and what decodes as a message is the same message after another round trip.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use arbitrary::{Result, Unstructured};

use crate::assembly::{Assembly, MAX_MESSAGE_CHANNELS, SEVERAL};
use crate::flow::ReceiveWindow;
use crate::frame::{Frame, FrameError, FrameReader, HEADER_BYTES, Header, MAX_FRAME_BYTES};
use crate::ids::ChannelId;
use crate::limits::WINDOW_BYTES;
use crate::message::{Encoded, ToHost, ToWorker};
use crate::messages::each;
use crate::transport::testing::Scripted;

/// Largest message that the assemblies take: more than a window, so that both bounds are met.
const MESSAGE_BYTES: u64 = 2 * WINDOW_BYTES;
/// Most times that a part of the input stands in the stream, so that a short input can make a long stream.
const MAX_REPEATS: u16 = 4096;
/// Bytes at which a stream is long enough.
const MAX_STREAM_BYTES: usize = 1 << 20;
/// Most parts that a stream arrives in, give or take some: a long one in single bytes takes too long.
const MAX_PARTS: usize = 4096;

/// Reads a stream of frames that the input describes.
///
/// # Panics
/// When something does not hold.
pub fn frames(input: &[u8]) {
    // An input that is too short describes nothing.
    let _ = Input::parse(input).map(|input| input.check());
}

/// A stream, and the sizes of the parts it arrives in.
struct Input {
    stream: Vec<u8>,
    cuts: Vec<usize>,
}

impl Input {
    fn parse(bytes: &[u8]) -> Result<Input> {
        let mut input = Unstructured::new(bytes);
        let cuts = (0..input.int_in_range(0..=7)?).map(|_| Ok(usize::from(input.arbitrary::<u16>()?) + 1));
        let cuts = cuts.collect::<Result<_>>()?;
        let stream = if input.arbitrary()? { formed(&mut input)? } else { input.take_rest().to_vec() };
        Ok(Input { stream, cuts })
    }

    fn check(&self) {
        let whole = Seen::of(&mut reader(&[&self.stream]), true);
        let mut parts = Vec::new();
        let mut rest = &self.stream[..];
        let least = rest.len() / MAX_PARTS;
        for cut in self.cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, later) = rest.split_at((*cut).max(least).min(rest.len()));
            parts.push(part);
            rest = later;
        }
        if parts.is_empty() {
            parts.push(&self.stream);
        }
        let cut = Seen::of(&mut reader(&parts), false);
        assert_eq!(whole, cut, "what is read depends on how the stream is cut");
    }
}

/// Frames with rightly formed headers, whose bodies the input repeats at will.
fn formed(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < MAX_STREAM_BYTES {
        let kind = input.int_in_range(0..=18)?;
        let flags = input.arbitrary()?;
        let channel = ChannelId(input.int_in_range(0..=7)?);
        let repeats = if input.ratio(1, 8)? { input.int_in_range(0..=MAX_REPEATS)? } else { 1 };
        let length = input.arbitrary::<u8>()?.into();
        let body = input.bytes(usize::min(length, input.len()))?.repeat(repeats.into());
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        stream.extend_from_slice(&Header { length, kind, flags, channel }.encode());
        stream.extend_from_slice(&body);
    }
    Ok(stream)
}

fn reader(parts: &[&[u8]]) -> FrameReader {
    FrameReader::new(Box::new(Scripted::new(parts)))
}

/// What came out of a reader.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    frames: usize,
    digest: u64,
    end: String,
}

impl Seen {
    fn of(reader: &mut FrameReader, look: bool) -> Seen {
        let mut digest = DefaultHasher::new();
        let mut channels = HashMap::new();
        let mut frames = 0;
        let end = loop {
            // The other way to read, which must not change what is read.
            if !look && !reader.has_frame() {
                reader.fill_now();
                if let Err(error) = go_straight(reader, frames) {
                    break error.to_string();
                }
            }
            match reader.read_frame() {
                Ok(Some(frame)) => {
                    frames += 1;
                    frame.header.encode().hash(&mut digest);
                    frame.payload.hash(&mut digest);
                    assert_eq!(frame.header.length as usize, frame.payload.len());
                    if look {
                        decode(frame, &mut channels);
                    }
                }
                Ok(None) => break "end".to_owned(),
                Err(error) => {
                    assert!(!matches!(error, FrameError::Io(_)), "this stream cannot fail: {error}");
                    break error.to_string();
                }
            }
            assert!(reader.capacity() <= HEADER_BYTES + MAX_FRAME_BYTES, "the reader holds more than a frame");
        };
        Seen { frames, digest: digest.finish(), end }
    }
}

/// Has the payload of some frames read to other memory, and takes the beginning of some that it puts back.
fn go_straight(reader: &mut FrameReader, number: usize) -> Result<(), FrameError> {
    match number % 3 {
        0 => reader.lend(vec![1; number]),
        1 => {
            let Ok(Some(mut payload)) = reader.open() else { return Ok(()) };
            let mut taken = vec![0; payload.left() / 2];
            let count = payload.take(&mut taken)?.unwrap_or_default();
            payload.put_back(&taken[..count]);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// One channel's stream of chunks. What is over after an error stays so.
type Channels = HashMap<ChannelId, Option<(Assembly, ReceiveWindow)>>;

fn decode(frame: Frame<'_>, channels: &mut Channels) {
    match ToHost::decode(frame) {
        Ok(ToHost::Data(channel, chunk)) => {
            let open = channels.entry(channel).or_insert_with(|| Some(Default::default()));
            let Some((assembly, window)) = open else { return };
            if chunk.flags == SEVERAL {
                let Ok((count, _)) = assembly.several(chunk.payload, MESSAGE_BYTES, window) else {
                    *open = None;
                    return;
                };
                let lengths: Vec<u64> = each(chunk.payload).map(|message| message.len() as u64).collect();
                assert_eq!(lengths.len(), count);
                for length in lengths {
                    assert!(length <= MESSAGE_BYTES);
                    window.take(length);
                }
                return;
            }
            match assembly.push(chunk, MESSAGE_BYTES, Some(window)) {
                Ok(Some(message)) => {
                    assert!(message.bytes.len() as u64 <= MESSAGE_BYTES);
                    assert!(message.channels.len() <= MAX_MESSAGE_CHANNELS);
                    window.take(message.bytes.len() as u64);
                }
                Ok(None) => {}
                Err(_) => *open = None,
            }
        }
        Ok(message) => {
            let encoded = message.encode();
            again(&encoded, |frame| assert_eq!(ToHost::decode(frame).as_ref(), Ok(&message)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match ToWorker::decode(frame) {
        Ok(ToWorker::Data(..) | ToWorker::Arguments(..)) => {}
        Ok(message) => {
            let encoded = message.encode();
            again(&encoded, |frame| assert_eq!(ToWorker::decode(frame).as_ref(), Ok(&message)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn again(encoded: &Encoded, check: impl FnOnce(Frame<'_>)) {
    let Encoded { kind, flags, channel, body } = encoded;
    // Nothing that came in a frame is longer when it is written again.
    assert!(body.len() <= MAX_FRAME_BYTES, "a message of kind {kind} has grown to {} bytes", body.len());
    let length = u32::try_from(body.len()).expect("less than MAX_FRAME_BYTES");
    check(Frame { header: Header { length, kind: *kind, flags: *flags, channel: *channel }, payload: body });
}

/// Inputs to begin with, with their names: each message in a stream of its own, all in one, and streams that end badly.
pub fn frames_seeds() -> Vec<(String, Vec<u8>)> {
    let messages = seeds::messages();
    let stream = |bytes: &[u8]| [&[0, 0], bytes].concat();
    let mut all = Vec::new();
    let mut seeds = vec![("empty".to_owned(), stream(b""))];
    for (name, encoded) in &messages {
        let bytes = seeds::bytes(encoded);
        seeds.push((name.to_string(), stream(&bytes)));
        all.extend_from_slice(&bytes);
    }
    // Seven sizes of parts, then the stream as it is.
    let cuts: Vec<u8> = [0_u16, 15, 16, 1, 3, 200, 63].iter().flat_map(|cut| cut.to_le_bytes()).collect();
    seeds.push(("all-cut".to_owned(), [&[7], &cuts[..], &[0], &all].concat()));
    seeds.push(("all-truncated".to_owned(), stream(&all[..all.len() - 3])));
    seeds.push(("text".to_owned(), stream(b"bash: no such command, sorry")));
    seeds.push(("too-large".to_owned(), stream(&[1, 0, 4, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])));
    // Formed frames: kind, flags, channel, 0 and two bytes for repeats (else 1), length, body.
    let data = |flags: u8, body: &[u8]| [&[6, flags, 1, 1, u8::try_from(body.len()).unwrap_or(0)], body].concat();
    let formed = |frames: &[Vec<u8>]| [&[0, 1], &frames.concat()[..]].concat();
    seeds.push(("formed-chunks".to_owned(), formed(&[data(1, &[5, 0, 0, 0, 0, 0, 0, 0, 1]), data(0, b"2345")])));
    let channels = [&[2, 0], &[2; 8][..], &[4; 8]].concat();
    seeds.push(("formed-channels".to_owned(), formed(&[data(2, &channels), data(2, &[65, 0])])));
    seeds.push(("formed-flood".to_owned(), formed(&[vec![6, 0, 2, 0, 0x0f, 0xff, 64], vec![7; 64]])));
    seeds
}

mod seeds {
    //! One of each message.

    use super::*;
    use crate::flow::Credit;
    use crate::grants::{Directory, ExecutionGrants, Grants};
    use crate::ids::ModuleId;
    use crate::isolation::{Demand, Layer, Policy, Report, State};
    use crate::limits::{LimitName, Limits};
    use crate::message::{
        Close, Codegen, Compile, Compiled, Entry, Execute, HostHello, Initialize, Initialized, Output, Stream,
        WorkerHello, WorkerStatus,
    };
    use crate::module_limits::{ModuleLimits, Shape};
    use crate::outcome::{KilledBy, LossCause, Outcome, Rejection, TrapKind, WorkerLoss};
    use crate::profile::Profile;

    pub(super) fn messages() -> Vec<(&'static str, Encoded)> {
        let (one, two, module) = (ChannelId(1), ChannelId(2), ModuleId([9; 32]));
        let text = || "text".to_owned();
        let close = Close { error: Some(text()), sending_only: true };
        let output = |bytes| Output { stream: Stream::Stderr, truncated: true, bytes };
        let loss = WorkerLoss {
            gateway: text(),
            pid: Some(1),
            cause: LossCause::ProtocolViolation { message: text() },
            stderr_tail: text(),
        };
        let done = |outcome| ToHost::Done(one, outcome).encode();
        let data = Encoded { kind: crate::message::kind::DATA, flags: 0, channel: one, body: b"data".to_vec() };
        let panicked = Outcome::Panicked { message: text(), location: Some(text()), backtrace: vec![text()] };
        vec![
            ("host-hello", ToWorker::Hello(host_hello()).encode()),
            ("load", ToWorker::Load { module, codegen: Codegen::Metered, bytes: 3 }.encode()),
            ("unload", ToWorker::Unload(module).encode()),
            ("execute", ToWorker::Execute(one, execute()).encode()),
            ("kill", ToWorker::Kill(one, KilledBy::Terminate).encode()),
            ("output-credit", ToWorker::OutputCredit(one, 2).encode()),
            ("ask-status", ToWorker::Status.encode()),
            ("terminate", ToWorker::Terminate { kill: true }.encode()),
            ("compile", ToWorker::Compile(compile()).encode()),
            ("initialize", ToWorker::Initialize(initialize()).encode()),
            ("worker-hello", ToHost::Hello(worker_hello()).encode()),
            ("data", data),
            ("credit", ToHost::Credit(one, Credit { bytes: 0x0102, messages: 3 }).encode()),
            ("open", ToHost::Open { channel: two, parent: one }.encode()),
            ("close", ToHost::Close(two, close).encode()),
            ("output", ToHost::Output(two, output(b"hi")).encode()),
            ("status", ToHost::Status(WorkerStatus { running: 1, queued: 2, channels: 3, finished: 4 }).encode()),
            ("compiled", ToHost::Compiled(compiled()).encode()),
            ("initialized", ToHost::Initialized(Initialized::Done { bytes: 1 }).encode()),
            ("ended", ToHost::Initialized(Initialized::Ended(Outcome::Failed { message: text() })).encode()),
            ("rejected", ToHost::Compiled(Compiled::Rejected(Rejection::InvalidModule { message: text() })).encode()),
            ("returned", done(Outcome::Returned)),
            ("panicked", done(panicked)),
            (
                "trapped",
                done(Outcome::Trapped { kind: TrapKind::StackOverflow, backtrace: vec![text()], stack_bytes: Some(1) }),
            ),
            ("limit", done(Outcome::LimitExceeded { limit: LimitName::Memory, value: 5 })),
            ("lost", done(Outcome::WorkerLost { loss })),
        ]
    }

    /// A frame's bytes.
    pub(super) fn bytes(encoded: &Encoded) -> Vec<u8> {
        let length = u32::try_from(encoded.body.len()).unwrap_or(u32::MAX);
        let header = Header { length, kind: encoded.kind, flags: encoded.flags, channel: encoded.channel };
        [&header.encode()[..], &encoded.body].concat()
    }

    fn host_hello() -> HostHello {
        HostHello {
            gateway: "gw0".to_owned(),
            host_pid: 5,
            max_executions: 2,
            nice: 0,
            grants: Grants {
                environment: vec![("A".to_owned(), "b".to_owned())],
                directories: vec![Directory { host: "/h".into(), guest: "/g".to_owned(), writable: true }],
                execution: ExecutionGrants::deterministic(9),
            },
            policy: Policy::all(Demand::Off),
            limits: Limits::for_tasks(),
            one_module: true,
        }
    }

    fn worker_hello() -> WorkerHello {
        let isolation = Report { layers: vec![(Layer::Landlock, State::Missing("no".to_owned()))] };
        WorkerHello { package_version: "0".to_owned(), pid: 1, engine: "e".to_owned(), isolation }
    }

    fn execute() -> Execute {
        Execute {
            module: ModuleId([9; 32]),
            codegen: Codegen::Unchecked,
            entry: Entry::Task("task".to_owned()),
            has_arguments: true,
            argv: vec!["program".to_owned()],
            limits: Limits::default(),
            grants: ExecutionGrants::default(),
            stdin: false,
            patient: false,
        }
    }

    fn compile() -> Compile {
        Compile {
            module: ModuleId([9; 32]),
            bytes: 1,
            codegen: Codegen::Interruptible,
            limits: ModuleLimits::default(),
            profile: Profile::MINIMAL,
            policy: Policy::all(Demand::Prefer),
        }
    }

    fn initialize() -> Initialize {
        let Compile { module, bytes, codegen, limits, profile, policy } = compile();
        Initialize {
            module,
            bytes,
            input_bytes: 1,
            init: "init".to_owned(),
            codegen,
            limits: Limits::for_tasks(),
            grants: ExecutionGrants::deterministic(0),
            module_limits: limits,
            profile,
            policy,
        }
    }

    fn compiled() -> Compiled {
        Compiled::Done { engine: "e".to_owned(), bytes: 2, shape: Shape::default(), description: vec![1] }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_frames_holds_for_its_seeds() {
        for (_, input) in super::frames_seeds() {
            super::frames(&input);
        }
    }
}
