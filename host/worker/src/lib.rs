//! The worker of a sandgate gateway: runs compiled guests, serves their host functions, and keeps each within its limits.
//! The same executable is the compiler that turns one module into an artefact, and the initializer that runs one module's
//! init function and makes a new module of what it left.
//!
//! ```text
//!  ── frame ──┃ transport ┃── main_loop ──► hub ──► hostcalls ──┃ abi ┃── guest
//!  ◄─ frame ◄─┃ transport ┃◄── outbox ◄──── hub ◄── hostcalls ◄─┃ abi ┃◄─ guest
//! ```
//!
//! A program that wants to be its own worker calls [`run_if_worker`] first thing in `main`. [`run`] is the worker without
//! a process around it, for tests.
//!
//! What is where: `main_loop` does what the host says, `reading` decides which thread reads it; `hub` is what those share with
//! the executors (channels, executions, the queue) and the one place where a guest waits; `executor` runs guests one after the
//! other, each in a new instance; `hostcalls` and `wasi` are what a guest can call; `compiler` and
//! `initializer` are the other roles; `process` is all that touches the process itself, and `lockdown` has the operating system keep everything else from it.
#![deny(missing_docs, unsafe_code)]

mod artefact;
mod bulk;
mod channel;
mod clock;
mod compiler;
mod cpu_time;
mod describe;
mod directories;
mod ending;
mod engine;
mod execution;
mod executor;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod guest_memory;
mod hostcalls;
mod hub;
mod imports;
mod initializer;
mod lockdown;
mod main_loop;
mod modules;
mod output;
mod preflight;
mod process;
mod quit;
mod randomness;
mod reading;
pub mod self_test;
mod snapshot;
mod startup_pages;
mod stdin;
#[doc(hidden)]
pub mod testing;
mod wasi;
mod wasi_files;
mod wasi_poll;
mod worker;

#[cfg(test)]
mod tests;

pub use compiler::{Compilation, compile, compile_with, compile_within};
pub use process::{exit_code, run_if_worker};
pub use worker::{Ended, WorkerError, run};
