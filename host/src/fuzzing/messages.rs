//! `host_messages`: a worker says anything at all, while users use its channels.
//!
//! What it promises: whatever a worker sends, in whatever state, the reader neither panics nor waits; a channel holds at
//! most its window and one message; every channel ends; what the host writes are messages; and nothing of the connection
//! is left when it is over.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use sandgate_wire::assembly::SEVERAL;
use sandgate_wire::frame::{Header, MAX_FRAME_BYTES};
use sandgate_wire::isolation::Report;
use sandgate_wire::limits::{LimitName, WINDOW_BYTES, WINDOW_MESSAGES};
use sandgate_wire::message::{Close, Compiled, Encoded, Output, Stream, WorkerHello, WorkerStatus, kind};
use sandgate_wire::outcome::{KilledBy, LossCause, Rejection, TrapKind, WorkerLoss};
use sandgate_wire::{ChannelId, Limits, Outcome, ToHost};

use super::stage::{ENGINE, Play, Wire, module, run};
use crate::call::Call;
use crate::channel::Channel;
use crate::connection::Connection;
use crate::multi::MultiChannel;
use crate::output::OutputSink;
use crate::queue::ReceiveQueue;
use crate::spec::Spec;

/// Most steps of a script.
const MAX_STEPS: usize = 400;
/// Most channels that users hold.
const MAX_HELD: usize = 16;
/// Most times that a frame is sent in one step: more than a window has messages.
const MAX_REPEATS: u16 = 1100;
/// Most bytes that a frame's body is made of by repeating.
const MAX_BODY_BYTES: usize = 300 * 1024;
/// Most bytes of a step.
const MAX_STEP_BYTES: usize = 3 << 20;

/// Plays what the input describes: steps of a worker and of users.
///
/// # Panics
/// When something does not hold.
pub fn host_messages(input: &[u8]) {
    let mut input = Unstructured::new(input);
    // An input that is too short describes nothing.
    let Ok((message_bytes, sink, greets)) = settings(&mut input) else { return };
    let limits = Limits { message_bytes, ..Limits::default() };
    let spec = Spec::popen().with_limits(limits).with_grace(Duration::ZERO);
    let script = Actors {
        input: input.take_rest().to_vec(),
        at: 0,
        steps: 0,
        greets,
        most: WINDOW_BYTES + message_bytes,
        channels: Vec::new(),
        queue: None,
    };
    run(spec, sink, Box::new(script));
}

fn settings(input: &mut Unstructured<'_>) -> Result<(u64, OutputSink, bool)> {
    let message_bytes = *input.choose(&[2 * WINDOW_BYTES, 100, WINDOW_BYTES / 2])?;
    let sink = if input.arbitrary()? {
        OutputSink::callback(|line| drop(std::hint::black_box(line.to_string())))
    } else {
        OutputSink::Discard
    };
    Ok((message_bytes, sink, !input.ratio(1, 16)?))
}

/// The worker and the users.
#[derive(Debug)]
struct Actors {
    input: Vec<u8>,
    at: usize,
    steps: usize,
    /// Whether the worker begins as it should.
    greets: bool,
    /// Most bytes that wait in a channel.
    most: u64,
    channels: Vec<Channel>,
    queue: Option<ReceiveQueue<Vec<u8>>>,
}

impl Play for Actors {
    fn play(&mut self, connection: &Arc<Connection>, wire: &Wire) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.greets) {
            return Some(bytes_of(&hello()));
        }
        let bytes = std::mem::take(&mut self.input);
        let mut input = Unstructured::new(&bytes[self.at..]);
        let said = self.next(&mut input, connection, wire);
        self.at = bytes.len() - input.len();
        self.input = bytes;
        said
    }
}

impl Actors {
    /// Lets users act until it is the worker's turn.
    fn next(&mut self, input: &mut Unstructured<'_>, connection: &Arc<Connection>, wire: &Wire) -> Option<Vec<u8>> {
        if self.steps == 0 && connection.is_alive() {
            // A task and a plain channel, with the ids 1 and 3.
            self.channels.extend(connection.gateway().remote_exec(&module()));
            self.channels.extend(connection.gateway().new_channel());
        }
        while !input.is_empty() && self.steps < MAX_STEPS {
            self.steps += 1;
            self.check();
            let is_users = input.arbitrary().ok()?;
            if is_users {
                self.act(input, connection, wire).ok()?;
            } else if let Ok(said) = say(input)
                && !said.is_empty()
            {
                return Some(said);
            }
        }
        None
    }

