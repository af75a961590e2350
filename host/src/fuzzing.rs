//! The bodies of the fuzz targets `host_messages` and `artefact_cache`, and their seeds. Built for tests and for cargo-fuzz
//! only; see `fuzz/README.md`.

mod cache;
mod messages;
mod stage;

pub use cache::{artefact_cache, artefact_cache_seeds};
pub use messages::{host_messages, host_messages_seeds};
