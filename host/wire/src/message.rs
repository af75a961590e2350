//! What frames mean: one closed set of messages in each direction.
//!
//! Numbers are part of the protocol and stand once, in [`kind`]. Bodies that are not on a hot path are postcard of the
//! types below; data, credits and output have layouts of their own.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::assembly::Chunk;
use crate::flow::Credit;
use crate::frame::Frame;
use crate::grants::{ExecutionGrants, Grants};
use crate::ids::{ChannelId, ModuleId};
use crate::isolation::{Policy, Report};
use crate::limits::Limits;
use crate::outcome::{KilledBy, Outcome};

mod errands;

pub use errands::{Compile, Compiled, Initialize, Initialized, SNAPSHOT_PATIENCE};

/// Opens both sides' first message, so that neither takes a stranger for its peer.
pub const MAGIC: [u8; 8] = *b"SANDGATE";

/// Version of everything in this crate that crosses the wire.
pub const PROTOCOL_VERSION: u16 = 6;

/// Numbers of the messages. A number is never used for something else later.
pub mod kind {
    /// First message of either side.
    pub const HELLO: u8 = 1;
    /// A compiled module; a descriptor comes with it.
    pub const LOAD: u8 = 2;
    /// A module that will not be executed any more.
    pub const UNLOAD: u8 = 3;
    /// A chunk of a call's arguments, before its EXECUTE.
    pub const ARGUMENTS: u8 = 4;
    /// Run a module.
    pub const EXECUTE: u8 = 5;
    /// A chunk of a message.
    pub const DATA: u8 = 6;
    /// Credits for data.
    pub const CREDIT: u8 = 7;
    /// A new channel.
    pub const OPEN: u8 = 8;
    /// The end of what this side sends on a channel.
    pub const CLOSE: u8 = 9;
    /// End an execution.
    pub const KILL: u8 = 10;
    /// An execution ended.
    pub const DONE: u8 = 11;
    /// Bytes of a guest's standard output or error.
    pub const OUTPUT: u8 = 12;
    /// Credits for output.
    pub const OUTPUT_CREDIT: u8 = 13;
    /// Ask for, or tell, the worker's state.
    pub const STATUS: u8 = 14;
    /// Finish and exit.
    pub const TERMINATE: u8 = 15;
    /// Compile a module; two descriptors come with it.
    pub const COMPILE: u8 = 16;
    /// What became of it.
    pub const COMPILED: u8 = 17;
    /// Ask for credits at once from here on.
    pub const CREDIT_WANTED: u8 = 18;
    /// Run a module's init function; two descriptors come with it.
    pub const INITIALIZE: u8 = 19;
    /// How far that has come.
    pub const INITIALIZED: u8 = 20;
}

/// Flags of CLOSE.
const CLOSE_SENDING_ONLY: u8 = 1;
const CLOSE_HAS_ERROR: u8 = 2;
/// Flags of OUTPUT.
const OUTPUT_STDERR: u8 = 1;
const OUTPUT_TRUNCATED: u8 = 2;

/// The host's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHello {
    /// The gateway's id, for messages.
    pub gateway: String,
    /// The host's process id; the worker ends itself when this is no longer its parent.
    pub host_pid: u32,
    /// Most executions at once; more wait in a queue, first come first served.
    pub max_executions: u32,
    /// Added to the worker's nice value.
    pub nice: i32,
    /// What guests are given.
    pub grants: Grants,
    /// What the worker is to have the operating system keep from it.
    pub policy: Policy,
    /// The limits of an execution that names no others, by which the worker sizes itself.
    pub limits: Limits,
    /// Whether the worker serves the first module it is sent and no other.
    pub one_module: bool,
}

/// The worker's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// Version of the worker's package.
    pub package_version: String,
    /// The worker's process id.
    pub pid: u32,
    /// Changes whenever compiled modules of another engine could not be used by this one.
    pub engine: String,
    /// What is in force around the worker.
    pub isolation: Report,
}