    fn check(&self) {
        for channel in &self.channels {
            let (messages, bytes) = channel.endpoint().waiting();
            assert!(bytes <= self.most, "{bytes} bytes wait in {channel:?}");
            assert!(messages <= WINDOW_MESSAGES as usize, "{messages} messages wait in {channel:?}");
        }
    }

    /// One thing that a user does. Nothing here waits, for this is the thread that reads.
    fn act(&mut self, input: &mut Unstructured<'_>, connection: &Arc<Connection>, wire: &Wire) -> Result<()> {
        let gateway = connection.gateway();
        let action: u8 = input.int_in_range(0..=24)?;
        let place = usize::from(input.arbitrary::<u8>()?);
        let index = place % self.channels.len().max(1);
        // What needs no channel.
        match action {
            0 => self.hold(gateway.remote_exec(&module())),
            1 => {
                let call = Call::task("task").argv([place.to_string()]);
                let Ok(call) = call.args(&(input.arbitrary::<u32>()?, "text")) else { return Ok(()) };
                self.hold(gateway.remote_exec_with(&module(), &call));
            }
            2 => self.hold(gateway.new_channel()),
            3 => drop(gateway.status_timeout(Duration::ZERO)),
            4 => wire.stall(input.arbitrary()?),
            5 => wire.take_at_most(if input.arbitrary()? { Some(place) } else { None }),
            6 => {
                if input.ratio(1, 4)? {
                    connection.request_terminate(input.arbitrary()?);
                }
            }
            7 => {
                let made = MultiChannel::from_iter(self.channels.iter().skip(index).cloned());
                if let Ok(queue) = made.make_receive_queue() {
                    self.queue = Some(queue);
                }
            }
            8 => {
                if let Some(queue) = &self.queue {
                    drop(queue.try_get());
                }
            }
            _ => return self.act_on(action, index, input),
        }
        Ok(())
    }

    fn act_on(&mut self, action: u8, index: usize, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(channel) = self.channels.get(index).cloned() else { return Ok(()) };
        let zero = Duration::ZERO;
        match action {
            9 => drop(channel.try_receive::<Vec<u8>>()),
            10 => {
                if let Ok(Some((_, inner))) = channel.try_receive::<(u8, Vec<Channel>)>() {
                    inner.into_iter().for_each(|inner| self.hold(Ok::<_, ()>(inner)));
                }
            }
            11 => drop(channel.receive_bytes_timeout(zero)),
            12 => drop(channel.try_receive::<Vec<(String, Option<u64>)>>()),
            13 => drop(channel.send_bytes_timeout(input.bytes(input.len().min(5))?, zero)),
            14 => drop(channel.send_bytes_timeout(vec![0; usize::from(input.arbitrary::<u16>()?) * 5], zero)),
            15 => {
                let other = input.choose(&self.channels)?;
                drop(channel.try_send(&(1_u8, [other])));
            }
            16 => channel.close(),
            17 => channel.close_with_error("an error"),
            18 => channel.close_send(),
            19 => drop(self.channels.remove(index)),
            20 => drop(channel.set_callback(|event| drop(std::hint::black_box::<crate::Event<Vec<u8>>>(event)))),
            21 => {
                if let Some(queue) = &self.queue {
                    let _ = queue.add(&channel);
                }
            }
            22 => self.channels.remove(index).detach(),
            23 => drop((channel.is_closed(), channel.outcome(), channel.wait_close_timeout(zero))),
            _ => {
                if input.ratio(1, 4)? {
                    drop(channel.kill());
                }
            }
        }
        Ok(())
    }

    fn hold<E>(&mut self, channel: std::result::Result<Channel, E>) {
        if let Ok(channel) = channel
            && self.channels.len() < MAX_HELD
        {
            self.channels.push(channel);
        }
    }
}

