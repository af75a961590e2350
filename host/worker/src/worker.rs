//! The worker around its threads: what they share, how they start, how they end.
//!
//! 1. The host's hello is read, what guests were granted is opened, and the engine is made.
//! 2. A worker that is a process locks itself in ([`lockdown`](crate::lockdown)): all but the last step with one thread,
//!    the last once the threads are there that every worker has. Then our hello answers, with what is in force.
//! 3. The calling thread, and executors that wait, read the connection ([`main_loop`](crate::main_loop),
//!    [`reading`](crate::reading)) until it ends or the host asked for the end and all is done. A writer thread, once there is
//!    something for it, writes what the transport has no room for; executors, of which one is there from the start, come as
//!    executions do.
//! 4. [`run`] stops what still runs and joins its threads. A worker process does not: it just exits.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use sandgate_wire::frame::{FrameError, FrameReader};
use sandgate_wire::grants::Grants;
use sandgate_wire::isolation::{Layer, Report};
use sandgate_wire::limits::{LimitName, Limits};
use sandgate_wire::message::{Codegen, DecodeError, WorkerHello};
use sandgate_wire::reading::Ringer;
use sandgate_wire::transport::{ReceiveHalf, SendHalf};
use sandgate_wire::{ModuleId, Outbox, ToHost, ToWorker};

use crate::clock::{self, Clock};
use crate::cpu_time::CpuTime;
use crate::directories::{self, Directories, DirectoryError};
use crate::engine::{self, Engines};
use crate::execution::{Execution, Stop};
use crate::hub::{Hub, HubGuard, SharedHub, Violation};
use crate::lockdown::{Enclosure, SecondStage};
use crate::modules::Artefact;
use crate::process::Surroundings;
use crate::reading::{Reading, Strip, TICK};
use crate::startup_pages::StartupPages;
use crate::{executor, main_loop};

/// Why a worker ended as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The host closed the connection, or is gone.
    HostGone,
    /// The host asked for the end, and all was done.
    Terminated,
}

