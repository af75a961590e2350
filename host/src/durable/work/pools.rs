//! The pools of a worker, each for one module and what is run of it. A few are kept; the one that was idle longest makes room.
//!
//! A pool has a thread here, which makes it, hands on its results, and drops it once no more can come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::flight::Key;
use super::report::{self, Fate};
use super::{Maker, WorkerSettings};
use crate::durable::error::DurableError;
use crate::durable::job::Job;
use crate::durable::message::Input;
use crate::durable::modules;
use crate::durable::nats::Nats;
use crate::error::ExecError;
use crate::module::Module;
use crate::pool::{CancelToken, Pool, PoolError, RetryOn, TaskFeed, TaskResult, TaskResults};

/// Most pools at once.
const MAX_POOLS: usize = 4;
/// How long a pool without tasks is kept.
const KEPT: Duration = Duration::from_secs(120);
/// Most retries that a job may ask for.
const MAX_RETRIES: u32 = 100;
/// Looked at no more often than this for the end of a pool that nothing happens in.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What pools tell the crew.
#[derive(Debug)]
pub(super) enum PoolNote {
    Built { pool: u64, built: Result<Ends, Trouble> },
    Finished { pool: u64, index: u64, fate: Fate, took: Duration },
}

/// What the crew has of a pool.
#[derive(Debug)]
pub(super) struct Ends {
    feed: TaskFeed,
    token: CancelToken,
}

/// Why there is no pool.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is the job's: every task of it has this result. If the module is not to be had, it may be for another worker.
    Job {
        text: String,
        is_dead: bool,
    },
    /// It is the worker's.
    Worker(String),
    Server(DurableError),
}

#[derive(Debug)]
enum State {
    /// Tasks wait for it.
    Making(Vec<Key>),
    Ready(Ends),
}

#[derive(Debug)]
struct Kept {
    id: u64,
    state: State,
    /// Tasks in it, by their index there.
    tasks: HashMap<u64, Key>,
    idle_since: Instant,
}

pub(super) struct Pools {
    nats: Nats,
    maker: Maker,
    worker: String,
    max_timeout: Option<Duration>,
    max_module_bytes: u64,
    notes: mpsc::UnboundedSender<PoolNote>,
    kept: HashMap<Arc<Job>, Kept>,
    next: u64,
}