/// What a worker says in one step: a message of any kind that is more or less rightly formed, or any bytes.
fn say(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let said = match input.int_in_range(0..=11)? {
        0 => {
            let length = usize::from(input.arbitrary::<u8>()?);
            input.bytes(length.min(input.len()))?.to_vec()
        }
        1 => {
            let (number, flags) = (input.arbitrary()?, input.arbitrary()?);
            frame(number, flags, id(input)?, &body(input)?)
        }
        2 => {
            let flags = input.int_in_range(0..=4)?;
            let prefix = prefix(input, flags)?;
            frame(kind::DATA, flags, id(input)?, &[prefix, body(input)?].concat())
        }
        3 => {
            let mut several = Vec::new();
            for _ in 0..input.int_in_range(0..=5)? {
                let body = body(input)?;
                several.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes());
                several.extend_from_slice(&body);
            }
            frame(kind::DATA, SEVERAL, id(input)?, &several)
        }
        4 => {
            let (bytes, messages) = (u64::from(input.arbitrary::<u32>()?), input.int_in_range(0..=600)?);
            bytes_of(&ToHost::Credit(id(input)?, sandgate_wire::flow::Credit { bytes, messages }))
        }
        5 => bytes_of(&ToHost::Open { channel: id(input)?, parent: id(input)? }),
        6 => {
            let error = if input.arbitrary()? { Some("error".repeat(input.int_in_range(0..=9)?)) } else { None };
            bytes_of(&ToHost::Close(id(input)?, Close { error, sending_only: input.ratio(1, 8)? }))
        }
        7 => bytes_of(&ToHost::Done(id(input)?, outcome(input)?)),
        8 => {
            let stream = if input.arbitrary()? { Stream::Stdout } else { Stream::Stderr };
            let (truncated, channel) = (input.ratio(1, 4)?, id(input)?);
            bytes_of(&ToHost::Output(channel, Output { stream, truncated, bytes: &body(input)? }))
        }
        9 => bytes_of(&ToHost::Status(WorkerStatus { running: input.arbitrary()?, ..WorkerStatus::default() })),
        10 => bytes_of(&hello()),
        _ => {
            let rejection = Rejection::InvalidModule { message: "text".to_owned() };
            bytes_of(&ToHost::Compiled(Compiled::Rejected(rejection)))
        }
    };
    let repeats = if input.ratio(1, 8)? { usize::from(input.int_in_range(0..=MAX_REPEATS)?) } else { 1 };
    Ok(said.repeat(repeats.min(MAX_STEP_BYTES / said.len().max(1))))
}

/// What stands before the bytes of a first chunk.
fn prefix(input: &mut Unstructured<'_>, flags: u8) -> Result<Vec<u8>> {
    let mut prefix = Vec::new();
    if flags & 1 != 0 {
        prefix.extend_from_slice(&u64::from(input.arbitrary::<u32>()?).to_le_bytes());
    }
    if flags & 2 != 0 {
        let count: u16 = input.int_in_range(0..=66)?;
        prefix.extend_from_slice(&count.to_le_bytes());
        for _ in 0..count {
            prefix.extend_from_slice(&id(input)?.0.to_le_bytes());
        }
    }
    Ok(prefix)
}

/// Mostly the id of a channel that there may be.
fn id(input: &mut Unstructured<'_>) -> Result<ChannelId> {
    let small: u8 = input.arbitrary()?;
    Ok(ChannelId(match small {
        0..=249 => u64::from(small % 24),
        _ => input.arbitrary()?,
    }))
}

fn body(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = usize::from(input.arbitrary::<u8>()?);
    let bytes = input.bytes(length.min(input.len()))?;
    let repeats = if input.ratio(1, 8)? { usize::from(input.arbitrary::<u16>()?) } else { 1 };
    Ok(bytes.repeat(repeats.min(MAX_BODY_BYTES / length.max(1))))
}

fn outcome(input: &mut Unstructured<'_>) -> Result<Outcome> {
    let text = "text".repeat(input.int_in_range(0..=2)?);
    Ok(match input.int_in_range(0..=11)? {
        0 | 1 => Outcome::Returned,
        2 => Outcome::Closed,
        3 => Outcome::ClosedWithError { message: text },
        4 => Outcome::Failed { message: text },
        5 => Outcome::Panicked { message: text.clone(), location: None, backtrace: vec![text] },
        6 => Outcome::Trapped { kind: TrapKind::StackOverflow, backtrace: vec![text], stack_bytes: input.arbitrary()? },
        7 => Outcome::Exited { code: input.arbitrary()? },
        8 => Outcome::LimitExceeded { limit: LimitName::Memory, value: input.arbitrary()? },
        9 => Outcome::Killed { by: KilledBy::Kill, started: input.arbitrary()? },
        10 => Outcome::CallbackFailed { message: text },
        _ => {
            let cause = LossCause::Exited { code: 0 };
            Outcome::WorkerLost { loss: WorkerLoss { gateway: text, pid: None, cause, stderr_tail: String::new() } }
        }
    })
}

