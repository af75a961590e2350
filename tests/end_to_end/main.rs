//! The shipped binary from end to end: real workers, real guests, and everything that can happen to both.
//!
//! What a whole process holds (children, descriptors, threads, memory) is counted in the binary `leaks`, where nothing else
//! runs.

mod host_killed;
mod kill;
mod launch;
mod outcomes;
mod output;
mod payloads;
mod termination;
