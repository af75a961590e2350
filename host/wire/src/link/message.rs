//! What is said on a link, apart from the streams: hellos, requests, answers.
//!
//! The host trusts an agent no more than a worker: whatever arrives is decoded totally, and checked by whoever gets it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::LinkFrame;
use crate::ids::ModuleId;
use crate::isolation::Policy;
use crate::message::{Codegen, PROTOCOL_VERSION};
use crate::module_limits::{ModuleLimits, Shape};
use crate::outcome::{LossCause, Rejection, WorkerLoss};
use crate::profile::Profile;

/// Version of what is said on links. It stands at the beginning of both hellos.
pub const LINK_VERSION: u16 = 2;

/// How long a link may be silent, unless a spec says otherwise.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);

/// Numbers of the messages. A number is never used for something else later.
pub mod kind {
    /// First of either side.
    pub const HELLO: u8 = 1;
    /// "I am here."
    pub const BEAT: u8 = 2;
    /// Bytes of a stream.
    pub const DATA: u8 = 3;
    /// The right to send more of a stream.
    pub const CREDIT: u8 = 4;
    /// The artefact that belongs to the stream's next byte.
    pub const ATTACH: u8 = 5;
    /// Nothing more comes on a stream.
    pub const END: u8 = 6;
    /// Start a process at the far end of a stream.
    pub const START: u8 = 7;
    /// It was started.
    pub const STARTED: u8 = 8;
    /// It has ended, or was not started.
    pub const EXITED: u8 = 9;
    /// Kill it.
    pub const KILL: u8 = 10;
    /// How much memory it has.
    pub const RESIDENT: u8 = 11;
    /// Compile a module.
    pub const COMPILE: u8 = 12;
    /// The module's bytes are not there.
    pub const NEED: u8 = 13;
    /// They come on this stream.
    pub const UPLOAD: u8 = 14;
    /// What became of the compilation.
    pub const COMPILED: u8 = 15;
    /// An artefact that will not be attached any more.
    pub const FORGET: u8 = 16;
    /// A beat was heard: the number that came with it.
    pub const ECHO: u8 = 17;
    /// Why an agent ends the link; its last.
    pub const LAST: u8 = 18;
}

/// An agent's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// Version of its package.
    pub package_version: String,
    /// Version of what its workers speak.
    pub protocol: u16,
    /// Operating system and processor, as in `linux x86_64`.
    pub platform: String,
    /// Its process id, which is that of its workers' parent.
    pub pid: u32,
    /// Processors that it may use.
    pub processors: u32,
}

/// A host's first message to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostGreeting {
    /// Version of its package.
    pub package_version: String,
    /// How long the link may be silent before the agent ends itself and all that it has started.
    pub heartbeat: Duration,
    /// Whom the group works for.
    pub tenant: Option<String>,
    /// Whether compiled modules are kept on disk.
    pub keeps_modules: bool,
}

/// The platform of this process, as an [`AgentHello`] says it.
pub fn platform() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// What is to be started at the far end of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// A worker.
    Worker {
        /// The executable, if it is not the agent's own.
        program: Option<Vec<u8>>,
        /// The directory in which it starts.
        directory: Option<Vec<u8>>,
    },
    /// A launcher of another link: a program and its arguments. The stream is its standard input and output.
    Launcher {
        /// The program, then its arguments.
        command: Vec<String>,
    },
}

/// How a process that an agent had started ended, or why it was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// What happened to it.
    pub cause: LossCause,
    /// The last lines that it wrote to its standard error.
    pub stderr_tail: String,
}

