//! For tests only: native code inside a worker that is locked in for real, as if a guest had taken it over.

use crate::{main_loop, process};

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
    process::exit(process::start_worker().and_then(|(worker, mut reader)| {
        worker.second_stage.enter();
        attack(&worker.gateway);
        main_loop::run(&worker, &mut reader).map(drop)
    }));
}
