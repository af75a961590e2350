//! Step 2: what the kernel counts for a process and refuses beyond.
//!
//! Lowering a limit needs no right, and soft and hard limit are lowered together, so that neither comes back. Address space
//! has no limit: an engine reserves gigabytes of it that it never touches. RLIMIT_DATA counts what can be written, and
//! so what can be used: memories of guests, tables, stacks and the heap.
//!
//! For a worker that is what all executions together may have: `executions=` times `memory=`. A pool's worker has one
//! execution, so about its `memory=`; one of a gateway that says nothing has 64 of 1 GiB, which bounds little. Less than the
//! product would be worse: the kernel counts memory that a guest has grown by and never touched, and what fails beyond the limit
//! is not the guest's next page alone but any allocation of the worker, which ends it. So some guests, each within its limits,
//! could cost their siblings the worker. Guests are kept to their limits by their accounts; this limit is for a process that
//! has been taken over, and who wants it tight says what there is to run.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandgate_wire::Limits;
use sandgate_wire::isolation::State;
use sandgate_wire::message::{HostHello, Initialize, SNAPSHOT_PATIENCE};
use sandgate_wire::module_limits::ModuleLimits;

use super::sys;

/// Heap and buffers of a process, whatever it does.
const OVERHEAD_BYTES: u64 = 64 << 20;
/// Of a thread beside its stack: its part of the heap.
const THREAD_BYTES: u64 = 1 << 20;
/// Below a guest's stack: host functions.
const HOST_STACK_BYTES: u64 = 2 << 20;
/// The smallest and the largest stack of a guest.
const STACK_BYTES: (u64, u64) = (64 << 10, 8 << 20);
/// Threads of a worker beside its executors: main, writer, clock, and room for a runtime of wasmtime-wasi's.
const OTHER_THREADS: u64 = 16;
/// Standard descriptors, the connection, and artefacts and copies under way.
const DESCRIPTORS: u64 = 64;
/// Each module that a worker has loaded keeps its artefact open; so many can be loaded.
const MODULES: u64 = 4096;
/// Sockets of a runtime, and files that guests have open.
const FILES: u64 = 1024;

/// What a process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Bytes that it can write to, beside those that it has at its start.
    data_bytes: u64,
    /// How many times over it may need what it has at its start.
    start: u64,
    file_bytes: u64,
    descriptors: u64,
    cpu_time: Option<Duration>,
    /// Threads of it, if its user id is its own.
    pub(super) threads: u64,
}

impl Budget {
    pub(crate) fn of_worker(hello: &HostHello) -> Budget {
        let limits = &hello.limits;
        let executions = u64::from(hello.max_executions.max(1));
        let each = execution_bytes(limits);
        let modules = if hello.one_module { 0 } else { MODULES };
        let files = if hello.grants.directories.is_empty() { 0 } else { FILES };
        Budget {
            data_bytes: each.saturating_mul(executions).saturating_add(OVERHEAD_BYTES),
            // An engine sets room for tables aside. There is one for each way of code generation.
            start: 3,
            // Files in guests' directories, and no other.
            file_bytes: limits.memory_bytes,
            descriptors: DESCRIPTORS + modules + files,
            cpu_time: None,
            threads: executions.saturating_add(OTHER_THREADS),
        }
    }

    pub(crate) fn of_compiler(limits: &ModuleLimits) -> Budget {
        Budget {
            data_bytes: limits.compile_memory_bytes,
            start: 1,
            // The artefact, which was in memory before.
            file_bytes: limits.compile_memory_bytes,
            descriptors: DESCRIPTORS,
            cpu_time: Some(limits.compile_time.saturating_add(Duration::from_secs(1))),
            threads: OTHER_THREADS,
        }
    }

