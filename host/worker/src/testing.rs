//! For tests and benchmarks only: native code inside a worker that is locked in for real, as if a guest had taken it over;
//! and a worker's engine without a worker around it, to compare with.

use sandgate_wire::message::Codegen;
use wasmtime::Engine;

use crate::{engine, main_loop, process};

/// Stack of a guest, unless its limits say otherwise.
const STACK_BYTES: usize = 1 << 20;

/// An engine as a worker makes it, with a pool for so many instances.
///
/// # Errors
/// When the processor lacks something the configuration needs.
pub fn worker_engine(instances: usize) -> wasmtime::Result<Engine> {
    engine::pooled(Codegen::default(), instances, STACK_BYTES)
}

/// If this process was started to be a worker: locks it in, says hello, does what `attack` does, and then serves on as any
/// worker. Does not return then. `attack` is given the gateway's id. A worker that takes one module is in the second stage
/// of its lock-down by then, as if that were loaded.
///
/// Call it before [`run_if_worker`](crate::run_if_worker), which serves compilers.
pub fn run_if_taken_over(attack: impl FnOnce(&str)) {
    let role = std::env::args_os().nth(1).unwrap_or_default();
    if role != sandgate_wire::launch::WORKER_ARGUMENT {
        return;
    }
    process::exit(process::start_worker().and_then(|(worker, reader)| {
        worker.second_stage.enter();
        attack(&worker.gateway);
        main_loop::run(&worker, reader).map(drop)
    }));
}
