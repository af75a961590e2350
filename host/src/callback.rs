//! Runs users' callbacks: for each channel in order and one at a time, never on the thread that reads a gateway.
//!
//! A callback that blocks keeps one thread and harms its own channel alone. Threads are shared by all groups, made when
//! none is idle, and end after a while without work.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::endpoint::{Delivery, Endpoint};

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(5);

thread_local! {
    /// The channels whose callbacks are running on this thread, by address.
    static RUNNING: RefCell<Vec<*const Endpoint>> = const { RefCell::new(Vec::new()) };
}

/// Values of [`Callback::work`]: nobody is delivering.
const IDLE_WORK: u8 = 0;
/// A thread delivers, or is about to.
const DELIVERING: u8 = 1;
/// The same, and more came since it last looked.
const DELIVER_AGAIN: u8 = 2;

type Run = dyn FnMut(Delivery) -> Result<(), String> + Send;

/// A channel's callback and whether it has work.
pub(crate) struct Callback {
    work: AtomicU8,
    run: Mutex<Option<Box<Run>>>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("work", &self.work).finish_non_exhaustive()
    }
}

/// Whether the caller is `endpoint`'s own callback.
pub(crate) fn is_running(endpoint: &Endpoint) -> bool {
    RUNNING.with_borrow(|running| running.contains(&std::ptr::from_ref(endpoint)))
}

impl Callback {
    pub(crate) fn new(run: impl FnMut(Delivery) -> Result<(), String> + Send + 'static) -> Arc<Callback> {
        Arc::new(Callback { work: AtomicU8::new(IDLE_WORK), run: Mutex::new(Some(Box::new(run))) })
    }

    /// Sees to it that everything that waits on `endpoint` is delivered. Never blocks.
    pub(crate) fn schedule(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let more = |work| Some(if work == IDLE_WORK { DELIVERING } else { DELIVER_AGAIN });
        if self.work.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) == Ok(IDLE_WORK) {
            let (callback, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
            run_soon(Box::new(move || callback.deliver(&endpoint)));
        }
    }

    fn deliver(&self, endpoint: &Arc<Endpoint>) {
        let mut run = self.run.lock();
        loop {
            while let Some(delivery) = endpoint.next_delivery() {
                let Some(call) = run.as_mut() else { return };
                let is_end = matches!(delivery, Delivery::End(_));
                let failure = guarded(endpoint, call, delivery).err();
                if let Some(message) = &failure {
                    tracing::warn!(channel = %endpoint.id, "callback failed: {message}");
                    endpoint.fail(message.clone());
                }
                if is_end {
                    // The user's closure, and all that it holds, goes before anybody is told.
                    let closure = run.take();
                    if catch_unwind(AssertUnwindSafe(|| drop(closure))).is_err() {
                        tracing::warn!(channel = %endpoint.id, "what the callback held panicked when it was dropped");
                    }
                    endpoint.mark_end_delivered();
                    return;
                }
            }
            // What came after the last look has left its mark, or schedules anew.
            let done = self.work.compare_exchange(DELIVERING, IDLE_WORK, Ordering::AcqRel, Ordering::Acquire);
            if done.is_ok() {
                return;
            }
            self.work.store(DELIVERING, Ordering::Release);
        }
    }
}

/// Calls the user's code; a panic becomes an error.
fn guarded(endpoint: &Endpoint, call: &mut Box<Run>, delivery: Delivery) -> Result<(), String> {
    RUNNING.with_borrow_mut(|running| running.push(std::ptr::from_ref(endpoint)));
    let result = catch_unwind(AssertUnwindSafe(|| call(delivery)));
    RUNNING.with_borrow_mut(Vec::pop);
    result.unwrap_or_else(|panic| Err(panic_message(&*panic)))
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "panic without a message".to_owned(),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads that run jobs. There is one that waits or starts for each job in the queue, unless the system refuses
/// threads; then a job waits for the next thread that is done.
struct Threads {
    state: Mutex<Pool>,
    arrived: Condvar,
}

struct Pool {
    jobs: VecDeque<Job>,
    idle: usize,
    starting: usize,
}

static THREADS: Threads =
    Threads { state: Mutex::new(Pool { jobs: VecDeque::new(), idle: 0, starting: 0 }), arrived: Condvar::new() };

/// Runs a job on a thread that is idle, or on a new one. Jobs never wait for each other.
pub(crate) fn run_soon(job: Job) {
    let mut pool = THREADS.state.lock();
    pool.jobs.push_back(job);
    if pool.jobs.len() <= pool.idle + pool.starting {
        THREADS.arrived.notify_one();
        return;
    }
    pool.starting += 1;
    drop(pool);
    let started = std::thread::Builder::new().name("sandgate-callback".to_owned()).spawn(|| THREADS.serve());
    if let Err(error) = started {
        tracing::error!("no thread for a callback, which has to wait for another: {error}");
        THREADS.state.lock().starting -= 1;
    }
}

impl Threads {
    fn serve(&self) {
        let mut pool = self.state.lock();
        pool.starting -= 1;
        loop {
            if let Some(job) = pool.jobs.pop_front() {
                drop(pool);
                job();
                pool = self.state.lock();
                continue;
            }
            pool.idle += 1;
            let timed_out = self.arrived.wait_for(&mut pool, IDLE).timed_out();
            pool.idle -= 1;
            if timed_out && pool.jobs.is_empty() {
                return;
            }
        }
    }
}
