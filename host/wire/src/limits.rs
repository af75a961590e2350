//! What one task may use. Limits are on by default; each names itself, its value and its setting when it is hit.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of unread messages that one channel lets its peer have under way, per direction.
pub const WINDOW_BYTES: u64 = 1024 * 1024;
/// Unread messages that one channel lets its peer have under way, per direction.
pub const WINDOW_MESSAGES: u32 = 1024;
/// Bytes of guest output that an execution may have under way to the host.
pub const OUTPUT_WINDOW_BYTES: u64 = 64 * 1024;
/// Processor time of an execution unless something else is said.
pub const DEFAULT_CPU_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Wall time of one task of a pool unless something else is said.
pub const DEFAULT_TASK_WALL_TIME: Duration = Duration::from_secs(60);
/// Most elements of a table that there is room for in a worker.
pub const MAX_TABLE_ELEMENTS: u64 = 1_000_000;
/// Most channels that the host can have open at once on one connection, those of executions included.
pub const MAX_CONNECTION_CHANNELS: usize = 65_536;
/// Most channels that all guests of one connection can have made and the host not settled yet. It has a budget of its own,
/// so that neither side can use up the other's.
pub const MAX_GUEST_CHANNELS: usize = 65_536;

/// The limits of one execution, sent with it to the worker.
///
/// A default is meant to let ordinary programs through and to stop a runaway one before it hurts its neighbours.
///
/// Instances need no limit here: an execution has one, with one linear memory and two tables at most, and nothing that a guest
/// can do makes another. How many there are at once in a worker is its gateway's to say: `executions=`. Default: 64, and 1 for
/// the workers of a pool; more executions wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the whole task; `memory=`. Default: 1 GiB.
    ///
    /// Counted are its linear memory and tables (8 bytes for each element), and the messages that worker and host hold for
    /// it (with [128 bytes](crate::account::MESSAGE_OVERHEAD_BYTES) more for each): those it was sent and has not received,
    /// its arguments until it took them, those it sent and the host's user has not received, and output under way. The
    /// [first 128 KiB](crate::account::UNCOUNTED_BYTES) of messages and output are not counted, so that a task which has
    /// all of its memory can still answer.
    ///
    /// Memory or a table that would grow beyond it does not: the guest is told so and goes on. A send that would go beyond
    /// it waits for the host's user to receive something; if it could not fit even then, the task ends, as it does when
    /// what it is sent goes beyond.
    ///
    /// A gateway sizes its worker by this, so a call cannot ask for more than its gateway has.
    pub memory_bytes: u64,
    /// Elements of each table, at most [1,000,000](MAX_TABLE_ELEMENTS); `table=`. Default: 100,000. A table that would grow
    /// beyond it does not: the guest is told so and goes on.
    pub table_elements: u64,
    /// Bytes of the guest's stack, rounded up to a power of two from 64 KiB to 8 MiB; `stack=`. Default: 1 MiB. A guest
    /// that needs more traps with a stack overflow, and its outcome has this value with it.
    ///
    /// A gateway sizes its worker by this, so a call cannot ask for more than its gateway has.
    pub stack_bytes: u64,
    /// Bytes of one message; `message=`. Default: 64 MiB. A guest or host that sends a larger one is told so.
    /// If the guest then fails, its error has the limit with it.
    ///
    /// A channel that the host makes has the gateway's, whatever the call says that it is given to.
    pub message_bytes: u64,
    /// Channels open at once, the execution's own one included; `channels=`. Default: 1024. A guest that makes more, or is
    /// sent more, is told so. If it then fails, its error has the limit with it.
    pub channels: u32,
    /// Bytes of unread messages that each of its channels may have under way, per direction; `window=`. Default: 1 MiB.
    /// Who sends more waits. A message larger than the window goes alone.
    ///
    /// A channel that the host makes has the gateway's window, whatever the call says that it is given to.
    pub window_bytes: u64,
    /// Unread messages that each of its channels may have under way, per direction; `window-messages=`. Default: 1024.
    /// 0 counts as 1.
    pub window_messages: u32,
    /// Bytes of standard output and error together; what comes after is dropped and marked; `output=`. Default: 16 MiB.
    pub output_bytes: u64,
    /// Time from the moment the worker starts the execution, loading of its module included; `timeout=`. Default: none,
    /// since a task may rightly live for days; 60 s for the tasks of a pool.
    ///
    /// A worker that does not report the end of the task within this time and the gateway's `grace=` is killed.
    pub wall_time: Option<Duration>,
    /// Processor time of the thread that runs the execution, host functions and loading of its module included; `cpu=`.
    /// Default: 24 hours. A task that waits uses none.
    pub cpu_time: Option<Duration>,
    /// Instructions, in wasmtime's units of fuel, the same on every machine; `fuel=`. Default: not counted, since counting
    /// costs time.
    pub fuel: Option<u64>,
}

