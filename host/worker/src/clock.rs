//! Ends executions at their deadlines, and makes sure that a stop arrives.
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
    entries: BTreeMap<(Instant, u64), Entry>,
    next_key: u64,
    running: bool,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    execution: Weak<Execution>,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Deadline,
    Remind(Duration),
}

/// Takes a deadline back when the execution has ended.
pub(crate) struct Armed {
    worker: Arc<Worker>,
    key: (Instant, u64),
}

impl Clock {
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_all();
    }

    fn add(&self, worker: &Arc<Worker>, at: Instant, entry: Entry) -> (Instant, u64) {
        let mut state = self.state.lock();
        let key = (at, state.next_key);
        state.next_key += 1;
        state.entries.insert(key, entry);
        if !state.running && !state.closed {
            state.start(worker);
        } else if state.entries.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.wake.notify_one();
        }
        key
    }

    fn run(&self, worker: &Arc<Worker>) {
        let mut state = self.state.lock();
        while !state.closed {
            let Some(first) = state.entries.first_entry() else {
                self.wake.wait(&mut state);
                continue;
            };
            let at = first.key().0;
            let now = Instant::now();
            if now < at {
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
            match entry.what {
                What::Deadline => worker.stop(&execution, Stop::TimedOut),
                What::Remind(after) => {
                    worker.kick(&execution);
                    remind(worker, &execution, (after * 2).min(LAST_REMINDER));
                }
            }
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

/// Ends `execution` at its deadline unless it is dropped before.
pub(crate) fn arm(worker: &Arc<Worker>, execution: &Arc<Execution>) -> Option<Armed> {
    let after = execution.limits.wall_time?;
    // A deadline beyond the end of time is none.
    let at = Instant::now().checked_add(after)?;
    let entry = Entry { execution: Arc::downgrade(execution), what: What::Deadline };
    Some(Armed { worker: Arc::clone(worker), key: worker.clock.add(worker, at, entry) })
}

/// Moves the epoch again until `execution`, which was stopped, has ended.
pub(crate) fn see_to_it(worker: &Arc<Worker>, execution: &Arc<Execution>) {
    remind(worker, execution, FIRST_REMINDER);
}

fn remind(worker: &Arc<Worker>, execution: &Arc<Execution>, after: Duration) {
    let entry = Entry { execution: Arc::downgrade(execution), what: What::Remind(after) };
    worker.clock.add(worker, Instant::now() + after, entry);
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.worker.clock.state.lock().entries.remove(&self.key);
    }
}