/// A compilation as an agent is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteCompile {
    /// The SHA-256 of the module.
    pub module: ModuleId,
    /// The module's size in bytes.
    pub bytes: u64,
    /// What it is called, for messages.
    pub name: String,
    /// The engine it is for.
    pub engine: String,
    /// What is to be made of it.
    pub codegen: Codegen,
    /// What it may be and what the compilation may cost.
    pub limits: ModuleLimits,
    /// The features it may need.
    pub profile: Profile,
    /// What the compiler is to have the operating system keep from it.
    pub policy: Policy,
    /// The executable that becomes the compiler, if it is not the agent's own.
    pub program: Option<Vec<u8>>,
    /// How long the caller waits, if not for ever.
    pub patience: Option<Duration>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteCompiled {
    /// The agent has it.
    Done {
        /// What it is called on this link.
        artefact: u64,
        /// Its size in bytes.
        bytes: u64,
        /// What the module turned out to be.
        shape: Shape,
        /// What it says of itself, encoded.
        description: Vec<u8>,
    },
    /// The module is not acceptable.
    Rejected(Rejection),
    /// The compiler ended without an answer.
    Lost(WorkerLoss),
    /// The agent could not do it.
    Failed(String),
}

/// A message to an agent. Numbers are of streams, but for a compilation's, which is of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// See [`Start`].
    Start(u64, Start),
    /// End the process of a stream.
    Kill(u64),
    /// Asks for its memory.
    Resident(u64),
    /// See [`RemoteCompile`].
    Compile(u64, Box<RemoteCompile>),
    /// A module of this size comes on a stream.
    Upload(u64, ModuleId, u64),
    /// An artefact that is not needed any more.
    Forget(u64),
}

/// A message of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromAgent {
    /// The process of a stream has this id.
    Started(u64, u32),
    /// See [`Exited`].
    Exited(u64, Exited),
    /// Its resident memory in bytes, if the system tells.
    Resident(u64, Option<u64>),
    /// The module of this compilation is to be sent.
    Need(u64),
    /// See [`RemoteCompiled`].
    Compiled(u64, Box<RemoteCompiled>),
}

/// Why an agent ends a link that it could still write to. Its host may have seen nothing of it, and would be left with the end
/// alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastWord {
    /// It has heard nothing for as long as a link may be silent.
    Silent,
    /// What arrived is not what was sent, or not what is ever sent: what it was.
    Corrupt(String),
}

/// Kind, number and body of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEncoded {
    /// One of [`kind`].
    pub kind: u8,
    /// What it is about.
    pub stream: u64,
    /// The body.
    pub body: Vec<u8>,
}

/// A frame that is no message of its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of kind {0} does not exist here, or is malformed")]
pub struct NotAMessage(pub u8);

/// What is wrong with the first frame of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// It is no hello.
    #[error("first message is no hello")]
    NotAHello,
    /// It speaks another version.
    #[error("peer speaks version {found} of the link's protocol, this side version {LINK_VERSION}")]
    Version {
        /// The version it speaks.
        found: u16,
    },
}

impl AgentHello {
    /// The hello of this process.
    pub fn of_this_process(package_version: &str) -> AgentHello {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        AgentHello {
            package_version: package_version.to_owned(),
            protocol: PROTOCOL_VERSION,
            platform: platform(),
            pid: std::process::id(),
            processors: u32::try_from(processors).unwrap_or(u32::MAX),
        }
    }
}

/// The body of a hello.
pub fn hello_body<T: Serialize>(hello: &T) -> Vec<u8> {
    let mut bytes = LINK_VERSION.to_le_bytes().to_vec();
    bytes.extend(body(hello));
    bytes
}

/// The hello of a frame.
///
/// # Errors
/// [`HelloError`].
pub fn read_hello<T: DeserializeOwned>(frame: LinkFrame<'_>) -> Result<T, HelloError> {
    let Some((version, rest)) = frame.payload.split_first_chunk::<2>() else { return Err(HelloError::NotAHello) };
    if frame.kind != kind::HELLO {
        return Err(HelloError::NotAHello);
    }
    let found = u16::from_le_bytes(*version);
    if found != LINK_VERSION {
        return Err(HelloError::Version { found });
    }
    postcard::from_bytes(rest).map_err(|_| HelloError::NotAHello)
}

