//! Threads that run guests, one execution after the other, each in a new instance.
//!
//! ```text
//!  queue ─► arm the deadline ─► load the module ─► find the entry ─► arm the stop ─► instantiate ─► _initialize ─► entry
//!        ◄─ DONE ◄─ drop handles ◄─ flush output ◄─ outcome ◄────────────────────────────────────────────┘
//! ```
//!
//! A stop is armed before the instance is made, since a module's `start` function runs then.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sandgate_abi::{START_EXPORT, TASK_EXPORT_PREFIX};
use sandgate_wire::message::{Codegen, Entry, Execute};
use sandgate_wire::outcome::Rejection;
use sandgate_wire::{Outcome, ToHost};
use wasmtime::{Extern, Instance, ModuleExport, Store, Trap, UpdateDeadline};

use crate::clock;
use crate::ending::{self, Exit};
use crate::execution::{Execution, Stop};
use crate::guest::Guest;
use crate::hub::{HubGuard, Job};
use crate::modules::{self, LoadedModule};
use crate::reading::{self, Role};
use crate::worker::Worker;

/// What the names of executors start with.
pub(crate) const THREAD_NAME: &str = "exec-";

/// An execution was queued: wakes an executor that is idle, or starts one more.
pub(crate) fn provide(worker: &Arc<Worker>, hub: &mut HubGuard<'_>) {
    if hub.reading.role == Role::Idle && hub.queue.len() <= 1 {
        // It is the caller.
        hub.waiters.raise();
        return;
    }
    if hub.idle_executors >= hub.queue.len() {
        hub.waiters.executor_is_awake();
        worker.work.notify_one();
        return;
    }
    if hub.executors == worker.max_executions {
        return;
    }
    start(worker, hub);
}

/// Starts the first executor, before there is anything for it to do.
pub(crate) fn provide_first(worker: &Arc<Worker>) {
    start(worker, &mut worker.hub.lock());
}

/// Starts all executors that there can be.
pub(crate) fn provide_all(worker: &Arc<Worker>) {
    loop {
        let mut hub = worker.hub.lock();
        if hub.executors == worker.max_executions {
            return;
        }
        start(worker, &mut hub);
    }
}

/// Starts one more.
fn start(worker: &Arc<Worker>, hub: &mut HubGuard<'_>) {
    let name = format!("{THREAD_NAME}{}", hub.executors);
    hub.executors += 1;
    let worker_of_thread = Arc::clone(worker);
    let run = move || run(&worker_of_thread);
    hub.unlocked(|| worker.spawn_with_stack(&name, Some(worker.engines.thread_stack_bytes()), run));
}

/// What is said may be kept for a moment after an execution that took no longer than this.
const SHORT: Duration = Duration::from_micros(1200);

fn run(worker: &Arc<Worker>) {
    // With several executors, what one says is not what another may keep.
    let alone = worker.max_executions == 1;
    let mut last = Duration::MAX;
    let mut known = Known::default();
    // When the one before has ended, if it is known.
    let mut ended = None;
    let mut is_said = true;
    while let Some((job, at_once)) = next(worker, is_said) {
        let id = job.execution.id;
        let patient = alone && job.execute.patient;
        worker.outbox.be_patient(patient && last <= SHORT);
        let began = ended.filter(|_| at_once).unwrap_or_else(Instant::now);
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| execute(worker, job, began, &mut known)));
        let Ok(said) = result else {
            // A bug of ours in the middle of a guest. The host reports a lost worker with the panic's own message.
            crate::process::abort(&format!("execution {id} hit a bug in the worker"))
        };
        is_said = said;
        ended = patient.then(Instant::now);
        last = ended.map_or(Duration::MAX, |ended| ended.saturating_duration_since(began));
    }
}

/// The next execution, and whether it was there at once. None at the worker's end. Unless it is said already, the outcome of the
/// one before was sent.
fn next(worker: &Arc<Worker>, is_said: bool) -> Option<(Job, bool)> {
    let mut hub = worker.hub.lock();
    if !is_said {
        outcome_sent(worker, &mut hub);
    }
    let mut at_once = true;
    loop {
        if hub.closed {
            return None;
        }
        if let Some(job) = hub.start() {
            return Some((job, at_once));
        }
        at_once = false;
        if reading::glance(worker, &mut hub) {
            continue;
        }
        if worker.outbox.is_gathering() {
            hub.unlocked(|| worker.outbox.about_to_wait());
            // Something may have come in between.
            continue;
        }
        if worker.startup_pages.give_back(&mut hub) {
            continue;
        }
        hub.idle_executors += 1;
        // A guest that waits would have more of the reading.
        if hub.reading.role == Role::Free && hub.is_idle() {
            reading::lead(worker, &mut hub, Role::Idle, None, None);
        } else {
            hub.waiters.executor_sleeps();
            hub.wait(&worker.work, None);
        }
        hub.idle_executors -= 1;
    }
}

fn outcome_sent(worker: &Arc<Worker>, hub: &mut HubGuard<'_>) {
    hub.outcome_sent();
    if hub.is_done() {
        hub.unlocked(|| worker.leave_if_done());
    }
}

