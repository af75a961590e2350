//! Ends executions at their deadlines, has them look at their processor time, and makes sure that a stop arrives.
//!
//! One thread, started when it is first needed, that sleeps until the earliest moment and not at all when there is none.
//!
//! Why a stop needs a second look: an execution that is in its epoch callback on behalf of a sibling may look for its own
//! stop just before it is set, and set its next deadline just after the epoch moved. The engine has no way to do both at
//! once. So whoever stops an execution asks the clock to move the epoch again until the execution has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::execution::{Execution, Stop};
use crate::worker::Worker;

const FIRST_REMINDER: Duration = Duration::from_millis(1);
const LAST_REMINDER: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Clock {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    next_key: u64,
    running: bool,
    closed: bool,
    sleep: Sleep,
}

type Key = (Instant, u64);

/// What the thread does. It is woken only for what comes before its sleep is over, so that deadlines which come and go
/// cost nothing.
#[derive(Debug, Default, Clone, Copy)]
enum Sleep {
    #[default]
    Awake,
    Until(Instant),
    ForEver,
}

#[derive(Debug)]
struct Entry {
    execution: Weak<Execution>,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Deadline,
    /// A stop may have been overlooked.
    Remind(Duration),
    /// Its processor time may be used up.
    CpuTime,
    /// That may have been overlooked.
    RemindOfCpuTime(Duration),
}

/// Takes what is armed for an execution back when that has ended.
pub(crate) struct Armed<'a> {
    worker: &'a Worker,
    execution: &'a Execution,
    deadline: Option<Key>,
}

impl Clock {
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }

    fn add(&self, worker: &Arc<Worker>, at: Instant, entry: Entry) -> Key {
        let mut state = self.state.lock();
        let key = (at, state.next_key);
        state.next_key += 1;
        state.entries.insert(key, entry);
        if !state.running && !state.closed {
            state.start(worker);
            return key;
        }
        match state.sleep {
            Sleep::Awake => {}
            Sleep::Until(end) if end <= at => {}
            Sleep::Until(_) | Sleep::ForEver => {
                state.sleep = Sleep::Awake;
                self.wake.notify_one();
            }
        }
        key
    }

    fn remove(&self, key: Option<Key>) {
        if let Some(key) = key {
            self.state.lock().entries.remove(&key);
        }
    }

    fn run(&self, worker: &Arc<Worker>) {
        let mut state = self.state.lock();
        while !state.closed {
            state.sleep = Sleep::Awake;
            let Some(first) = state.entries.first_entry() else {
                state.sleep = Sleep::ForEver;
                self.wake.wait(&mut state);
                continue;
            };
            let at = first.key().0;
            let now = Instant::now();
            if now < at {
                state.sleep = Sleep::Until(at);
                self.wake.wait_until(&mut state, at);
                continue;
            }
            let entry = first.remove();
            let Some(execution) = entry.execution.upgrade() else {
                continue;
            };
            if execution.is_finished() {
                continue;
            }
            drop(state);
            fire(worker, &execution, entry.what);
            state = self.state.lock();
        }
    }
}

impl State {
    fn start(&mut self, worker: &Arc<Worker>) {
        self.running = true;
        let worker_of_thread = Arc::clone(worker);
        worker.spawn("clock", move || worker_of_thread.clock.run(&worker_of_thread));
    }
}

/// Starts the thread before it is needed, for a worker that cannot start threads later.
pub(crate) fn start(worker: &Arc<Worker>) {
    worker.clock.state.lock().start(worker);
}

fn fire(worker: &Arc<Worker>, execution: &Arc<Execution>, what: What) {
    match what {
        What::Deadline => worker.stop(execution, Stop::TimedOut),
        What::Remind(after) => {
            worker.kick(execution);
            add(worker, execution, What::Remind(next(after)), next(after));
        }
        What::CpuTime if execution.cpu.as_ref().is_some_and(|cpu| cpu.fall_due()) => {
            worker.kick(execution);
            add(worker, execution, What::RemindOfCpuTime(FIRST_REMINDER), FIRST_REMINDER);
        }
        What::RemindOfCpuTime(after) if execution.cpu.as_ref().is_some_and(|cpu| cpu.is_overlooked()) => {
            worker.kick(execution);
            add(worker, execution, What::RemindOfCpuTime(next(after)), next(after));
        }
        What::CpuTime | What::RemindOfCpuTime(_) => {}
    }
}

fn next(after: Duration) -> Duration {
    (after * 2).min(LAST_REMINDER)
}

/// `None` for a moment beyond the end of time.
fn add(worker: &Arc<Worker>, execution: &Arc<Execution>, what: What, after: Duration) -> Option<Key> {
    let at = Instant::now().checked_add(after)?;
    Some(worker.clock.add(worker, at, Entry { execution: Arc::downgrade(execution), what }))
}

/// Ends `execution` at its deadline and when its processor time is used up, unless what is returned is dropped before.
/// Called on the thread that runs it, when it begins, which is `now`.
pub(crate) fn arm<'a>(worker: &'a Arc<Worker>, execution: &'a Arc<Execution>, now: Instant) -> Armed<'a> {
    // `None` for a moment beyond the end of time.
    let at = execution.limits.wall_time.and_then(|after| now.checked_add(after));
    let entry = || Entry { execution: Arc::downgrade(execution), what: What::Deadline };
    let deadline = at.map(|at| worker.clock.add(worker, at, entry()));
    if let Some(cpu) = &execution.cpu {
        let at = now.checked_add(cpu.begin(now));
        *cpu.armed.lock() = at.map(|at| worker.clock.add(worker, at, Entry { what: What::CpuTime, ..entry() }));
    }
    Armed { worker, execution, deadline }
}

/// Has the execution look at its processor time after this long.
pub(crate) fn arm_cpu_time(worker: &Arc<Worker>, execution: &Arc<Execution>, left: Duration) {
    if let Some(cpu) = &execution.cpu {
        *cpu.armed.lock() = add(worker, execution, What::CpuTime, left);
    }
}

/// Moves the epoch again until `execution`, which was stopped, has ended.
pub(crate) fn see_to_it(worker: &Arc<Worker>, execution: &Arc<Execution>) {
    add(worker, execution, What::Remind(FIRST_REMINDER), FIRST_REMINDER);
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.worker.clock.remove(self.deadline);
        if let Some(cpu) = &self.execution.cpu {
            self.worker.clock.remove(cpu.armed.lock().take());
        }
    }
}