fn hello() -> ToHost<'static> {
    let (package_version, engine) = (env!("CARGO_PKG_VERSION").to_owned(), ENGINE.to_owned());
    ToHost::Hello(WorkerHello { package_version, pid: 1, engine, isolation: Report::default() })
}

fn bytes_of(message: &ToHost<'_>) -> Vec<u8> {
    let Encoded { kind, flags, channel, body } = message.encode();
    frame(kind, flags, channel, &body)
}

/// A frame, whose header lies if the body is larger than it may be.
fn frame(kind: u8, flags: u8, channel: ChannelId, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let header = Header { length, kind, flags, channel };
    [&header.encode()[..], &body[..body.len().min(MAX_FRAME_BYTES)]].concat()
}

/// Inputs to begin with, with their names. Each is the settings, then steps: see [`host_messages`].
pub fn host_messages_seeds() -> Vec<(String, Vec<u8>)> {
    // Large messages, no sink, a greeting.
    const SETTINGS: &[u8] = &[0, 0, 1];
    // Steps: who acts, what, and its numbers; a worker's step ends with a byte against repetition.
    let user = |action: u8, place: u8, rest: &[u8]| [&[1, action, place], rest].concat();
    let worker = |what: u8, rest: &[u8], repeats: &[u8]| [&[0, what], rest, repeats].concat();
    let once: &[u8] = &[1];
    let data = |channel: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).unwrap_or(0);
        worker(2, &[&[0, channel, length], bytes, &[1]].concat(), once)
    };
    let done = |channel: u8, outcome: u8| worker(7, &[channel, 0, outcome], once);
    let scripts: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("quiet", vec![]),
        ("returns", vec![data(1, b"\x03abc"), user(9, 0, &[]), done(1, 0), user(9, 0, &[]), user(23, 0, &[])]),
        ("opens", vec![worker(5, &[2, 1], once), data(2, b"x"), worker(6, &[2, 0, 1], once), done(1, 0)]),
        // A message of one channel: id 2, at position 0 of the value.
        (
            "carries",
            vec![
                worker(5, &[2, 1], once),
                worker(2, &[2, 1, 0, 2, 1, 6, 7, 1, 0, 0, 0, 0, 1], once),
                user(10, 0, &[]),
                user(13, 2, b"hello"),
            ],
        ),
        ("chunks", vec![worker(2, &[1, 4, 0, 0, 0, 1, 2, b'a', b'b', 1], once), data(1, b"cd"), user(11, 0, &[])]),
        ("callback", vec![user(20, 0, &[]), data(1, b"\x01a"), data(1, b"\xff"), done(1, 0)]),
        (
            "queue",
            vec![user(7, 0, &[]), data(1, b"\x01a"), user(8, 0, &[]), worker(6, &[3, 0, 1], once), user(8, 0, &[])],
        ),
        ("flood", vec![worker(2, &[0, 1, 2, 0, 0, 1], &[0, 4, 0x4c])]),
        ("output", vec![worker(8, &[0, 1, 1, 3, b'a', b'\n', b'b', 1], once), done(1, 3)]),
        ("status", vec![user(3, 0, &[]), worker(9, &[1, 0, 0, 0], once)]),
        ("stalled", vec![user(4, 0, &[1]), user(14, 0, &[0xff, 0xff]), worker(4, &[9, 0, 0, 0, 0, 1, 1], once)]),
        ("killed", vec![user(24, 0, &[0])]),
        ("ends", vec![user(6, 0, &[0, 1]), done(1, 9)]),
        (
            "two",
            vec![user(0, 0, &[]), user(1, 9, &[1, 2, 3, 4]), user(2, 0, &[]), data(5, b"a"), done(5, 0), done(7, 5)],
        ),
        ("lies", vec![done(1, 11)]),
        ("hellos", vec![worker(10, &[], once)]),
    ];
    let seed = |(name, steps): (&str, Vec<Vec<u8>>)| (name.to_owned(), [SETTINGS, &steps.concat()].concat());
    scripts.into_iter().map(seed).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_host_messages_holds_for_its_seeds() {
        for (_, input) in super::host_messages_seeds() {
            super::host_messages(&input);
        }
    }
}