/// Whether it is said that the outcome was sent.
fn execute(worker: &Arc<Worker>, job: Job, now: Instant, known: &mut Known) -> bool {
    let execution = Arc::clone(&job.execution);
    let execute = Arc::clone(&job.execute);
    // Held until the last output is out, for that can take as long as the host likes.
    let _deadline = clock::arm(worker, &execution, now);
    let mut store = Store::new(&worker.engines.get(execute.codegen).engine, Guest::new(Arc::clone(worker), job, now));
    let outcome = outcome(&execution, &execute, &mut store, known);
    let guest = store.data_mut();
    // A stop during the last flush loses output, not the outcome.
    let _ = guest.output.flush(worker, &execution);
    let handles = guest.handles.take_all();
    let arguments = guest.arguments.take();
    let is_terminating = {
        let mut hub = worker.hub.lock();
        for channel in handles {
            hub.drop_handle(channel, &execution);
        }
        if let Some(arguments) = arguments {
            hub.unrefer_all(arguments.channels);
        }
        hub.end(execution.id);
        hub.is_terminating()
    };
    execution.set_finished();
    // Whoever has stopped something waits for its end.
    let was_stopped = matches!(outcome, Outcome::Killed { .. } | Outcome::TimedOut { .. });
    let done = ToHost::Done(execution.id, outcome).encode();
    // If the connection is gone nobody waits for the outcome.
    let _ = if was_stopped { worker.outbox.push(done) } else { worker.outbox.push_patiently(done) };
    if is_terminating {
        // The process may end by this, with the instance as it is.
        outcome_sent(worker, &mut worker.hub.lock());
    }
    is_terminating
}

fn outcome(execution: &Arc<Execution>, execute: &Arc<Execute>, store: &mut Store<Guest>, known: &mut Known) -> Outcome {
    let (module, entry) = match known.find(&store.data().worker, execute) {
        Ok(found) => found,
        Err(reason) => return Outcome::Rejected { reason },
    };
    let result = call(execution, execute.codegen, &module, &entry, store);
    ending::outcome(result.map(drop), store.data_mut(), &module.tasks)
}

/// What an executor ran last, so that the same once more need not be looked for. It keeps no module that is not loaded any more.
#[derive(Default)]
struct Known(Option<(Arc<Execute>, Weak<LoadedModule>, ModuleExport)>);

impl Known {
    fn find(
        &mut self,
        worker: &Worker,
        execute: &Arc<Execute>,
    ) -> Result<(Arc<LoadedModule>, ModuleExport), Rejection> {
        if let Some((known, module, entry)) = &self.0
            && Arc::ptr_eq(known, execute)
            && let Some(module) = module.upgrade()
        {
            return Ok((module, *entry));
        }
        let module = modules::get(worker, execute.module, execute.codegen)?;
        let entry = *entry(&module, &execute.entry)?;
        self.0 = Some((Arc::clone(execute), Arc::downgrade(&module), entry));
        Ok((module, entry))
    }
}

fn entry<'a>(module: &'a LoadedModule, entry: &Entry) -> Result<&'a ModuleExport, Rejection> {
    let (name, found) = match entry {
        Entry::Start => (START_EXPORT, module.entry(START_EXPORT)),
        Entry::Task(name) => (&name[..], module.entry(&format!("{TASK_EXPORT_PREFIX}{name}"))),
    };
    let unknown = || {
        let name = ending::capped(name, modules::MAX_NAME_BYTES);
        Rejection::UnknownTask { name, available: module.tasks.clone() }
    };
    found.ok_or_else(unknown)
}

/// How far a guest came, and what stopped it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its instance could not be made, and none of its code ran.
    Instantiation(wasmtime::Error),
    /// It ended by itself, or was stopped.
    Run(wasmtime::Error),
}

/// Makes an instance and calls what it exports as `_initialize`, if it does, and its `entry`.
pub(crate) fn call(
    execution: &Arc<Execution>,
    codegen: Codegen,
    module: &LoadedModule,
    entry: &ModuleExport,
    store: &mut Store<Guest>,
) -> Result<Instance, Failure> {
    store.limiter(|guest| &mut guest.growth);
    store.epoch_deadline_callback(|store| {
        let guest = store.data();
        match guest.worker.check(&guest.execution) {
            Some(stop) => Err(stop.into()),
            None => Ok(UpdateDeadline::Continue(1)),
        }
    });
    store.set_epoch_deadline(1);
    if codegen == Codegen::Metered {
        store.set_fuel(execution.limits.fuel.unwrap_or(u64::MAX)).map_err(Failure::Instantiation)?;
    }
    // From here on a stop moves the epoch beyond the deadline; one that came before is seen here.
    if let Some(stop) = store.data().worker.check(execution) {
        return Err(Failure::Run(stop.into()));
    }
    let instance = module.instance_pre.instantiate(&mut *store).map_err(|error| {
        if error.is::<Trap>() || error.is::<Stop>() || error.is::<Exit>() {
            Failure::Run(error)
        } else {
            Failure::Instantiation(error)
        }
    })?;
    let export = |store: &mut Store<Guest>, export| instance.get_module_export(store, export);
    store.data_mut().memory = module.memory.as_ref().and_then(|memory| export(store, memory)?.into_memory());
    for function in module.initialize.iter().chain([entry]) {
        // One of another type is no module that passes the preflight, and an error here.
        let function = export(store, function).and_then(Extern::into_func);
        function
            .ok_or_else(|| wasmtime::Error::msg("an export that is called is no function"))
            .and_then(|function| function.typed::<(), ()>(&*store))
            .map_err(Failure::Instantiation)?
            .call(&mut *store, ())
            .map_err(Failure::Run)?;
    }
    Ok(instance)
}