impl Pools {
    pub(super) fn new(nats: Nats, settings: &WorkerSettings, notes: mpsc::UnboundedSender<PoolNote>) -> Pools {
        Pools {
            nats,
            maker: Arc::clone(&settings.maker),
            worker: settings.name.clone(),
            max_timeout: settings.max_timeout,
            max_module_bytes: settings.max_module_bytes,
            notes,
            kept: HashMap::new(),
            next: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Gives a task to its pool, or notes that it waits for it. `false` if there is no room for one more pool.
    pub(super) fn give(&mut self, job: &Arc<Job>, key: &Key, input: &mut Option<Input>) -> bool {
        if let Some(kept) = self.kept.get_mut(job) {
            match &mut kept.state {
                State::Making(waiting) => waiting.push(key.clone()),
                State::Ready(ends) => {
                    if let Some(input) = input.take() {
                        kept.tasks.insert(push(&mut ends.feed, job, input), key.clone());
                    }
                }
            }
            return true;
        }
        if self.kept.len() >= MAX_POOLS && !self.drop_longest_idle() {
            return false;
        }
        let id = self.next;
        self.next += 1;
        self.make(id, Arc::clone(job));
        let state = State::Making(vec![key.clone()]);
        self.kept.insert(Arc::clone(job), Kept { id, state, tasks: HashMap::new(), idle_since: Instant::now() });
        true
    }

    /// A pool is there: gives the tasks that have waited for it. Or it is not: those have no pool any more.
    pub(super) fn built(
        &mut self,
        pool: u64,
        built: Result<Ends, Trouble>,
    ) -> Option<(Arc<Job>, Vec<Key>, Option<Trouble>)> {
        let (job, kept) = self.kept.iter_mut().find(|(_, kept)| kept.id == pool)?;
        let job = Arc::clone(job);
        let (state, trouble) = match built {
            Ok(ends) => (State::Ready(ends), None),
            Err(trouble) => (State::Making(Vec::new()), Some(trouble)),
        };
        let before = std::mem::replace(&mut kept.state, state);
        if trouble.is_some() {
            self.kept.remove(&job);
        }
        let waiting = match before {
            State::Making(waiting) => waiting,
            State::Ready(_) => Vec::new(),
        };
        Some((job, waiting, trouble))
    }

    /// The task that a pool has a result of.
    pub(super) fn finished(&mut self, pool: u64, index: u64) -> Option<Key> {
        let kept = self.kept.values_mut().find(|kept| kept.id == pool)?;
        kept.idle_since = Instant::now();
        kept.tasks.remove(&index)
    }

    /// Hands over to the pools what was gathered for them.
    pub(super) fn flush(&mut self) {
        for kept in self.kept.values_mut() {
            if let State::Ready(ends) = &mut kept.state {
                ends.feed.flush();
            }
        }
    }

    /// Gateways of the pool that has the most, as machines come and go; if there is a pool.
    pub(super) fn lanes(&self) -> Option<usize> {
        let lanes = self.kept.values().filter_map(|kept| match &kept.state {
            State::Ready(ends) => Some(ends.feed.gateways()),
            State::Making(_) => None,
        });
        lanes.max()
    }

    /// Cancels whatever runs.
    pub(super) fn cancel(&self) {
        for kept in self.kept.values() {
            if let State::Ready(ends) = &kept.state {
                ends.token.cancel();
            }
        }
    }

    /// Drops pools that nobody has needed for long.
    pub(super) fn drop_idle(&mut self) {
        self.kept.retain(|_, kept| !kept.is_idle() || kept.idle_since.elapsed() < KEPT);
    }

    fn drop_longest_idle(&mut self) -> bool {
        let idle = self.kept.iter().filter(|(_, kept)| kept.is_idle());
        let Some(job) = idle.min_by_key(|(_, kept)| kept.idle_since).map(|(job, _)| Arc::clone(job)) else {
            return false;
        };
        self.kept.remove(&job);
        true
    }

    /// Gets the module, and starts the thread that has the pool.
    fn make(&self, id: u64, job: Arc<Job>) {
        let (nats, maker, notes) = (self.nats.clone(), Arc::clone(&self.maker), self.notes.clone());
        let (worker, max_timeout, max_module_bytes) = (self.worker.clone(), self.max_timeout, self.max_module_bytes);
        tokio::spawn(async move {
            let module = match modules::get(&nats, job.module, &job.module_name, max_module_bytes).await {
                Ok(module) => module,
                Err(error) => {
                    let trouble = match &error {
                        DurableError::NoModule { .. }
                        | DurableError::OtherModule { .. }
                        | DurableError::LargeModule { .. } => Trouble::Job { text: error.to_string(), is_dead: true },
                        _ => Trouble::Server(error),
                    };
                    return drop(notes.send(PoolNote::Built { pool: id, built: Err(trouble) }));
                }
            };
            let refused = notes.clone();
            let body = move || serve(id, &job, &module, &maker, max_timeout, &worker, &notes);
            if let Err(error) = std::thread::Builder::new().name("sandgate-work".to_owned()).spawn(body) {
                let built = Err(Trouble::Worker(error.to_string()));
                let _ = refused.send(PoolNote::Built { pool: id, built });
            }
        });
    }
}

impl Kept {
    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && matches!(self.state, State::Ready(_))
    }
}

fn push(feed: &mut TaskFeed, job: &Job, input: Input) -> u64 {
    match input.argv.filter(|_| job.task.is_none()) {
        Some(argv) => feed.push_with_argv(input.bytes, argv),
        None => feed.push(input.bytes),
    }
}

/// Makes a pool and hands on its results.
fn serve(
    id: u64,
    job: &Job,
    module: &Module,
    maker: &Maker,
    max_timeout: Option<Duration>,
    worker: &str,
    notes: &mpsc::UnboundedSender<PoolNote>,
) {
    let made = match maker(module) {
        Ok(builder) => builder,
        Err(error) => {
            let built = Err(Trouble::Job { text: report::told(&*error), is_dead: true });
            return drop(notes.send(PoolNote::Built { pool: id, built }));
        }
    };
    let mut builder = made.retries(job.retries.min(MAX_RETRIES), RetryOn::any_failure());
    let timeout = match (job.timeout, max_timeout) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
    if let Some(timeout) = timeout {
        builder = builder.deadline(timeout);
    }
    builder = match &job.task {
        Some(task) => builder.task(task),
        None => builder.argv(&job.argv).program(),
    };
    let pool = match builder.build() {
        Ok(pool) => pool,
        Err(error) => return drop(notes.send(PoolNote::Built { pool: id, built: Err(trouble_of(&error)) })),
    };
    match &job.task {
        None => {
            let (feed, results) = pool.stream_programs();
            hand_on(id, &pool, feed, &results, notes, |result| report::of_program(result, worker));
        }
        Some(_) => {
            let (feed, results) = pool.stream_encoded();
            hand_on(id, &pool, feed, &results, notes, |result| report::of_task(result, worker));
        }
    }
}

fn hand_on<T>(
    id: u64,
    pool: &Pool,
    feed: TaskFeed,
    results: &TaskResults<T>,
    notes: &mpsc::UnboundedSender<PoolNote>,
    report: impl Fn(TaskResult<T>) -> Fate,
) {
    let ends = Ends { feed, token: pool.cancel_token() };
    if notes.send(PoolNote::Built { pool: id, built: Ok(ends) }).is_err() {
        return;
    }
    while let Ok(result) = results.recv_timeout(LOOK_EVERY) {
        let Some(result) = result else { continue };
        let (index, took) = (result.index, result.timing.run_time());
        if notes.send(PoolNote::Finished { pool: id, index, fate: report(result), took }).is_err() {
            return;
        }
    }
}

/// Whether it is the module that is no good, or this machine.
fn trouble_of(error: &PoolError) -> Trouble {
    let text = report::told(error);
    match error {
        PoolError::Module(
            ExecError::Rejected { .. }
            | ExecError::Compile { .. }
            | ExecError::Mismatch { .. }
            | ExecError::LimitTooHigh { .. },
        ) => Trouble::Job { text, is_dead: false },
        _ => Trouble::Worker(text),
    }
}
