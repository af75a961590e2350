//! Gateways elsewhere: the way to other machines, and the agents at its ends.
//!
//! ```text
//!  spec ──► route: one step after the other ([`route`])
//!             └► a launcher, here or beside the agent before ([`launcher`]) ──► greeting ([`greeting`]) ──► [`RemoteHost`]
//!                                                                                   one for each group and route ([`Hosts`])
//!  connection ══ stream of the link ══ agent ── worker          [`RemoteWorker`] stands for the worker's process
//!  module ── by hash ──► agent's cache and compiler             [`RemoteArtefacts`] stand for what came of it
//! ```
//!
//! Above a connection nothing knows that its worker is elsewhere. What an agent says is believed as little as what a worker
//! says: it is decoded totally, its texts are capped and escaped, and what does not fit ends the link and no more.

mod artefacts;
mod attempts;
mod bootstrap;
mod error;
mod greeting;
mod host;
mod hosts;
mod launcher;
mod requests;
mod route;
mod running;
pub(crate) mod ways;

pub use error::ReachError;

#[cfg(any(test, fuzzing))]
pub(crate) use greeting::greet_over;
#[cfg(any(test, fuzzing))]
pub(crate) use host::{RemoteHost, RemoteWorker};
pub(crate) use hosts::{Hosts, Remote};
#[cfg(any(test, fuzzing))]
pub(crate) use requests::Answer;
pub(crate) use route::Step;
pub(crate) use running::Running;
