//! The contract between a sandgate host and its workers.
//!
//! ```text
//!  host ── ToWorker ── frame ──┃ transport ┃── frame ── ToWorker ── worker
//!  host ◄── ToHost ◄── frame ──┃ transport ┃── frame ◄── ToHost ── worker
//! ```
//!
//! Both sides are built from the same sources, but neither believes the other: every length is checked before memory is
//! set aside for it, every id is checked by its receiver, and a message that breaks the rules is an error that ends the
//! connection, never a panic.
//!
//! What is where: [`frame`] cuts a byte stream into frames; [`message`] gives frames a meaning; [`flow`] keeps both sides
//! from sending what the other has no room for; [`assembly`] puts chunks together again; [`outbox`] writes many
//! channels fairly over one [`transport`], a socket or a [`ring`] each way; [`reading`] is how a thread waits for it on its own
//! behalf; [`outcome`] says how a task ended; [`limits`] says what it may use, [`account`]
//! what it has of that,
//! [`grants`] what it is given; [`profile`] and [`module_limits`] say which modules are taken; [`isolation`] says what the
//! operating system keeps from a worker; [`launch`] says how a worker process is started; [`text`] makes
//! what others wrote safe to show.
#![deny(missing_docs, unsafe_code)]

pub mod account;
pub mod assembly;
pub mod description;
pub mod flow;
pub mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grants;
pub mod ids;
pub mod isolation;
pub mod launch;
pub mod limits;
pub mod link;
pub mod message;
pub mod messages;
pub mod module_limits;
pub mod outbox;
pub mod outcome;
pub mod profile;
pub mod reading;
pub mod ring;
mod spin;
pub mod text;
pub mod transport;

pub use assembly::Message;
pub use grants::{ExecutionGrants, Grants};
pub use ids::{ChannelId, ChannelMap, ModuleId, Side};
pub use limits::{LimitName, Limits};
pub use message::{ToHost, ToWorker};
pub use module_limits::ModuleLimits;
pub use outbox::Outbox;
pub use outcome::Outcome;
pub use profile::Profile;