/// How a module is translated to native code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Codegen {
    /// With a check at each loop and function, by which a guest is interrupted.
    #[default]
    Interruptible,
    /// As interruptible code, and with counted instructions and canonical NaNs.
    Metered,
    /// Without any check: a guest is stopped by killing its worker.
    Unchecked,
}

impl Codegen {
    /// What an execution with these limits and grants needs.
    pub fn of(limits: &Limits, grants: &ExecutionGrants, interruptible: bool) -> Codegen {
        match (limits.fuel, interruptible) {
            (Some(_), _) => Codegen::Metered,
            _ if grants.deterministic => Codegen::Metered,
            (None, true) => Codegen::Interruptible,
            (None, false) => Codegen::Unchecked,
        }
    }

    /// A name for files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Codegen::Interruptible => "interruptible",
            Codegen::Metered => "metered",
            Codegen::Unchecked => "unchecked",
        }
    }
}

/// Run a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execute {
    /// Which one; it was sent before.
    pub module: ModuleId,
    /// Which of its artefacts.
    pub codegen: Codegen,
    /// Where it starts.
    pub entry: Entry,
    /// Whether ARGUMENTS of this channel came before.
    pub has_arguments: bool,
    /// The program's arguments, its name first.
    pub argv: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// What it is given.
    pub grants: ExecutionGrants,
    /// Whether its arguments are what it reads from its standard input, which otherwise is empty.
    pub stdin: bool,
    /// Whether nobody waits for this one alone: what it says may be kept for a moment, to be sent with what the next one says.
    pub patient: bool,
}

/// Where an execution starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The program's `_start`.
    Start,
    /// A named task.
    Task(String),
}

/// The worker's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Executions that are running.
    pub running: u32,
    /// Executions that wait for a place.
    pub queued: u32,
    /// Open channels, those of executions included.
    pub channels: u32,
    /// Executions that have ended since the worker started.
    pub finished: u64,
}

/// A message to a worker, a compiler or an initializer.
#[derive(Debug, Clone, PartialEq)]
pub enum ToWorker<'a> {
    /// First of all.
    Hello(HostHello),
    /// A compiled module of this many bytes, as a descriptor.
    Load {
        /// Its identity.
        module: ModuleId,
        /// What was made of it.
        codegen: Codegen,
        /// The artefact's size in bytes.
        bytes: u64,
    },
    /// Will not be executed any more.
    Unload(ModuleId),
    /// Part of the arguments of the execution that follows on this channel.
    Arguments(ChannelId, Chunk<'a>),
    /// Run a module on a new channel.
    Execute(ChannelId, Execute),
    /// Part of a message, or several small ones.
    Data(ChannelId, Chunk<'a>),
    /// Credits for data.
    Credit(ChannelId, Credit),
    /// A new channel of the host's.
    Open(ChannelId),
    /// See [`Close`].
    Close(ChannelId, Close),
    /// End an execution.
    Kill(ChannelId, KilledBy),
    /// Credits for this many bytes of output.
    OutputCredit(ChannelId, u64),
    /// Asks for a status.
    Status,
    /// End every channel of the host's side, run what was accepted, and exit once nothing is left. With a cause, kill
    /// what is there instead of waiting for it.
    Terminate {
        /// Whether executions are ended now.
        kill: bool,
    },
    /// Compile a module (compiler process only).
    Compile(Compile),
    /// Run a module's init function (initializer process only).
    Initialize(Initialize),
}

/// A message to the host.
#[derive(Debug, Clone, PartialEq)]
pub enum ToHost<'a> {
    /// First of all.
    Hello(WorkerHello),
    /// Part of a message, or several small ones.
    Data(ChannelId, Chunk<'a>),
    /// Credits for data.
    Credit(ChannelId, Credit),
    /// A guest waits for the memory that unread messages of this channel take. From here on the host gives credits back for
    /// each message that is taken, and for those that were at once.
    CreditWanted(ChannelId),
    /// A new channel of the guest's, made by the execution `parent`.
    Open {
        /// The new channel.
        channel: ChannelId,
        /// The execution.
        parent: ChannelId,
    },
    /// See [`Close`].
    Close(ChannelId, Close),
    /// An execution ended; nothing comes on its channel after this.
    Done(ChannelId, Outcome),
    /// Bytes of an execution's standard output or error.
    Output(ChannelId, Output<'a>),
    /// The state that was asked for.
    Status(WorkerStatus),
    /// What became of a compilation (compiler process only).
    Compiled(Compiled),
    /// How far a pre-initialisation has come (initializer process only).
    Initialized(Initialized),
}

/// This side sends nothing more on a channel; unless `sending_only`, it takes nothing more either.
///
/// Each side sends one full close for each channel that is not an execution's own, and forgets the channel when it has
/// both sent and received one. An execution's own channel is closed by the worker with `Done`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Close {
    /// What the peer is to report as the reason.
    pub error: Option<String>,
    /// Whether this side still takes messages.
    pub sending_only: bool,
}

/// Bytes of a guest's standard output or error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output<'a> {
    /// Which of the two.
    pub stream: Stream,
    /// Whether the limit was reached and what came after these bytes is lost.
    pub truncated: bool,
    /// The bytes, as the guest wrote them.
    pub bytes: &'a [u8],
}

