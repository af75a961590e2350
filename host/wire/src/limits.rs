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
/// Most channels that the host can have open at once on one connection, those of executions included.
pub const MAX_CONNECTION_CHANNELS: usize = 65_536;
/// Most channels that all guests of one connection can have made and the host not settled yet. It has a budget of its own,
/// so that neither side can use up the other's.
pub const MAX_GUEST_CHANNELS: usize = 65_536;

/// The limits of one execution, sent with it to the worker.
///
/// A default is meant to let ordinary programs through and to stop a runaway one before it hurts its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of linear memory; `memory=`. Default: 1 GiB.
    pub memory_bytes: u64,
    /// Elements of each table; `table=`. Default: 100,000.
    pub table_elements: u64,
    /// Bytes of one message; `message=`. Default: 64 MiB.
    pub message_bytes: u64,
    /// Channels open at once, the execution's own one included; `channels=`. Default: 1024.
    pub channels: u32,
    /// Bytes of standard output and error together; what comes after is dropped and marked; `output=`. Default: 16 MiB.
    pub output_bytes: u64,
    /// Time from the moment the worker starts the execution; `timeout=`. Default: none, since a task may rightly live
    /// for days.
    pub wall_time: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 1 << 30,
            table_elements: 100_000,
            message_bytes: 64 << 20,
            channels: 1024,
            output_bytes: 16 << 20,
            wall_time: None,
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
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitName::Memory => "linear memory",
            LimitName::Table => "table elements",
            LimitName::Message => "message size",
            LimitName::Channels => "open channels",
            LimitName::Output => "output",
            LimitName::WallTime => "wall time",
        })
    }
}
