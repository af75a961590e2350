//! [`Pool`]: one task for each of many inputs, over gateways that are replaced when they die. Every input has exactly one
//! result.
//!
//! | file | what it is for |
//! |---|---|
//! | `builder` | what users set, and the start |
//! | `map`, `handle`, `feed` | what users wait on |
//! | `work`, `result` | values in and out; how a task can end |
//! | `core`, `lane` | every decision, without a thread or clock |
//! | `driver`, `seat` | the work between notes and gateways; which thread does it |
//! | `mailbox` | queues of notes and of results |
//! | `ground`, `maker` | the gateways: starting them, keeping spares, giving them tasks |
//! | `machines`, `looks` | on which machines they are, while that changes; which of them are there |
//! | `event`, `stats` | what can be seen of it |

mod builder;
mod core;
mod driver;
mod event;
mod feed;
mod ground;
mod handle;
mod lane;
mod looks;
mod machines;
mod mailbox;
mod maker;
mod map;
mod numbered;
mod packed;
mod result;
mod runs;
mod seat;
mod stats;
mod work;

pub use builder::{
    DEFAULT_BUFFER_BYTES, DEFAULT_FAR_IN_FLIGHT, DEFAULT_IN_FLIGHT, DEFAULT_MAX_LOSSES, DEFAULT_SPARES, DEFAULT_WINDOW,
    Pool, PoolBuilder,
};
pub(crate) use driver::Note;
pub use event::{EventSink, EventStream, EventsEnded, PoolEvent, TimedEvent};
pub use feed::{FeedEnded, TaskFeed, TaskResults};
pub use handle::{CancelToken, TaskHandle};
pub use looks::Looks;
pub use machines::{BadMachine, Machines};
pub use map::Map;
pub(crate) use packed::Packed;
pub use result::{OutcomeKind, PoolError, ProgramOutput, RetryOn, TaskError, TaskResult, Timing};
pub(crate) use seat::{Told, see_to_pools, sees_to_pools};
pub use stats::{GatewayStats, Histogram, PoolStats};

pub(crate) use self::core::{Action, Core, Rules, Verdict};
#[cfg(test)]
pub(crate) use self::{
    builder::Begin,
    ground::{Made, Maker},
};
