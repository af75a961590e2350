//! What happens in a pool, told to whoever wants to know: one closed set of events, for displays, reports, traces, metrics.
//!
//! Telling never waits. A consumer that does not keep up loses events, and is told how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sandgate_wire::outcome::WorkerLoss;

use super::result::OutcomeKind;

/// One thing that happened. Tasks are named by their number within the pool, gateways by their position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolEvent {
    /// The pool was made.
    PoolStarted {
        /// How many gateways it has.
        gateways: usize,
    },
    /// The pool ends: nothing more comes.
    PoolFinished,
    /// The pool was given a task.
    TaskQueued {
        /// The task.
        task: u64,
    },
    /// A task was given to a gateway.
    TaskStarted {
        /// The task.
        task: u64,
        /// The gateway.
        gateway: usize,
        /// 1 for the first time.
        attempt: u32,
    },
    /// A task that was given to a gateway is taken back before it has begun, and will be given to another one, or later.
    TaskTakenBack {
        /// The task.
        task: u64,
        /// The gateway.
        gateway: usize,
    },
    /// A run of a task has ended, and it will be run again.
    TaskRetried {
        /// The task.
        task: u64,
        /// The gateway of the run.
        gateway: usize,
        /// How that run ended.
        cause: OutcomeKind,
        /// How many attempts count so far.
        attempts: u32,
    },
    /// A task has its result.
    TaskFinished {
        /// The task.
        task: u64,
        /// The gateway of its last run, if that counts.
        gateway: Option<usize>,
        /// How it ended.
        outcome: OutcomeKind,
        /// How many attempts were made.
        attempts: u32,
        /// How long its last run took.
        duration: Duration,
    },
    /// A gateway is being started for the first time.
    GatewayStarting {
        /// Its position.
        gateway: usize,
        /// Its id. Those of one machine have that of the first, with a number behind it: `big`, `big.1`.
        id: Arc<str>,
    },
    /// A gateway is there for the first time.
    GatewayStarted {
        /// Its position.
        gateway: usize,
        /// Its id.
        id: Arc<str>,
        /// Its worker's process id.
        pid: Option<u32>,
    },
    /// A gateway has left the pool, for its machine was taken away: see [`Machines`](super::Machines).
    GatewayLeft {
        /// Its position, which no other one ever has.
        gateway: usize,
    },
    /// A gateway's worker is gone, though nobody asked it to go.
    GatewayLost {
        /// Its position.
        gateway: usize,
        /// What is known about it.
        loss: Box<WorkerLoss>,
    },
    /// A gateway has another worker in place of one that was lost.
    GatewayReplaced {
        /// Its position.
        gateway: usize,
        /// The new worker's process id.
        pid: Option<u32>,
        /// How many workers it has had, this one included.
        workers: u64,
    },
    /// A gateway has another worker in place of one that had served its time.
    GatewayRecycled {
        /// Its position.
        gateway: usize,
        /// The new worker's process id.
        pid: Option<u32>,
    },
    /// A gateway could not be started.
    GatewayFailed {
        /// Its position.
        gateway: usize,
        /// Why.
        error: String,
        /// When that is tried again.
        again_in: Duration,
    },
}

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedEvent {
    /// Time since the pool was made. Never decreases from one event to the next.
    pub at: Duration,
    /// What happened.
    pub event: PoolEvent,
}

/// Where a pool's events go: into a queue with a bound.
///
/// ```
/// use sandgate::EventSink;
///
/// let (sink, events) = EventSink::bounded(10_000);
/// // Pool::builder(&module).events(sink)
/// drop(sink);
/// assert_eq!(events.recv(), None, "nobody is left to tell of anything");
/// assert_eq!(events.dropped(), 0);
/// ```
#[derive(Debug, Clone)]
pub struct EventSink {
    sender: Sender<TimedEvent>,
    dropped: Arc<AtomicU64>,
}

/// Where a pool's events come from. Clones take from the same queue.
#[derive(Debug, Clone)]
pub struct EventStream {
    receiver: Receiver<TimedEvent>,
    dropped: Arc<AtomicU64>,
}

impl EventSink {
    /// A sink that keeps up to `capacity` events that nobody has taken, and drops what comes then.
    pub fn bounded(capacity: usize) -> (EventSink, EventStream) {
        let (sender, receiver) = bounded(capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        (EventSink { sender, dropped: Arc::clone(&dropped) }, EventStream { receiver, dropped })
    }

    /// Tells of an event, as a pool does; for whoever tries a consumer out without one. Never blocks: what does not fit is
    /// dropped, and counted.
    pub fn tell(&self, event: TimedEvent) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl EventStream {
    /// The next event. Blocks until there is one; `None` once the pool is gone and all were taken.
    pub fn recv(&self) -> Option<TimedEvent> {
        self.receiver.recv().ok()
    }

    /// The next event, if one comes within `timeout`. `Err` once the pool is gone and all were taken.
    ///
    /// # Errors
    /// [`EventsEnded`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<TimedEvent>, EventsEnded> {
        match self.receiver.recv_timeout(timeout) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(EventsEnded),
        }
    }

    /// The events that are there now.
    pub fn drain(&self) -> impl Iterator<Item = TimedEvent> + '_ {
        self.receiver.try_iter()
    }

    /// How many events were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Iterator for EventStream {
    type Item = TimedEvent;

    /// [`recv`](EventStream::recv).
    fn next(&mut self) -> Option<TimedEvent> {
        self.recv()
    }
}

/// The pool is gone, and all of its events were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pool has ended, and all of its events were taken")]
pub struct EventsEnded;