/// One of a program's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// A frame that is no message of this direction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No such kind here.
    #[error("message kind {0} does not exist in this direction")]
    Kind(u8),
    /// The body is not what its kind says.
    #[error("message of kind {0} is malformed")]
    Body(u8),
    /// The peer does not speak this protocol.
    #[error("peer is not a sandgate process")]
    Magic,
    /// The peer speaks another version.
    #[error("peer speaks version {found} of the protocol, this side version {PROTOCOL_VERSION}")]
    Version {
        /// The peer's version.
        found: u16,
    },
}

/// Kind, flags, channel and body of a message that is not data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// One of [`kind`].
    pub kind: u8,
    /// Bits of the kind.
    pub flags: u8,
    /// The channel it is about.
    pub channel: ChannelId,
    /// The body.
    pub body: Vec<u8>,
}

impl ToWorker<'_> {
    /// The message of a frame.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(frame: Frame<'_>) -> Result<ToWorker<'_>, DecodeError> {
        let (channel, body) = (frame.header.channel, frame.payload);
        Ok(match frame.header.kind {
            kind::HELLO => ToWorker::Hello(hello(body)?),
            kind::LOAD => {
                let (module, codegen, bytes) = value(kind::LOAD, body)?;
                ToWorker::Load { module, codegen, bytes }
            }
            kind::UNLOAD => ToWorker::Unload(value(kind::UNLOAD, body)?),
            kind::ARGUMENTS => ToWorker::Arguments(channel, chunk(frame)),
            kind::EXECUTE => ToWorker::Execute(channel, value(kind::EXECUTE, body)?),
            kind::DATA => ToWorker::Data(channel, chunk(frame)),
            kind::CREDIT => ToWorker::Credit(channel, credit(body)?),
            kind::OPEN => ToWorker::Open(channel),
            kind::CLOSE => ToWorker::Close(channel, close(frame)?),
            kind::KILL => ToWorker::Kill(channel, value(kind::KILL, body)?),
            kind::OUTPUT_CREDIT => ToWorker::OutputCredit(channel, number(kind::OUTPUT_CREDIT, body)?),
            kind::STATUS => ToWorker::Status,
            kind::TERMINATE => ToWorker::Terminate { kill: frame.header.flags != 0 },
            kind::COMPILE => ToWorker::Compile(value(kind::COMPILE, body)?),
            kind::INITIALIZE => ToWorker::Initialize(value(kind::INITIALIZE, body)?),
            other => return Err(DecodeError::Kind(other)),
        })
    }

    /// The message as it is written. Data and arguments are written by the outbox, which cuts them into chunks.
    ///
    /// # Panics
    /// On [`ToWorker::Data`] and [`ToWorker::Arguments`].
    pub fn encode(&self) -> Encoded {
        match self {
            ToWorker::Hello(hello) => connection(kind::HELLO, hello_body(hello)),
            ToWorker::Load { module, codegen, bytes } => connection(kind::LOAD, body(&(module, codegen, bytes))),
            ToWorker::Unload(module) => connection(kind::UNLOAD, body(module)),
            ToWorker::Execute(channel, execute) => on(*channel, kind::EXECUTE, body(execute)),
            ToWorker::Credit(channel, credit) => on(*channel, kind::CREDIT, credit_body(*credit)),
            ToWorker::Open(channel) => on(*channel, kind::OPEN, Vec::new()),
            ToWorker::Close(channel, close) => close_message(*channel, close),
            ToWorker::Kill(channel, by) => on(*channel, kind::KILL, body(by)),
            ToWorker::OutputCredit(channel, bytes) => on(*channel, kind::OUTPUT_CREDIT, bytes.to_le_bytes().to_vec()),
            ToWorker::Status => connection(kind::STATUS, Vec::new()),
            ToWorker::Terminate { kill } => {
                Encoded { flags: u8::from(*kill), ..connection(kind::TERMINATE, Vec::new()) }
            }
            ToWorker::Compile(compile) => connection(kind::COMPILE, body(compile)),
            ToWorker::Initialize(initialize) => connection(kind::INITIALIZE, body(initialize)),
            ToWorker::Data(..) | ToWorker::Arguments(..) => {
                panic!("data is written with Outbox::push_message")
            }
        }
    }
}

