//! Working: taking tasks, running them in pools, storing results. This file is what users call; [`crew`] decides.
//!
//! ```text
//!  stream ─► pull requests, as many tasks as there is room for ─► crew ─► pool ─► result ─► stored? ─► task acknowledged
//!                                                                  │                           └ no: again
//!                                                                  └► every third of the ack wait: still at it
//! ```

mod crew;
mod flight;
mod pools;
mod report;
mod serving;
mod shares;
mod storing;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use self::crew::Crew;
use super::error::DurableError;
use super::pull::told;
use super::queue::Queue;
use crate::module::Module;
use crate::pool::PoolBuilder;

/// What a pool is made from, for a module, or why this worker has none for it.
type Maker = Arc<dyn Fn(&Module) -> Result<PoolBuilder, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// Deliveries of a task after which it is given up, unless settings say otherwise.
const DEFAULT_MAX_DELIVERIES: u32 = 10;
/// How long tasks under way may take once the worker is to stop, unless settings say otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(25);
/// The largest module, unless settings say otherwise.
const DEFAULT_MAX_MODULE_BYTES: u64 = 256 << 20;

/// How a worker works.
#[derive(Clone)]
pub struct WorkerSettings {
    maker: Maker,
    lanes: usize,
    name: String,
    in_flight: Option<usize>,
    ack_wait: Option<Duration>,
    max_pending: Option<usize>,
    max_deliveries: u32,
    max_timeout: Option<Duration>,
    max_module_bytes: u64,
    grace: Duration,
    idle: Option<Duration>,
    stopper: Stopper,
}

impl WorkerSettings {
    /// A worker whose pools are made by `maker`, with so many gateways each. It has pools for up to four kinds of jobs, and no
    /// more tasks in all of them than one has gateways; a kind that is alone has more ahead. What is run of a module, with which arguments and
    /// for how long, is the job's; sandbox, machines and limits are the maker's. It is called on a thread of its own, and may
    /// block; the tasks of a module that it has nothing for are given up.
    pub fn new(
        gateways: usize,
        maker: impl Fn(&Module) -> Result<PoolBuilder, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    ) -> WorkerSettings {
        WorkerSettings {
            maker: Arc::new(maker),
            lanes: gateways.max(1),
            name: "worker".to_owned(),
            in_flight: None,
            ack_wait: None,
            max_pending: None,
            max_deliveries: DEFAULT_MAX_DELIVERIES,
            max_timeout: None,
            max_module_bytes: DEFAULT_MAX_MODULE_BYTES,
            grace: DEFAULT_GRACE,
            idle: None,
            stopper: Stopper::default(),
        }
    }

    /// What results call this worker.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> WorkerSettings {
        self.name = name.into();
        self
    }

    /// Most tasks that it has at once. Default: what keeps its gateways busy for a tenth of a second, from 2 to 64 for each.
    #[must_use]
    pub fn in_flight(mut self, tasks: usize) -> WorkerSettings {
        self.in_flight = Some(tasks.max(1));
        self
    }

    /// How long a task may go without a sign of life before it is given to another worker; at least 1 second. It is a
    /// setting of the queue, that all workers share and the last one to set it has set. Default: as it is, 30 s at first.
    #[must_use]
    pub fn ack_wait(mut self, wait: Duration) -> WorkerSettings {
        self.ack_wait = Some(wait.max(Duration::from_secs(1)));
        self
    }

    /// Most tasks that all workers together have at once; shared as [`ack_wait`](Self::ack_wait) is. Default: as it is,
    /// 65,536 at first.
    #[must_use]
    pub fn max_pending(mut self, tasks: usize) -> WorkerSettings {
        self.max_pending = Some(tasks.max(1));
        self
    }

    /// How often a task is given out before it is given up. Default: 10.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> WorkerSettings {
        self.max_deliveries = deliveries.max(1);
        self
    }

    /// The most time that a job may give each task. Default: as the job has it.
    #[must_use]
    pub fn max_timeout(mut self, timeout: Duration) -> WorkerSettings {
        self.max_timeout = Some(timeout);
        self
    }

    /// The largest module that is taken. Default: 256 MiB.
    #[must_use]
    pub fn max_module_bytes(mut self, bytes: u64) -> WorkerSettings {
        self.max_module_bytes = bytes;
        self
    }

    /// How long the worker may take to stop. What is under way has this time but for its last quarter, at most 2 s, in which
    /// the rest is given back. Default: 25 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> WorkerSettings {
        self.grace = grace;
        self
    }

    /// Stop when there was nothing to do for so long. Default: go on for ever.
    #[must_use]
    pub fn stop_when_idle(mut self, idle: Duration) -> WorkerSettings {
        self.idle = Some(idle);
        self
    }

    /// What stops it, also while [`Queue::work`] still waits for the server. Default: one of its own.
    #[must_use]
    pub fn stopper(mut self, stopper: &Stopper) -> WorkerSettings {
        self.stopper = stopper.clone();
        self
    }
}