    /// The snapshot is taken with what the compilation has given back.
    pub(crate) fn of_initializer(request: &Initialize) -> Budget {
        let compiler = Budget::of_compiler(&request.module_limits);
        let runs = request.limits.wall_time.unwrap_or(request.module_limits.compile_time);
        let data_bytes = compiler.data_bytes.saturating_add(execution_bytes(&request.limits));
        Budget {
            data_bytes: data_bytes.saturating_add(request.input_bytes.saturating_mul(2)).saturating_add(OVERHEAD_BYTES),
            // Its engine sets room for tables aside.
            start: 3,
            file_bytes: request.module_limits.module_bytes,
            cpu_time: compiler.cpu_time.map(|time| time.saturating_add(runs).saturating_add(SNAPSHOT_PATIENCE)),
            ..compiler
        }
    }
}

/// What one execution takes.
fn execution_bytes(limits: &Limits) -> u64 {
    let stack = limits.stack_bytes.clamp(STACK_BYTES.0, STACK_BYTES.1).next_power_of_two() + HOST_STACK_BYTES;
    limits.memory_bytes.saturating_add(stack + THREAD_BYTES)
}

pub(super) fn set(budget: &Budget) -> State {
    let data = start_bytes().saturating_mul(budget.start).saturating_add(budget.data_bytes);
    let mut limits = vec![
        // A dump would be written outside.
        (Resource::Core, "core", 0),
        (Resource::Data, "data", data),
        // Beyond it a write fails, since the signal is ignored.
        (Resource::Fsize, "fsize", budget.file_bytes),
        (Resource::Nofile, "nofile", budget.descriptors),
        // What cannot be paged out, message queues and real time are for others.
        (Resource::Memlock, "memlock", 0),
        (Resource::Msgqueue, "msgqueue", 0),
        (Resource::Rtprio, "rtprio", 0),
    ];
    if let Some(time) = budget.cpu_time {
        limits.push((Resource::Cpu, "cpu", time.as_secs().max(1)));
    }
    let mut refused: Vec<String> = Vec::new();
    if let Err(error) = sys::ignore_file_size_signal() {
        refused.push(format!("SIGXFSZ: {error}"));
    }
    for (resource, name, value) in &limits {
        if let Err(error) = lower(*resource, *value) {
            refused.push(format!("{name}: {error}"));
        }
    }
    let text: Vec<String> = limits.iter().map(|(_, name, value)| format!("{name} {value}")).collect();
    let text = text.join(", ");
    if refused.is_empty() {
        State::Enforced(text)
    } else {
        State::Partial(format!("{text}; but {}", refused.join(", ")))
    }
}

/// Threads count for the user id, so this is for one that nobody else has.
pub(super) fn limit_threads(threads: u64) -> rustix::io::Result<()> {
    lower(Resource::Nproc, threads)
}

/// Never raises a limit.
fn lower(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let before = getrlimit(resource);
    let value = [before.current, before.maximum].into_iter().flatten().fold(value, u64::min);
    // Processor time has a signal at the soft limit, which says more than the SIGKILL at the hard one.
    let maximum = if resource == Resource::Cpu { value.saturating_add(1) } else { value };
    let maximum = before.maximum.map_or(maximum, |before| maximum.min(before));
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(maximum) })
}

/// What counts for RLIMIT_DATA already.
fn start_bytes() -> u64 {
    // In pages: size, resident, shared, text, 0, data.
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(5).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use sandgate_wire::grants::Grants;
    use sandgate_wire::isolation::Policy;

    use super::*;

    fn hello(max_executions: u32, memory_bytes: u64) -> HostHello {
        HostHello {
            gateway: "gw0".to_owned(),
            host_pid: 1,
            max_executions,
            nice: 0,
            grants: Grants::default(),
            policy: Policy::default(),
            limits: Limits { memory_bytes, ..Limits::default() },
            one_module: true,
        }
    }

    #[test]
    fn every_execution_has_room_and_nothing_overflows() {
        let one = Budget::of_worker(&hello(1, 1 << 30)).data_bytes;
        let four = Budget::of_worker(&hello(4, 1 << 30)).data_bytes;
        assert!(one > 1 << 30 && four > 4 << 30);
        assert_eq!(four - one, 3 * ((1 << 30) + (3 << 20) + THREAD_BYTES));
        assert_eq!(Budget::of_worker(&hello(u32::MAX, u64::MAX)).data_bytes, u64::MAX);
        assert!(start_bytes() > 0);
    }
}