impl ToHost<'_> {
    /// The message of a frame.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(frame: Frame<'_>) -> Result<ToHost<'_>, DecodeError> {
        let (channel, body) = (frame.header.channel, frame.payload);
        Ok(match frame.header.kind {
            kind::HELLO => ToHost::Hello(hello(body)?),
            kind::DATA => ToHost::Data(channel, chunk(frame)),
            kind::CREDIT => ToHost::Credit(channel, credit(body)?),
            kind::CREDIT_WANTED => ToHost::CreditWanted(channel),
            kind::OPEN => ToHost::Open { channel, parent: ChannelId(number(kind::OPEN, body)?) },
            kind::CLOSE => ToHost::Close(channel, close(frame)?),
            kind::DONE => ToHost::Done(channel, value(kind::DONE, body)?),
            kind::OUTPUT => ToHost::Output(channel, output(frame)),
            kind::STATUS => ToHost::Status(value(kind::STATUS, body)?),
            kind::COMPILED => ToHost::Compiled(value(kind::COMPILED, body)?),
            kind::INITIALIZED => ToHost::Initialized(value(kind::INITIALIZED, body)?),
            other => return Err(DecodeError::Kind(other)),
        })
    }

    /// The message as it is written. Data is written by the outbox, which cuts it into chunks.
    ///
    /// # Panics
    /// On [`ToHost::Data`].
    pub fn encode(&self) -> Encoded {
        match self {
            ToHost::Hello(hello) => connection(kind::HELLO, hello_body(hello)),
            ToHost::Credit(channel, credit) => on(*channel, kind::CREDIT, credit_body(*credit)),
            ToHost::CreditWanted(channel) => on(*channel, kind::CREDIT_WANTED, Vec::new()),
            ToHost::Open { channel, parent } => on(*channel, kind::OPEN, parent.0.to_le_bytes().to_vec()),
            ToHost::Close(channel, close) => close_message(*channel, close),
            ToHost::Done(channel, outcome) => on(*channel, kind::DONE, body(outcome)),
            ToHost::Output(channel, output) => output_message(*channel, *output),
            ToHost::Status(status) => connection(kind::STATUS, body(status)),
            ToHost::Compiled(compiled) => connection(kind::COMPILED, body(compiled)),
            ToHost::Initialized(initialized) => connection(kind::INITIALIZED, body(initialized)),
            ToHost::Data(..) => panic!("data is written with Outbox::push_message"),
        }
    }
}