impl fmt::Debug for WorkerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<WorkerSettings {} of {} gateways>", self.name, self.lanes)
    }
}

/// What a worker has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Worked {
    /// Tasks whose result is stored, whatever it is.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those of them that were given up and are dead letters.
    pub dead: u64,
    /// Tasks that were given back, for others to do.
    pub returned: u64,
    /// Tasks that are neither done nor given back, since the server did not answer in time: it gives them to others once they
    /// have gone without a sign of life for the ack wait.
    pub kept: u64,
    /// Messages that were no tasks, and are dead letters.
    pub garbage: u64,
}

/// A worker at work. Dropping it does not stop it; dropping the queue does, and what it had is given to others later.
#[derive(Debug)]
pub struct Worker<'a> {
    queue: &'a Queue,
    stopper: Stopper,
    outcome: oneshot::Receiver<Result<Worked, CannotGoOn>>,
}

/// A worker that could not go on: what it had done by then, and what became of the rest.
#[derive(Debug, thiserror::Error)]
#[error("worker cannot go on")]
#[non_exhaustive]
pub struct CannotGoOn {
    /// Of the tasks that it had, `returned` were given back, and `kept` could not be.
    pub worked: Worked,
    /// Why.
    pub source: DurableError,
}

/// Stops a worker from anywhere. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    /// No more tasks are taken; what is under way has the settings' grace. Does not block.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Queue {
    /// Starts to work. Blocks until the queue is there, or the worker is stopped, which then has done nothing.
    ///
    /// # Errors
    /// What the server says.
    pub fn work(&self, settings: WorkerSettings) -> Result<Worker<'_>, DurableError> {
        let (nats, stopper) = (self.nats.clone(), settings.stopper.clone());
        let (stopped, mut early) = (stopper.0.subscribe(), stopper.0.subscribe());
        let crew = self.wait(async move {
            tokio::select! {
                biased;
                () = told(&mut early) => Ok(None),
                crew = Crew::form(nats, settings, stopped) => crew.map(Some),
            }
        })?;
        let (sender, outcome) = oneshot::channel();
        self.link.start_task(async move {
            let worked = match crew {
                Some(crew) => crew.run().await,
                None => Ok(Worked::default()),
            };
            let _ = sender.send(worked);
        });
        Ok(Worker { queue: self, stopper, outcome })
    }
}

impl Worker<'_> {
    /// What can stop it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Blocks until it has stopped: it was told to, was idle for long enough, or cannot go on.
    ///
    /// # Errors
    /// Why it cannot go on. What it had was given back within 2 seconds, but for what it counts as kept.
    pub fn wait(self) -> Result<Worked, CannotGoOn> {
        let Worker { queue, stopper, outcome } = self;
        let closed = || CannotGoOn { worked: Worked::default(), source: DurableError::Closed };
        let worked = queue.link.wait(async move { outcome.await.unwrap_or_else(|_| Err(closed())) });
        drop(stopper);
        worked.unwrap_or_else(|| Err(closed()))
    }
}