/// Why a worker ended as it should not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The first message was no hello of this protocol.
    #[error("host does not begin with a hello")]
    NoHello(#[source] Option<DecodeError>),
    /// The process that started this one is not the host.
    #[error("parent is process {parent}, the host is process {host}")]
    NotOurHost {
        /// The process id of the parent.
        parent: u32,
        /// The process id in the hello.
        host: u32,
    },
    /// The host wants more than guests that are locked in.
    #[error(
        "agent here is `--confined`: guests get no directories of this machine, and no layer of the sandbox is left out"
    )]
    Confined,
    /// The stream cannot be cut into frames.
    #[error("connection is broken")]
    Frame(#[from] FrameError),
    /// A frame has no meaning.
    #[error("host sent a message that does not exist")]
    Decode(#[from] DecodeError),
    /// A message breaks the rules.
    #[error("host broke the protocol")]
    Violation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine cannot run here.
    #[error("engine cannot be made")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system does not keep from a compiler what it has to. A worker leaves the decision to its host.
    #[error("system does not keep enough from the process: {}", .missing.join("; "))]
    BelowPolicy {
        /// Each layer that is required, with what became of it.
        missing: Vec<String>,
    },
    /// A directory that guests are to be given cannot be opened.
    #[error(transparent)]
    Directory(Box<dyn std::error::Error + Send + Sync>),
    /// The system refused something.
    #[error("worker failed to {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl From<Violation> for WorkerError {
    fn from(violation: Violation) -> WorkerError {
        WorkerError::Violation(Box::new(violation))
    }
}

impl From<DirectoryError> for WorkerError {
    fn from(error: DirectoryError) -> WorkerError {
        WorkerError::Directory(Box::new(error))
    }
}

/// What all threads of a worker share.
pub(crate) struct Worker {
    pub(crate) engines: Engines,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) hub: SharedHub,
    pub(crate) reading: Reading,
    /// Executors wait here for the queue of the hub.
    pub(crate) work: Condvar,
    pub(crate) clock: Clock,
    pub(crate) modules: Mutex<HashMap<(ModuleId, Codegen), Arc<Artefact>>>,
    pub(crate) grants: Grants,
    /// The gateway's id.
    pub(crate) gateway: String,
    pub(crate) directories: Directories,
    pub(crate) max_executions: usize,
    pub(crate) second_stage: SecondStage,
    pub(crate) startup_pages: StartupPages,
    /// It ends with its process, not the other way round.
    is_process: bool,
    /// Where guests' monotonic clock begins.
    pub(crate) started: Instant,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A worker over the two halves of a transport, without a process around it. Returns once all of its threads have ended.
///
/// # Errors
/// See [`WorkerError`]; all but the first few mean that the host broke the protocol.
pub fn run(send: Box<dyn SendHalf>, receive: Box<dyn ReceiveHalf>) -> Result<Ended, WorkerError> {
    let (worker, reader) = start(send, receive, None)?;
    let ended = main_loop::run(&worker, reader);
    worker.shut_down();
    ended
}

/// Executors of a worker that takes one module and starts no thread once it is loaded. With more than that it may.
const MAX_READY_EXECUTORS: usize = 256;

/// Shakes hands and starts what every worker has. With a process around it, locks that in.
pub(crate) fn start(
    send: Box<dyn SendHalf>,
    receive: Box<dyn ReceiveHalf>,
    surroundings: Option<&Surroundings>,
) -> Result<(Arc<Worker>, FrameReader), WorkerError> {
    let mut reader = FrameReader::new(receive);
    let hello = match reader.read_frame()?.map(ToWorker::decode) {
        Some(Ok(ToWorker::Hello(hello))) => hello,
        Some(Err(error)) => return Err(WorkerError::NoHello(Some(error))),
        _ => return Err(WorkerError::NoHello(None)),
    };
    let inherited = surroundings.map(|surroundings| surroundings.greet(&hello)).transpose()?;
    // What guests are given is opened here: what was inherited is closed, and the paths are still there.
    let directories = directories::open(&hello.grants)?;
    // Sockets, since a connection's system calls are enough for them.
    let ringer = Ringer::sockets().map_err(|source| WorkerError::System { what: "make a pair of sockets", source })?;
    let outbox = Arc::new(Outbox::new(send));
    let max_executions = usize::try_from(hello.max_executions).unwrap_or(1).max(1);
    let engines = Engines::new(max_executions, hello.limits.stack_bytes);
    let engines = engines.map_err(|error| WorkerError::Engine(error.into()))?;
    let engine_hash = engine::compatibility(&engines.get(Codegen::default()).engine);
    let enclosure = inherited.map(|inherited| Surroundings::enclose(&hello, inherited)).transpose()?;
    let all_executors = hello.one_module && max_executions <= MAX_READY_EXECUTORS;
    let second_stage = if hello.one_module {
        SecondStage::after_one_module(all_executors && hello.grants.directories.is_empty())
    } else {
        SecondStage::never()
    };
    let hub = Hub::new(Arc::clone(&outbox), &hello.limits);
    let worker = Arc::new(Worker {
        engines,
        reading: Reading::new(Arc::clone(&hub.waiters), Some(ringer)),
        hub: SharedHub::new(hub),
        outbox,
        work: Condvar::new(),
        clock: Clock::default(),
        modules: Mutex::default(),
        directories,
        grants: hello.grants,
        gateway: hello.gateway,
        max_executions,
        second_stage,
        startup_pages: StartupPages::new(surroundings.is_some()),
        is_process: surroundings.is_some(),
        started: Instant::now(),
        threads: Mutex::default(),
    });
    if all_executors {
        // Threads may not be started later.
        worker.start_writer();
    } else {
        // With the first thread the C library makes a call that is not made later. This one is needed in any case.
        executor::provide_first(&worker);
        let worker_of_writer = Arc::downgrade(&worker);
        worker.outbox.start_writer_by(move || {
            if let Some(worker) = worker_of_writer.upgrade() {
                worker.start_writer();
            }
        });
    }
    let isolation = enclosure.map_or(Report::default(), Enclosure::seal);
    if isolation.is_enforced(Layer::Seccomp) {
        worker.second_stage.arm();
    }
    let answer = WorkerHello {
        package_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        engine: engine_hash,
        isolation,
    };
    // A host that is gone already is noticed by the reader.
    let _ = worker.outbox.push(ToHost::Hello(answer).encode());
    if all_executors {
        // While the host reads. The first module comes after this, since this thread reads it.
        clock::start(&worker);
        executor::provide_all(&worker);
    }
    Ok((worker, reader))
}

impl Worker {
    /// What an execution needs that runs by itself: nothing of the host's arrives, and no module but one is loaded.
    pub(crate) fn alone(engines: Engines, outbox: Arc<Outbox>, limits: &Limits) -> Arc<Worker> {
        let hub = Hub::new(Arc::clone(&outbox), limits);
        Arc::new(Worker {
            engines,
            reading: Reading::new(Arc::clone(&hub.waiters), None),
            hub: SharedHub::new(hub),
            outbox,
            work: Condvar::new(),
            clock: Clock::default(),
            modules: Mutex::default(),
            directories: Directories::default(),
            grants: Grants::default(),
            gateway: String::new(),
            max_executions: 1,
            second_stage: SecondStage::after_one_module(true),
            startup_pages: StartupPages::new(false),
            is_process: false,
            started: Instant::now(),
            threads: Mutex::default(),
        })
    }

    /// Starts the thread that writes what the others leave.
    fn start_writer(&self) {
        let outbox = Arc::clone(&self.outbox);
        self.spawn("writer", move || outbox.run_writer());
    }

    /// Starts a thread of the worker's. Without its threads a worker is of no use, so a failure ends the process.
    pub(crate) fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) {
        self.spawn_with_stack(name, None, body);
    }

    pub(crate) fn spawn_with_stack(
        &self,
        name: &str,
        stack_bytes: Option<usize>,
        body: impl FnOnce() + Send + 'static,
    ) {
        let mut builder = std::thread::Builder::new().name(name.to_owned());
        if let Some(bytes) = stack_bytes {
            builder = builder.stack_size(bytes);
        }
        match builder.spawn(body) {
            Ok(thread) => self.threads.lock().push(thread),
            Err(error) => crate::process::abort(&format!("failed to start thread `{name}`: {error}")),
        }
    }

    /// Waits until `ready` gives something, the deadline passes (`None`) or the execution is stopped. The one place where
    /// a guest waits.
    pub(crate) fn wait<R>(
        self: &Arc<Self>,
        execution: &Arc<Execution>,
        deadline: Option<Instant>,
        ready: impl FnMut(&mut Hub) -> Option<R>,
    ) -> Result<Option<R>, Stop> {
        self.wait_landing(execution, deadline, None, ready)
    }

    /// As [`wait`](Self::wait), while a message of the guest's lands on `strip`.
    pub(crate) fn wait_landing<R>(
        self: &Arc<Self>,
        execution: &Arc<Execution>,
        deadline: Option<Instant>,
        strip: Option<&mut Strip<'_>>,
        mut ready: impl FnMut(&mut Hub) -> Option<R>,
    ) -> Result<Option<R>, Stop> {
        if let Some(stop) = self.check(execution) {
            return Err(stop);
        }
        let mut hub = self.hub.lock();
        if let Some(result) = ready(&mut hub) {
            return Ok(Some(result));
        }
        let cpu = execution.cpu.as_ref();
        cpu.inspect(|cpu| cpu.set_waiting(true));
        let result = self.wait_locked(hub, execution, deadline, strip, ready);
        cpu.inspect(|cpu| cpu.set_waiting(false));
        // What it waited for is not lost if its processor time is used up: it stops with its next step.
        if result.is_ok() && self.check(execution).is_some() {
            self.engines.increment_epochs();
        }
        result
    }

    fn wait_locked<R>(
        self: &Arc<Self>,
        mut hub: HubGuard<'_>,
        execution: &Execution,
        deadline: Option<Instant>,
        mut strip: Option<&mut Strip<'_>>,
        mut ready: impl FnMut(&mut Hub) -> Option<R>,
    ) -> Result<Option<R>, Stop> {
        let (mut has_sent, mut patience) = (false, None);
        // The caller has looked just now, with the hub locked.
        let mut has_looked = true;
        loop {
            if let Some(stop) = execution.stop_reason() {
                return Err(stop);
            }
            if !std::mem::take(&mut has_looked)
                && let Some(result) = ready(&mut hub)
            {
                return Ok(Some(result));
            }
            if !has_sent {
                has_sent = true;
                if self.outbox.is_gathering() {
                    hub.unlocked(|| self.outbox.about_to_wait());
                    // What it waits for may have come in between.
                    continue;
                }
                self.outbox.about_to_wait();
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return Ok(None);
            }
            let mut until = deadline;
            if self.startup_pages.are_due(&hub) {
                // What comes soon is waited for with all pages there.
                let patience = *patience.get_or_insert_with(|| Instant::now() + TICK);
                if Instant::now() >= patience {
                    self.startup_pages.give_back(&mut hub);
                    continue;
                }
                until = Some(until.map_or(patience, |until| until.min(patience)));
            }
            let strip = strip.as_deref_mut();
            let wait = || execution.waker.wait(self, &mut hub, until, strip);
            match &execution.cpu {
                Some(cpu) => cpu.wait(wait),
                None => wait(),
            }
        }
    }

    /// Whether an execution is to stop, for the thread that runs it. The one place where it is found that its processor time
    /// is used up.
    pub(crate) fn check(self: &Arc<Self>, execution: &Arc<Execution>) -> Option<Stop> {
        if let Some(left) = execution.cpu.as_ref().and_then(CpuTime::look) {
            match left {
                Some(left) => clock::arm_cpu_time(self, execution, left),
                None => execution.set_stop(Stop::Limit(LimitName::CpuTime)),
            }
        }
        execution.stop_reason()
    }

    /// Stops an execution, whatever it does: computing, waiting, or about to do either. Does not wait for its end.
    pub(crate) fn stop(self: &Arc<Self>, execution: &Arc<Execution>, reason: Stop) {
        execution.set_stop(reason);
        self.kick(execution);
        clock::see_to_it(self, execution);
    }

    /// Makes an execution look whether it is to stop. Others look too, and go on.
    pub(crate) fn kick(&self, execution: &Execution) {
        // First, for others may hold the lock for a while.
        self.engines.increment_epochs();
        // With the lock, it is either before its look or waiting already.
        let hub = self.hub.lock();
        execution.waker.wake();
        drop(hub);
    }

    /// Ends the connection if the host asked for it and all is done; a process ends at once, without waking its other threads for it.
    pub(crate) fn leave_if_done(&self) {
        if self.hub.lock().is_done() {
            self.outbox.flush();
            if self.is_process {
                crate::process::exit(Ok(()));
            }
            self.outbox.shutdown();
            self.reading.attend(&mut self.hub.lock());
        }
    }

    fn shut_down(self: &Arc<Self>) {
        self.outbox.shutdown();
        let running = {
            let mut hub = self.hub.lock();
            hub.closed = true;
            hub.queue.clear();
            hub.running_executions()
        };
        self.work.notify_all();
        for execution in running {
            self.stop(&execution, Stop::HostGone);
        }
        // Executors first: until they have ended the clock reminds them.
        loop {
            let threads = std::mem::take(&mut *self.threads.lock());
            let (others, executors): (Vec<_>, Vec<_>) = threads.into_iter().partition(|thread| !is_executor(thread));
            let last = executors.is_empty();
            for thread in executors {
                join(thread);
            }
            if !last {
                self.threads.lock().extend(others);
                continue;
            }
            self.clock.close();
            others.into_iter().for_each(join);
            return;
        }
    }
}

fn is_executor(thread: &JoinHandle<()>) -> bool {
    thread.thread().name().is_some_and(|name| name.starts_with(crate::executor::THREAD_NAME))
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        crate::process::abort("a thread of the worker panicked");
    }
}