impl Limits {
    /// The defaults for tasks of a pool, which end soon: as [`Limits::default`], with a wall time of 60 s.
    pub fn for_tasks() -> Limits {
        Limits { wall_time: Some(DEFAULT_TASK_WALL_TIME), ..Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 1 << 30,
            table_elements: 100_000,
            stack_bytes: 1 << 20,
            message_bytes: 64 << 20,
            channels: 1024,
            window_bytes: WINDOW_BYTES,
            window_messages: WINDOW_MESSAGES,
            output_bytes: 16 << 20,
            wall_time: None,
            cpu_time: Some(DEFAULT_CPU_TIME),
            fuel: None,
        }
    }
}

impl Limits {
    /// The value of one of them, in its own unit; 0 for a time or fuel without a limit.
    pub fn value(&self, limit: LimitName) -> u64 {
        let milliseconds =
            |time: Option<Duration>| time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        match limit {
            LimitName::Memory => self.memory_bytes,
            LimitName::Table => self.table_elements,
            LimitName::Message => self.message_bytes,
            LimitName::Channels => self.channels.into(),
            LimitName::Output => self.output_bytes,
            LimitName::WallTime => milliseconds(self.wall_time),
            LimitName::CpuTime => milliseconds(self.cpu_time),
            LimitName::Fuel => self.fuel.unwrap_or(0),
            LimitName::Stack => self.stack_bytes,
        }
    }
}

/// Names a limit in an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LimitName {
    /// [`Limits::memory_bytes`]
    Memory,
    /// [`Limits::table_elements`]
    Table,
    /// [`Limits::message_bytes`]
    Message,
    /// [`Limits::channels`]
    Channels,
    /// [`Limits::output_bytes`]
    Output,
    /// [`Limits::wall_time`]
    WallTime,
    /// [`Limits::cpu_time`], in milliseconds
    CpuTime,
    /// [`Limits::fuel`]
    Fuel,
    /// [`Limits::stack_bytes`]
    Stack,
}

impl LimitName {
    /// The key of a gateway's spec that changes this limit.
    pub fn setting(self) -> &'static str {
        match self {
            LimitName::Memory => "memory=",
            LimitName::Table => "table=",
            LimitName::Message => "message=",
            LimitName::Channels => "channels=",
            LimitName::Output => "output=",
            LimitName::WallTime => "timeout=",
            LimitName::CpuTime => "cpu=",
            LimitName::Fuel => "fuel=",
            LimitName::Stack => "stack=",
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitName::Memory => "memory",
            LimitName::Table => "table elements",
            LimitName::Message => "message size",
            LimitName::Channels => "open channels",
            LimitName::Output => "output",
            LimitName::WallTime => "wall time",
            LimitName::CpuTime => "milliseconds of processor time",
            LimitName::Fuel => "fuel",
            LimitName::Stack => "stack",
        })
    }
}
