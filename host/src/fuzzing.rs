//! The bodies of the fuzz targets `host_messages`, `artefact_cache`, `link_host` and `link_agent`, and their seeds. Built for tests and for cargo-fuzz
//! only; see `fuzz/README.md`.

mod cache;
mod far_end;
mod first_words;
pub(crate) mod link_script;
mod messages;
mod stage;

pub use crate::agent::fuzzing::{link_host, link_host_seeds};
pub use cache::{artefact_cache, artefact_cache_seeds};
pub use far_end::{link_agent, link_agent_seeds};
pub use messages::{host_messages, host_messages_seeds};
