//! What can go wrong for the caller: one small error type per operation.
//!
//! How a *task* ended is not an error of this kind but an [`Outcome`], which the errors of a channel carry once the
//! channel is at its end.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::isolation::{Layer, State};
use sandgate_wire::outcome::{Outcome, Rejection, WorkerLoss};
use sandgate_wire::text::printable;
use sandgate_wire::{LimitName, Limits};

use crate::vetting;

use crate::remote::ReachError;
use crate::schema::Mismatch;

/// A value could not be turned into bytes or back.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CodecError {
    message: String,
}

impl CodecError {
    /// Decoders quote what they could not use, and that is a guest's.
    pub(crate) fn new(message: impl Into<String>) -> CodecError {
        let mut message = message.into();
        vetting::cap(&mut message, vetting::MAX_TEXT_BYTES);
        CodecError { message: printable(&message) }
    }
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The channel has ended; it will not take messages any more.
    #[error("cannot send to a channel that has ended: {0}")]
    Ended(Outcome),
    /// This side closed the channel, or its sending half.
    #[error("cannot send to a channel that was closed here")]
    Closed,
    /// No credit came within the time; nothing was sent.
    #[error(
        "peer took nothing for {0:?}, and the channel's window is full (settings `window=` and `window-messages=`)"
    )]
    Timeout(Duration),
    /// The message is larger than the execution's limit.
    #[error("message of {length} bytes is larger than the limit of {limit} bytes (setting `message=`)")]
    TooLarge {
        /// The message's size in bytes.
        length: usize,
        /// The limit in bytes.
        limit: u64,
    },
    /// The value cannot be serialised.
    #[error("value cannot be serialised")]
    Encode(#[source] CodecError),
    /// The value holds a channel of another gateway, where its id would mean something else.
    #[error("a channel of gateway `{theirs}` cannot be sent over gateway `{ours}`")]
    ForeignChannel {
        /// The gateway the message was to go to.
        ours: String,
        /// The gateway of the channel inside the value.
        theirs: String,
    },
    /// More channels than one message can carry.
    #[error("value holds {count} channels, a message carries at most {maximum}")]
    TooManyChannels {
        /// How many it holds.
        count: usize,
        /// How many it may hold.
        maximum: usize,
    },
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The channel is at its end, and all messages were taken. Every later call says the same.
    #[error("{0}")]
    Ended(Outcome),
    /// This side closed the channel, and all messages that had arrived were taken.
    #[error("channel was closed here")]
    Closed,
    /// Nothing came within the time.
    #[error("no message after {0:?}")]
    Timeout(Duration),
    /// The message was taken, but is not of the type asked for.
    #[error("message cannot be decoded as `{type_name}`")]
    Decode {
        /// The type asked for.
        type_name: &'static str,
        /// What the decoder says.
        source: CodecError,
    },
    /// A callback or a receive queue takes this channel's messages.
    #[error("messages of this channel go to its callback or receive queue")]
    HasConsumer,
}

impl ReceiveError {
    /// Whether this is the regular end of a channel: its task returned, or it was closed without an error.
    pub fn is_end(&self) -> bool {
        match self {
            ReceiveError::Ended(outcome) => outcome.is_success(),
            ReceiveError::Closed => true,
            _ => false,
        }
    }
}

/// Why waiting for a channel's end brought no success.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The channel ended, but not well.
    #[error("{0}")]
    Ended(Outcome),
    /// It has not ended within the time.
    #[error("channel has not ended after {0:?}")]
    Timeout(Duration),
    /// The caller is this channel's own callback, which has to return first.
    #[error("a callback cannot wait for the end of its own channel")]
    InCallback,
}

/// A channel already has a callback, or feeds a receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("channel {channel} already has a callback or feeds a receive queue")]
pub struct ConsumerError {
    /// The channel's id.
    pub channel: u64,
}

/// Why a receive queue gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Every channel has delivered its end: nothing can come any more.
    #[error("all channels of the queue have ended")]
    Exhausted,
    /// Nothing came within the time.
    #[error("no message on any channel after {0:?}")]
    Timeout(Duration),
    /// A message was taken, but is not of the queue's type.
    #[error("message on channel {channel} of gateway `{gateway}` cannot be decoded as `{type_name}`")]
    Decode {
        /// The channel's gateway.
        gateway: String,
        /// The channel's id.
        channel: u64,
        /// The queue's type.
        type_name: &'static str,
        /// What the decoder says.
        source: CodecError,
    },
}

