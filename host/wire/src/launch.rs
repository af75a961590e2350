//! How a worker process is started: its hidden arguments, where it finds the connection, and who can be a worker.
//!
//! The parent passes the connection as the child's standard input. The child moves it to another descriptor before
//! anything else and puts `/dev/null` in its place, so descriptors 0 to 2 are never the protocol's. This needs neither
//! unsafe code nor a fork of the whole host, and an ssh client can stand in the same place.

use std::sync::atomic::{AtomicBool, Ordering};

/// The first argument of a process that is to be a worker.
pub const WORKER_ARGUMENT: &str = "__sandgate-worker";

/// The first argument of a process that is to compile one module.
pub const COMPILER_ARGUMENT: &str = "__sandgate-compiler";

/// The first argument of a process that is to run one module's init function and take a snapshot.
pub const INITIALIZER_ARGUMENT: &str = "__sandgate-initializer";

/// Names the worker's binary; looked at before anything else.
pub const WORKER_VARIABLE: &str = "SANDGATE_WORKER";

/// The name of the shipped binary, looked for on the search path.
pub const SHIPPED_BINARY: &str = "sandgate";

/// Has a worker print which system calls it may make, and why, instead of serving.
pub const PRINT_SECCOMP_ARGUMENT: &str = "--print-seccomp";

/// After [`WORKER_ARGUMENT`]: the worker takes no hello that gives guests directories, or that has a layer of the sandbox left
/// out. For agents that trust their host that little.
pub const CONFINED_ARGUMENT: &str = "--confined";

/// What the last words of a process begin with that made a forbidden system call. The call's name and a backtick follow.
pub const FORBIDDEN_CALL: &str = "sandgate worker: forbidden system call `";

static CURRENT_EXECUTABLE_IS_WORKER: AtomicBool = AtomicBool::new(false);

/// Says that this process's own executable becomes a worker when it is started with [`WORKER_ARGUMENT`].
///
/// `sandgate_worker::run_if_worker` calls this; it is the one way in which worker and host know of each other.
pub fn register_current_executable() {
    CURRENT_EXECUTABLE_IS_WORKER.store(true, Ordering::Release);
}

/// Whether [`register_current_executable`] was called in this process.
pub fn current_executable_is_worker() -> bool {
    CURRENT_EXECUTABLE_IS_WORKER.load(Ordering::Acquire)
}
