//! What a guest is given beyond its own memory and channels: clocks, randomness, environment, directories.
//!
//! Nothing of the host's is given unless it is named here.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How coarse guests' clocks are unless something else is granted: the granularity browsers settled on, too coarse to time
/// a cache miss with.
pub const DEFAULT_CLOCK_RESOLUTION: Duration = Duration::from_micros(100);

/// What the guests of one gateway are given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grants {
    /// The environment that guests see; `env:NAME=VALUE`. Default: empty.
    pub environment: Vec<(String, String)>,
    /// Directories; `dir:GUEST=HOST` and `dir-rw:GUEST=HOST`. Default: none.
    pub directories: Vec<Directory>,
    /// What executions are given unless their call says otherwise.
    pub execution: ExecutionGrants,
}

/// What one execution is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecutionGrants {
    /// What its clocks tell; `clock=`.
    pub clock: Clock,
    /// Where its random numbers come from; `random=`.
    pub random: Random,
    /// Whether it is compiled and run so that the same input gives the same bytes: canonical NaNs and counted
    /// instructions. Set by `deterministic=SEED`, which also fixes the clock and seeds randomness.
    pub deterministic: bool,
}

impl ExecutionGrants {
    /// A fixed clock, randomness from this seed, canonical NaNs and counted instructions.
    pub fn deterministic(seed: u64) -> ExecutionGrants {
        ExecutionGrants { clock: Clock::Fixed { step: 1 }, random: Random::Seeded(seed), deterministic: true }
    }
}

/// A directory of the host's that guests see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Where it is on this machine.
    pub host: PathBuf,
    /// What guests call it, as in `/data`.
    pub guest: String,
    /// Whether guests may change what is in it.
    pub writable: bool,
}

/// What a guest's two clocks, of the day and of time passed, tell. Those of processor time do not exist for guests
/// (`INVAL`). Timeouts of channel functions are real time, whatever is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Clock {
    /// The time, rounded down to a multiple of this.
    Coarse(Duration),
    /// Nothing: clock calls fail (`NOTSUP`). A guest can still sleep for some time, though not until a moment.
    Off,
    /// No real time: both clocks begin at zero and move on by this many nanoseconds each time one is read, and by the time
    /// slept, which takes no real time.
    Fixed {
        /// Nanoseconds from one reading to the next.
        step: u64,
    },
}

impl Default for Clock {
    fn default() -> Self {
        Clock::Coarse(DEFAULT_CLOCK_RESOLUTION)
    }
}

/// Where a guest's random numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Random {
    /// The system's generator.
    #[default]
    System,
    /// The same numbers for the same seed: SHA-256 in counter mode, block *n* being the hash of `sandgate random`, the seed
    /// and *n* (8 little-endian bytes each). Not secret.
    Seeded(u64),
    /// Nothing: `random_get` fails (`NOTSUP`). Rust's `HashMap` needs it.
    Off,
}