/// Why a module could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The file cannot be read.
    #[error("cannot read module `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("module `{name}` is empty")]
    Empty {
        /// The file, or `<bytes>`.
        name: String,
    },
    /// It is larger than its reader allows.
    #[error("module `{name}` has more than {maximum} bytes")]
    TooLarge {
        /// The file.
        name: String,
        /// The most bytes that were allowed.
        maximum: u64,
    },
}

/// Why an execution was not accepted. None of its code has run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The gateway's worker is gone or about to go.
    #[error("gateway `{gateway}` takes no more tasks: {reason}")]
    GatewayClosed {
        /// The gateway.
        gateway: String,
        /// Why.
        reason: String,
    },
    /// The gateway's worker is to be replaced, and no new one could be started.
    #[error("gateway `{gateway}` has no worker; the next call after {retry_after:?} tries again")]
    NoWorker {
        /// The gateway.
        gateway: String,
        /// When it is tried again.
        retry_after: Duration,
        /// Why the last attempt failed.
        source: Arc<GatewayError>,
    },
    /// The module is not acceptable.
    #[error("module `{module}` was rejected: {reason}")]
    Rejected {
        /// The module's name.
        module: String,
        /// Why.
        reason: Rejection,
    },
    /// The compiler process did not do its work.
    #[error("module `{module}` could not be compiled")]
    Compile {
        /// The module's name.
        module: String,
        /// What went wrong.
        source: CompileError,
    },
    /// The call asks for more than its gateway's worker has room for.
    #[error("call asks for {asked} of {limit}, gateway `{gateway}` has {allowed} (setting `{}`)", limit.setting())]
    LimitTooHigh {
        /// The gateway.
        gateway: String,
        /// The limit.
        limit: LimitName,
        /// What the call asks for, in the limit's own unit.
        asked: u64,
        /// The most it may ask for.
        allowed: u64,
    },
    /// The arguments cannot be sent.
    #[error("arguments cannot be sent")]
    Arguments(#[source] SendError),
    /// The task takes or gives other types than the call was made for.
    #[error("module `{module}` does not fit the call")]
    Mismatch {
        /// The module's name.
        module: String,
        /// What does not fit.
        source: Box<Mismatch>,
    },
    /// Name, program arguments and limits together are larger than one frame.
    #[error("call of {length} bytes is larger than the maximum of {maximum}; pass large arguments as values")]
    CallTooLarge {
        /// Its size.
        length: usize,
        /// The most it may be.
        maximum: usize,
    },
}

/// Why there is no snapshot of a module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The input cannot be serialised.
    #[error("input of the init function cannot be serialised")]
    Input(#[source] CodecError),
    /// The module is not acceptable, has no such init function, or is one of which no snapshot can be taken; or the snapshot
    /// is larger than a module may be.
    #[error("module `{module}` cannot be pre-initialised: {reason}")]
    Rejected {
        /// The module's name.
        module: String,
        /// Why.
        reason: Rejection,
    },
    /// The init function did not return: it failed, panicked, trapped, exited or took more than it may.
    #[error("init function `{}` of module `{module}` did not return: {outcome}", printable(.init))]
    Ended {
        /// The module's name.
        module: String,
        /// The function's name.
        init: String,
        /// How it ended.
        outcome: Box<Outcome>,
    },
    /// It was not done within the time that the caller waits.
    #[error("module `{module}` was not pre-initialised within {after:?}")]
    Timeout {
        /// The module's name.
        module: String,
        /// How long the caller has waited.
        after: Duration,
    },
    /// The initializer process did not do its work.
    #[error("module `{module}` could not be pre-initialised")]
    Process {
        /// The module's name.
        module: String,
        /// What went wrong.
        source: CompileError,
    },
}

