//! A pool of worker processes that run code nobody has to trust, and channels to talk to it while it runs.
//!
//! A [`Gateway`] is a subprocess that hosts a WebAssembly engine. *Remote code* is a [`Module`] built for
//! `wasm32-wasip1` with `sandgate-guest`. A [`Group`] owns gateways and can always end them; a [`Channel`] carries
//! messages to and from one task; a [`MultiChannel`] is many of them, with one queue for all that arrives.
//!
//! ```text
//!  T ── Channel ── bytes ── connection ── ToWorker ── frame ──┃ transport ┃── main_loop ── hostcalls ──┃ abi ┃── guest-sdk ── T
//!  T ◄─ Channel ◄─ bytes ◄─ connection ◄─── ToHost ◄── frame ◄┃ transport ┃◄─ main_loop ◄─ hostcalls ◄─┃ abi ┃◄─ guest-sdk ◄─ T
//! ```
//!
//! ```no_run
//! use std::time::Duration;
//! use sandgate::{Event, Group, Module};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let group = Group::new(["popen"; 2])?;
//! let module = Module::from_file("add_one.wasm")?;
//! let channels = group.remote_exec(&module)?;
//! channels.send_each(&5_u32)?;
//! let queue = channels.make_receive_queue::<u32>()?;
//! for event in queue.iter() {
//!     match event? {
//!         (channel, Event::Item(value)) => println!("{} answers {value}", channel.gateway_id()),
//!         (channel, Event::End(outcome)) => println!("{} is done: {outcome}", channel.gateway_id()),
//!     }
//! }
//! let report = group.terminate(Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! * Every accepted task ends exactly once, in an [`Outcome`] that every later call repeats.
//! * Messages of a channel arrive in order and before its end.
//! * Nothing blocks for ever: a task can be stopped wherever it is ([`Channel::kill`], [`Gateway::terminate`],
//!   [`Group::terminate`]), and every call that waits has a twin with a timeout, or a setting for it.
//! * Nothing is unbounded: see [`Limits`], and the windows of channels, which make a sender wait.
//! * This library never parses, compiles or maps guest code; worker and compiler processes do, and it believes
//!   nothing they say.
//!
//! The worker is the installed `sandgate` command, or this very program if it depends on `sandgate-worker` and calls
//! `sandgate_worker::run_if_worker()` first thing in `main`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod agent;
mod artefact;
mod budget;
pub mod cache;
mod call;
mod callback;
mod channel;
mod compile;
mod connection;
mod deadline;
#[cfg(feature = "nats")]
pub mod durable;
mod endpoint;
mod errand;
mod error;
mod exits;
mod file;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod group;
mod init;
#[doc(hidden)]
pub mod measuring;
mod module;
mod multi;
mod output;
mod pool;
mod process;
mod queue;
mod reader;
mod reading;
mod recycle;
mod remote;
pub mod schema;
mod service;
mod spec;
mod table;
mod termination;
mod transport;
mod usage;
mod value;
mod vetting;
mod watch;
mod worker_binary;
mod workers;

#[cfg(test)]
mod fake_worker;
#[cfg(test)]
mod tests;

pub use budget::MAX_VALUE_DEPTH;
pub use cache::CACHE_VARIABLE;
pub use call::Call;
pub use channel::{Channel, Event, Iter};
pub use error::{
    CodecError, CompileError, ConsumerError, ExecError, GatewayError, InitError, LaunchError, MissingLayers,
    ModuleError, QueueError, ReceiveError, SendError, SpecError, StatusError, WaitError,
};
pub use file::{ChannelReader, ChannelWriter};
pub use gateway::{Gateway, GatewayStatus};
pub use group::{DEFAULT_DROP_TIMEOUT, Group, GroupBuilder};
pub use init::Init;
pub use module::Module;
pub use multi::{MultiChannel, ReceiveEachError, SendEachError, WaitEachError};
pub use output::{CapturedOutput, MAX_LINE_BYTES, OutputLine, OutputPiece, OutputSink};
pub use pool::{
    BadMachine, CancelToken, DEFAULT_BUFFER_BYTES, DEFAULT_FAR_IN_FLIGHT, DEFAULT_IN_FLIGHT, DEFAULT_MAX_LOSSES,
    DEFAULT_SPARES, DEFAULT_WINDOW, EventSink, EventStream, EventsEnded, FeedEnded, GatewayStats, Histogram, Looks,
    Machines, Map, OutcomeKind, Pool, PoolBuilder, PoolError, PoolEvent, PoolStats, ProgramOutput, RetryOn, TaskError,
    TaskFeed, TaskHandle, TaskResult, TaskResults, TimedEvent, Timing,
};
pub use queue::ReceiveQueue;
pub use recycle::{Recycle, Recycled};
pub use remote::ReachError;
pub use sandgate_guest_macros::HostSchema as Schema;
pub use sandgate_schema::__private::Schema;
pub use sandgate_wire::ModuleId;
pub use sandgate_wire::grants::{Clock, Directory, ExecutionGrants, Grants, Random};
pub use sandgate_wire::isolation;
pub use sandgate_wire::limits::{LimitName, Limits};
pub use sandgate_wire::message::Stream;
pub use sandgate_wire::module_limits::{ModuleLimitName, ModuleLimits, Shape};
pub use sandgate_wire::outcome::{KilledBy, LinkProblem, LossCause, Outcome, Rejection, TrapKind, WorkerLoss};
pub use sandgate_wire::profile::{Feature, Profile};
pub use sandgate_wire::text;
pub use spec::{DEFAULT_EXECUTIONS, DEFAULT_GRACE, Spec};
pub use termination::{Ending, GatewayReport, TerminationReport};
pub use transport::Transport;
pub use workers::MAX_DRAINING_WORKERS;
