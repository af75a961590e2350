//! The shipped binary from end to end: real workers, real guests, and everything that can happen to both.
//!
//! What a whole process holds (children, descriptors, threads, memory) is counted in the binary `leaks`, where nothing else
//! runs.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod channels;
mod compiling;
mod host_killed;
mod isolation;
mod kill;
mod launch;
mod limits;
mod order;
mod outcomes;
mod output;
mod payloads;
mod preinit;
mod preinit_hostile;
mod recycling;
mod schemas;
mod scripts;
mod termination;
mod traced;