/// Why a compiler or initializer process did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// It could not be started.
    #[error("process did not start")]
    Launch(#[source] LaunchError),
    /// It was not done in time and was killed.
    #[error("compilation took longer than {0:?}")]
    Timeout(Duration),
    /// It ended without an answer.
    #[error("{0}")]
    Lost(WorkerLoss),
    /// Memory for what is compiled, or for what comes of it, could not be had.
    #[error("cannot set up shared memory")]
    Memory(#[source] io::Error),
}

/// Why a worker process did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No executable can be the worker.
    #[error(
        "no worker executable found: install the `sandgate` command (or name it in SANDGATE_WORKER), or depend on \
         `sandgate-worker` and call `sandgate_worker::run_if_worker()` first thing in `main`"
    )]
    NoWorker,
    /// The system refused to start it.
    #[error("cannot start `{program}`{}", directory.as_ref().map(|dir| format!(" in directory `{}`", dir.display())).unwrap_or_default())]
    Spawn {
        /// The executable.
        program: PathBuf,
        /// The directory it was to start in, if one was asked for.
        directory: Option<PathBuf>,
        /// The system's error.
        source: io::Error,
    },
    /// Descriptors or threads could not be had.
    #[error("cannot set up the connection of a worker")]
    Resources(#[source] io::Error),
    /// Shared memory was asked for and could not be had.
    #[error("cannot share memory with a worker; `transport=socket` does without")]
    Ring(#[source] io::Error),
}

/// Why a gateway was not made. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The spec is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The group has a gateway of this id.
    #[error("there is already a gateway `{id}`")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// The group is being terminated.
    #[error("group is terminated")]
    Terminated,
    /// The worker process did not start.
    #[error("worker of gateway `{id}` did not start")]
    Launch {
        /// The gateway.
        id: String,
        /// Why.
        source: LaunchError,
    },
    /// The machine on which it is to be was not reached.
    #[error("machine `{host}` of gateway `{id}` was not reached")]
    Reach {
        /// The gateway.
        id: String,
        /// The last step of the way to it, without a launcher's arguments.
        host: String,
        /// Why.
        source: ReachError,
    },
    /// A spec names a gateway on the way that its group does not have.
    #[error("gateway `{id}` is to start from gateway `{via}`, which its group does not have")]
    NoSuchWay {
        /// The gateway.
        id: String,
        /// What its `via=` says.
        via: String,
    },
    /// The worker ended, or said something else, before its hello.
    #[error("no handshake: {loss}")]
    Handshake {
        /// What is known about it.
        loss: WorkerLoss,
    },
    /// The operating system does not keep from the worker what the spec requires.
    #[error("worker of gateway `{id}` is not locked in as its spec requires: {missing}")]
    Isolation {
        /// The gateway.
        id: String,
        /// What is missing.
        missing: MissingLayers,
    },
    /// The worker is of another version.
    #[error("worker of gateway `{id}` has version {theirs}, this library {ours}: install the same version of both")]
    Version {
        /// The gateway.
        id: String,
        /// The worker's version.
        theirs: String,
        /// This library's version.
        ours: &'static str,
    },
}

/// Layers of the sandbox that a spec requires and that are not wholly in force, each with what the worker says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingLayers(pub Vec<(Layer, Option<State>)>);

/// Bytes of what a worker says of one layer that are shown.
const MAX_STATE_BYTES: usize = 300;

impl fmt::Display for MissingLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (layer, state)) in self.0.iter().enumerate() {
            let said = state.as_ref().map_or("nothing is known of it".to_owned(), ToString::to_string);
            let said: String = printable(&said).chars().take(MAX_STATE_BYTES).collect();
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}`{layer}` is {said} (`sandbox:{layer}=prefer` goes on without)")?;
        }
        Ok(())
    }
}

/// What is wrong with a gateway spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Two keys that say what kind of gateway it is.
    #[error("spec `{spec}` names two kinds of gateway; `popen`, `exec=` and `ssh=` exclude each other")]
    TwoKinds {
        /// The whole spec.
        spec: String,
    },
    /// No such key.
    #[error("unknown key `{key}` in spec `{spec}`; known are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole spec.
        spec: String,
        /// The keys there are.
        known: &'static str,
    },
    /// A key stands twice.
    #[error("key `{key}` stands twice in spec `{spec}`")]
    DuplicateKey {
        /// The key.
        key: String,
        /// The whole spec.
        spec: String,
    },
    /// A key needs a value, or the other way round.
    #[error("key `{key}` in spec `{spec}` {problem}")]
    Value {
        /// The key.
        key: String,
        /// The whole spec.
        spec: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// It does not say what kind of gateway it is.
    #[error("spec `{spec}` names no kind of gateway; start it with `popen`, `exec=` or `ssh=`")]
    NoKind {
        /// The whole spec.
        spec: String,
    },
}

/// Why a status is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// The worker is gone.
    #[error("gateway `{gateway}` is not alive")]
    NotAlive {
        /// The gateway.
        gateway: String,
    },
    /// The worker did not answer in time.
    #[error("worker of gateway `{gateway}` did not answer within {after:?}")]
    Timeout {
        /// The gateway.
        gateway: String,
        /// How long it was given.
        after: Duration,
    },
}

impl SendError {
    pub(crate) fn too_large(length: usize, limits: &Limits) -> SendError {
        SendError::TooLarge { length, limit: limits.message_bytes }
    }
}
