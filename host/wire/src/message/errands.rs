//! What a process is asked for that does one thing, and what it says: a compiler and an initializer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Codegen;
use crate::grants::ExecutionGrants;
use crate::ids::ModuleId;
use crate::isolation::Policy;
use crate::limits::Limits;
use crate::module_limits::{ModuleLimits, Shape};
use crate::outcome::{Outcome, Rejection};
use crate::profile::Profile;

/// How long an initializer may take for the snapshot once the time of its init function is over.
pub const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

/// A compilation as the compiler process is asked for it. The module and the place for the result come as descriptors,
/// in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compile {
    /// The SHA-256 of the module, which the compiler checks.
    pub module: ModuleId,
    /// The module's size in bytes.
    pub bytes: u64,
    /// What is to be made of it.
    pub codegen: Codegen,
    /// What it may be and what the compilation may cost.
    pub limits: ModuleLimits,
    /// The features it may need.
    pub profile: Profile,
    /// What the compiler is to have the operating system keep from it.
    pub policy: Policy,
}

/// What became of a compilation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compiled {
    /// The artefact is written.
    Done {
        /// The engine it is for.
        engine: String,
        /// Its size in bytes.
        bytes: u64,
        /// What the module turned out to be.
        shape: Shape,
        /// What it says of itself: a [`Description`](crate::description::Description), encoded.
        description: Vec<u8>,
    },
    /// The module is not acceptable.
    Rejected(Rejection),
}

/// A pre-initialisation as the initializer process is asked for it. What it reads, the module and then the input, and the
/// place for the snapshot come as descriptors, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialize {
    /// The SHA-256 of the module, which the initializer checks.
    pub module: ModuleId,
    /// The module's size in bytes.
    pub bytes: u64,
    /// The size in bytes of the input, which stands behind the module.
    pub input_bytes: u64,
    /// The init function's name.
    pub init: String,
    /// How the module is compiled for this one run.
    pub codegen: Codegen,
    /// What the init function may use.
    pub limits: Limits,
    /// What it is given.
    pub grants: ExecutionGrants,
    /// What module and snapshot may be and what the compilation may cost.
    pub module_limits: ModuleLimits,
    /// The features the module may need.
    pub profile: Profile,
    /// What the initializer is to have the operating system keep from it.
    pub policy: Policy,
}

/// How far a pre-initialisation has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initialized {
    /// The module is compiled, and its init function begins. The one that is not the last word.
    Compiled,
    /// The snapshot is written.
    Done {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The module is not acceptable, or no snapshot can be taken of it.
    Rejected(Rejection),
    /// The init function did not return.
    Ended(Outcome),
}