fn on(channel: ChannelId, kind: u8, body: Vec<u8>) -> Encoded {
    Encoded { kind, flags: 0, channel, body }
}

fn connection(kind: u8, body: Vec<u8>) -> Encoded {
    on(ChannelId::CONNECTION, kind, body)
}

fn body<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("the types of this module serialise into memory without error")
}

fn value<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Body(kind)),
    }
}

fn number(kind: u8, body: &[u8]) -> Result<u64, DecodeError> {
    Ok(u64::from_le_bytes(body.try_into().map_err(|_| DecodeError::Body(kind))?))
}

fn hello_body<T: Serialize>(hello: &T) -> Vec<u8> {
    [&MAGIC[..], &PROTOCOL_VERSION.to_le_bytes(), &body(hello)].concat()
}

fn hello<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let rest = body.strip_prefix(&MAGIC).ok_or(DecodeError::Magic)?;
    let (version, rest) = rest.split_first_chunk().ok_or(DecodeError::Magic)?;
    let found = u16::from_le_bytes(*version);
    if found != PROTOCOL_VERSION {
        return Err(DecodeError::Version { found });
    }
    value(kind::HELLO, rest)
}

fn chunk(frame: Frame<'_>) -> Chunk<'_> {
    Chunk { flags: frame.header.flags, payload: frame.payload }
}

fn credit_body(credit: Credit) -> Vec<u8> {
    [&credit.bytes.to_le_bytes()[..], &credit.messages.to_le_bytes()].concat()
}

fn credit(body: &[u8]) -> Result<Credit, DecodeError> {
    let wrong = DecodeError::Body(kind::CREDIT);
    let (bytes, messages) = body.split_first_chunk().ok_or(wrong.clone())?;
    let messages = messages.try_into().map_err(|_| wrong)?;
    Ok(Credit { bytes: u64::from_le_bytes(*bytes), messages: u32::from_le_bytes(messages) })
}

fn close_message(channel: ChannelId, close: &Close) -> Encoded {
    let mut flags = 0;
    if close.sending_only {
        flags |= CLOSE_SENDING_ONLY;
    }
    if close.error.is_some() {
        flags |= CLOSE_HAS_ERROR;
    }
    let body = close.error.clone().unwrap_or_default().into_bytes();
    Encoded { kind: kind::CLOSE, flags, channel, body }
}

fn close(frame: Frame<'_>) -> Result<Close, DecodeError> {
    let flags = frame.header.flags;
    let error = match flags & CLOSE_HAS_ERROR {
        0 if frame.payload.is_empty() => None,
        0 => return Err(DecodeError::Body(kind::CLOSE)),
        _ => Some(std::str::from_utf8(frame.payload).map_err(|_| DecodeError::Body(kind::CLOSE))?.to_owned()),
    };
    Ok(Close { error, sending_only: flags & CLOSE_SENDING_ONLY != 0 })
}

fn output_message(channel: ChannelId, output: Output<'_>) -> Encoded {
    let mut flags = 0;
    if output.stream == Stream::Stderr {
        flags |= OUTPUT_STDERR;
    }
    if output.truncated {
        flags |= OUTPUT_TRUNCATED;
    }
    Encoded { kind: kind::OUTPUT, flags, channel, body: output.bytes.to_vec() }
}

fn output(frame: Frame<'_>) -> Output<'_> {
    let flags = frame.header.flags;
    Output {
        stream: if flags & OUTPUT_STDERR != 0 { Stream::Stderr } else { Stream::Stdout },
        truncated: flags & OUTPUT_TRUNCATED != 0,
        bytes: frame.payload,
    }
}

/// How long a worker may take from its start to its hello, unless the gateway's spec says otherwise.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