impl LastWord {
    /// The message of a frame.
    ///
    /// # Errors
    /// [`NotAMessage`].
    pub fn decode(frame: LinkFrame<'_>) -> Result<LastWord, NotAMessage> {
        match frame.kind {
            kind::LAST => value(kind::LAST, frame.payload),
            other => Err(NotAMessage(other)),
        }
    }

    /// The message as it is sent.
    pub fn encode(&self) -> LinkEncoded {
        encoded(kind::LAST, 0, body(self))
    }
}

impl ToAgent {
    /// The message of a frame.
    ///
    /// # Errors
    /// [`NotAMessage`].
    pub fn decode(frame: LinkFrame<'_>) -> Result<ToAgent, NotAMessage> {
        let (stream, body) = (frame.stream, frame.payload);
        Ok(match frame.kind {
            kind::START => ToAgent::Start(stream, value(kind::START, body)?),
            kind::KILL => ToAgent::Kill(stream),
            kind::RESIDENT => ToAgent::Resident(stream),
            kind::COMPILE => ToAgent::Compile(stream, value(kind::COMPILE, body)?),
            kind::UPLOAD => {
                let (module, bytes) = value(kind::UPLOAD, body)?;
                ToAgent::Upload(stream, module, bytes)
            }
            kind::FORGET => ToAgent::Forget(stream),
            other => return Err(NotAMessage(other)),
        })
    }

    /// The message as it is sent.
    pub fn encode(&self) -> LinkEncoded {
        match self {
            ToAgent::Start(stream, start) => encoded(kind::START, *stream, body(start)),
            ToAgent::Kill(stream) => encoded(kind::KILL, *stream, Vec::new()),
            ToAgent::Resident(stream) => encoded(kind::RESIDENT, *stream, Vec::new()),
            ToAgent::Compile(request, compile) => encoded(kind::COMPILE, *request, body(compile)),
            ToAgent::Upload(stream, module, bytes) => encoded(kind::UPLOAD, *stream, body(&(module, bytes))),
            ToAgent::Forget(artefact) => encoded(kind::FORGET, *artefact, Vec::new()),
        }
    }
}

impl FromAgent {
    /// The message of a frame.
    ///
    /// # Errors
    /// [`NotAMessage`].
    pub fn decode(frame: LinkFrame<'_>) -> Result<FromAgent, NotAMessage> {
        let (stream, body) = (frame.stream, frame.payload);
        Ok(match frame.kind {
            kind::STARTED => FromAgent::Started(stream, value(kind::STARTED, body)?),
            kind::EXITED => FromAgent::Exited(stream, value(kind::EXITED, body)?),
            kind::RESIDENT => FromAgent::Resident(stream, value(kind::RESIDENT, body)?),
            kind::NEED => FromAgent::Need(stream),
            kind::COMPILED => FromAgent::Compiled(stream, value(kind::COMPILED, body)?),
            other => return Err(NotAMessage(other)),
        })
    }

    /// The message as it is sent.
    pub fn encode(&self) -> LinkEncoded {
        match self {
            FromAgent::Started(stream, pid) => encoded(kind::STARTED, *stream, body(pid)),
            FromAgent::Exited(stream, exited) => encoded(kind::EXITED, *stream, body(exited)),
            FromAgent::Resident(stream, bytes) => encoded(kind::RESIDENT, *stream, body(bytes)),
            FromAgent::Need(request) => encoded(kind::NEED, *request, Vec::new()),
            FromAgent::Compiled(request, compiled) => encoded(kind::COMPILED, *request, body(compiled)),
        }
    }
}

fn encoded(kind: u8, stream: u64, body: Vec<u8>) -> LinkEncoded {
    LinkEncoded { kind, stream, body }
}

fn body<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("these types have nothing that postcard cannot write")
}

fn value<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, NotAMessage> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(NotAMessage(kind)),
    }
}
