//! The host's own look at wall times: a worker that does not report the end of an execution in time is killed.
//!
//! The worker ends its executions at their deadlines by itself; this is for one that cannot, since its guests' code has no
//! checks, or does not, since somebody has taken it over. The host needs no word of the worker for it: executions begin in
//! the order in which they were sent, as soon as one before them has ended ([`Places`]).
//!
//! One thread for the whole process, which sleeps until the earliest moment, is woken for earlier ones only, and ends when
//! there was nothing to watch for a while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::endpoint::Endpoint;

/// How long the thread waits for something to watch before it ends.
const IDLE: Duration = Duration::from_secs(5);

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);

/// When to look at an endpoint.
pub(crate) type Key = (Instant, u64);

#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Key, Weak<Endpoint>>,
    next_key: u64,
    running: bool,
    /// Until when the thread sleeps, if it does.
    sleeps_until: Option<Instant>,
}

/// Has `endpoint` looked at after this long; `None` if the system has no thread for it, or no such moment.
pub(crate) fn add(endpoint: &Arc<Endpoint>, after: Duration) -> Option<Key> {
    let at = Instant::now().checked_add(after)?;
    let mut state = WATCH.state.lock();
    if !state.running {
        let thread = std::thread::Builder::new().name("sandgate-watch".to_owned()).spawn(run);
        if let Err(error) = thread {
            tracing::error!("wall times are not watched, there is no thread for it: {error}");
            return None;
        }
        state.running = true;
    }
    let key = (at, state.next_key);
    state.next_key += 1;
    state.entries.insert(key, Arc::downgrade(endpoint));
    if state.sleeps_until.is_some_and(|end| at < end) {
        state.sleeps_until = None;
        WATCH.wake.notify_one();
    }
    Some(key)
}

/// Does not look.
pub(crate) fn remove(key: Key) {
    WATCH.state.lock().entries.remove(&key);
}

fn run() {
    let mut state = WATCH.state.lock();
    loop {
        state.sleeps_until = None;
        let now = Instant::now();
        let Some(first) = state.entries.first_entry() else {
            let end = now + IDLE;
            state.sleeps_until = Some(end);
            if WATCH.wake.wait_until(&mut state, end).timed_out() && state.entries.is_empty() {
                state.running = false;
                state.sleeps_until = None;
                return;
            }
            continue;
        };
        let at = first.key().0;
        if now < at {
            state.sleeps_until = Some(at);
            WATCH.wake.wait_until(&mut state, at);
            continue;
        }
        let endpoint = first.remove();
        drop(state);
        if let Some(endpoint) = endpoint.upgrade() {
            endpoint.wall_time_is_over();
        }
        state = WATCH.state.lock();
    }
}

/// Which executions of a worker have begun, as the host can tell: the first of those that have not ended, in the order in
/// which they were sent, as many as the worker runs at once.
#[derive(Debug)]
pub(crate) struct Places {
    free: u32,
    waiting: VecDeque<Weak<Endpoint>>,
}

impl Places {
    pub(crate) fn new(executions: u32) -> Places {
        Places { free: executions.max(1), waiting: VecDeque::new() }
    }

    /// An execution is sent. It is returned if it begins.
    pub(crate) fn enter(&mut self, endpoint: &Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        if self.free == 0 {
            self.waiting.push_back(Arc::downgrade(endpoint));
            return None;
        }
        self.free -= 1;
        endpoint.set_begun();
        Some(Arc::clone(endpoint))
    }

    /// An execution has ended, which had begun or not. The next one that begins is returned.
    pub(crate) fn leave(&mut self, endpoint: &Endpoint) -> Option<Arc<Endpoint>> {
        if !endpoint.has_begun() {
            self.waiting.retain(|it| !std::ptr::eq(it.as_ptr(), endpoint));
            return None;
        }
        self.free += 1;
        while let Some(next) = self.waiting.pop_front() {
            if let Some(next) = next.upgrade().filter(|it| !it.is_over()) {
                self.free -= 1;
                next.set_begun();
                return Some(next);
            }
        }
        None
    }
}
