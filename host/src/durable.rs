//! A durable queue on NATS JetStream: jobs whose inputs and results outlive every process.
//!
//! ```text
//!  Submission ──► stream of tasks ──► Worker: a Pool ──► stream of results ──► Collection
//!       └──► object store: the module, by its SHA-256 ──┘
//! ```
//!
//! A *job* is one submission: a module, what is run of it, and inputs. A [`Worker`] takes tasks of any job, as many as its
//! pool can hold, and acknowledges one only after its result is stored. What a worker that dies had is given to others once
//! the time without a sign of life ([`WorkerSettings::ack_wait`]) is over. A task may run more than once, but a
//! [`Collection`] gives exactly one result for each input.
//!
//! A task that workers do not survive is given up: it goes to a stream of dead letters, and its result says so.
//!
//! | file | what it is for |
//! |---|---|
//! | `settings`, `connect`, `link` | how to reach a server; the connection; its thread |
//! | `nats` | asking and storing, again and again until it is done |
//! | `name`, `setup` | what things are called on a server; making them |
//! | `message`, `job`, `modules` | what is stored: tasks and results; records of jobs; modules |
//! | `submit`, `work`, `collect` | the three ends |
//! | `pull`, `reviving` | one request for messages; a consumer that gives none although it could |
//!
//! All that is asynchronous runs on one thread of the [`Queue`]; the functions here block.

mod collect;
mod connect;
mod error;
mod job;
mod link;
mod message;
mod modules;
mod name;
mod nats;
mod pull;
mod queue;
mod reviving;
mod settings;
mod setup;
mod submit;
mod work;

pub use collect::{Collected, Collection, CollectionSettings};
pub use error::{Cause, Difference, DurableError};
pub use job::{Job, MAX_RETRIES};
pub use message::{Ending, Input, JobResult, MAX_NAME_BYTES};
pub use name::{BadName, DEFAULT_PREFIX, JobId, Prefix};
pub use queue::Queue;
pub use settings::{DEFAULT_PATIENCE, Notice, Settings};
pub use submit::Submission;
pub use work::{CannotGoOn, Stopper, Worked, Worker, WorkerSettings};
