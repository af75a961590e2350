//! The pools of a worker, each for one module and what is run of it: a *kind* of job. A few are kept. Which task is next is
//! decided in [`shares`](super::shares); what goes on in a pool's thread is in [`serving`](super::serving).
//!
//! ```text
//!  task ─► its kind has a pool: waits there ──────────────► its turn ─► in the pool ─► finished
//!       └► has none: waits with its kind, first come ─► a place: free, of an idle pool, or of one that had its time
//! ```
//!
//! A pool whose place is wanted gets no more tasks; what still waits there gets in line again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::flight::{Entry, Flight, Key};
use super::report::Fate;
use super::serving::Serving;
use super::shares::{self, Load, Mean};
use super::{Maker, WorkerSettings};
use crate::durable::error::DurableError;
use crate::durable::job::Job;
use crate::durable::message::Input;
use crate::durable::modules;
use crate::durable::nats::Nats;
use crate::pool::{CancelToken, TaskFeed};

/// Most pools at once.
const MAX_POOLS: usize = 4;
/// How long a pool without tasks is kept.
const KEPT: Duration = Duration::from_secs(120);
/// How long a kind has its pool for certain while others wait for one.
const TIME: Duration = Duration::from_secs(1);

/// What pools tell the crew.
#[derive(Debug)]
pub(super) enum PoolNote {
    Built { pool: u64, built: Result<Ends, Trouble> },
    Finished { pool: u64, index: u64, fate: Fate, took: Duration },
}

/// What the crew has of a pool.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) feed: TaskFeed,
    pub(super) token: CancelToken,
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
struct Kept {
    id: u64,
    job: Arc<Job>,
    /// None while it is made.
    ends: Option<Ends>,
    /// Tasks that wait for their turn.
    queue: VecDeque<Key>,
    /// Tasks in it, by their index there.
    inside: HashMap<u64, Key>,
    mean: Mean,
    turn: u64,
    since: Instant,
    idle_since: Instant,
    /// Its place is for another kind.
    is_closing: bool,
}

pub(super) struct Pools {
    nats: Nats,
    maker: Maker,
    worker: String,
    max_timeout: Option<Duration>,
    max_module_bytes: u64,
    notes: mpsc::UnboundedSender<PoolNote>,
    /// Tasks that run at once.
    lanes: usize,
    kept: Vec<Kept>,
    /// Kinds that have no pool, in line for one.
    line: VecDeque<(Arc<Job>, VecDeque<Key>)>,
    next: u64,
    turns: u64,
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
            lanes: settings.lanes,
            kept: Vec::new(),
            line: VecDeque::new(),
            next: 0,
            turns: 0,
        }
    }

    /// A task of this kind waits for its turn.
    pub(super) fn add(&mut self, job: &Arc<Job>, key: Key) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.job == *job) {
            return kept.queue.push_back(key);
        }
        match self.line.iter_mut().find(|(kind, _)| kind == job) {
            Some((_, queue)) => queue.push_back(key),
            None => self.line.push_back((Arc::clone(job), VecDeque::from([key]))),
        }
    }

    /// Gives the pools as many tasks as are to run.
    pub(super) fn dispatch(&mut self, flight: &mut Flight) {
        self.make_places();
        while let Some(at) = shares::next(self.kept.iter().map(Kept::load), self.lanes) {
            let kept = &mut self.kept[at];
            self.turns += 1;
            kept.turn = self.turns;
            let (Some(key), Some(ends)) = (kept.queue.pop_front(), &mut kept.ends) else { break };
            // One that was given back meanwhile is not there any more.
            if let Some(input) = flight.get_mut(&key).and_then(Entry::take_input) {
                kept.inside.insert(push(&mut ends.feed, &kept.job, input), key);
            }
        }
        for ends in self.kept.iter_mut().filter_map(|kept| kept.ends.as_mut()) {
            ends.feed.flush();
        }
    }

    /// Sees to it that who is first in line gets a pool.
    fn make_places(&mut self) {
        while !self.line.is_empty() {
            if self.kept.len() < MAX_POOLS {
                if let Some((job, queue)) = self.line.pop_front() {
                    self.open(job, queue);
                }
                continue;
            }
            let idle = (0..self.kept.len()).filter(|at| self.kept[*at].is_idle());
            if let Some(at) = idle.min_by_key(|at| self.kept[*at].idle_since) {
                self.kept.swap_remove(at);
                continue;
            }
            if let Some(at) = self.kept.iter().position(|kept| kept.is_closing && kept.inside.is_empty()) {
                let kept = self.kept.swap_remove(at);
                self.line.push_back((kept.job, kept.queue));
                continue;
            }
            if self.kept.iter().any(|kept| kept.is_closing) {
                return;
            }
            let longest = self.kept.iter_mut().filter(|kept| kept.ends.is_some()).min_by_key(|kept| kept.since);
            match longest.filter(|kept| kept.since.elapsed() >= TIME) {
                Some(kept) => kept.is_closing = true,
                None => return,
            }
        }
    }

    /// When to look again, if nothing happens.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let closes =
            self.kept.iter().filter(|kept| !kept.is_closing).map(|kept| TIME.saturating_sub(kept.since.elapsed()));
        let by_line = if self.line.is_empty() { None } else { closes.min() };
        let by_pools = (!self.kept.is_empty()).then_some(KEPT / 4);
        [by_line, by_pools].into_iter().flatten().min()
    }

    /// A pool is there. Or it is not: its tasks, and why.
    pub(super) fn built(&mut self, pool: u64, built: Result<Ends, Trouble>) -> Option<(VecDeque<Key>, Trouble)> {
        let at = self.kept.iter().position(|kept| kept.id == pool)?;
        match built {
            Ok(ends) => {
                (self.kept[at].ends, self.kept[at].since) = (Some(ends), Instant::now());
                None
            }
            Err(trouble) => Some((self.kept.swap_remove(at).queue, trouble)),
        }
    }

    /// The task that a pool has a result of.
    pub(super) fn finished(&mut self, pool: u64, index: u64, took: Duration) -> Option<Key> {
        let kept = self.kept.iter_mut().find(|kept| kept.id == pool)?;
        kept.idle_since = Instant::now();
        kept.mean.took(took);
        kept.inside.remove(&index)
    }

    /// Gateways of the pool that has the most, as machines come and go; if there is a pool.
    pub(super) fn count_lanes(&mut self) -> Option<usize> {
        let lanes = self.kept.iter().filter_map(|kept| kept.ends.as_ref()).map(|ends| ends.feed.gateways()).max()?;
        self.lanes = lanes.max(1);
        Some(lanes)
    }

    /// Cancels whatever runs.
    pub(super) fn cancel(&self) {
        self.kept.iter().filter_map(|kept| kept.ends.as_ref()).for_each(|ends| ends.token.cancel());
    }

    /// Drops pools that nobody has needed for long.
    pub(super) fn drop_idle(&mut self) {
        self.kept.retain(|kept| !kept.is_idle() || kept.idle_since.elapsed() < KEPT);
    }

    /// Gets the module, and starts the thread that has the pool.
    fn open(&mut self, job: Arc<Job>, queue: VecDeque<Key>) {
        let (id, now) = (self.next, Instant::now());
        self.next += 1;
        let (nats, max_module_bytes, notes) = (self.nats.clone(), self.max_module_bytes, self.notes.clone());
        let serving = Serving {
            id,
            job: Arc::clone(&job),
            maker: Arc::clone(&self.maker),
            max_timeout: self.max_timeout,
            worker: self.worker.clone(),
            notes: self.notes.clone(),
        };
        self.kept.push(Kept {
            id,
            job: Arc::clone(&job),
            ends: None,
            queue,
            inside: HashMap::new(),
            mean: Mean::default(),
            turn: 0,
            since: now,
            idle_since: now,
            is_closing: false,
        });
        tokio::spawn(async move {
            let trouble = match modules::get(&nats, job.module, &job.module_name, max_module_bytes).await {
                Ok(module) => match serving.start(module) {
                    Ok(()) => return,
                    Err(error) => Trouble::Worker(error.to_string()),
                },
                Err(
                    error @ (DurableError::NoModule { .. }
                    | DurableError::OtherModule { .. }
                    | DurableError::LargeModule { .. }),
                ) => Trouble::Job { text: error.to_string(), is_dead: true },
                Err(error) => Trouble::Server(error),
            };
            let _ = notes.send(PoolNote::Built { pool: id, built: Err(trouble) });
        });
    }
}

impl Kept {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.inside.is_empty() && self.ends.is_some()
    }

    fn load(&self) -> Load {
        Load {
            waits: self.ends.is_some() && !self.is_closing && !self.queue.is_empty(),
            inside: self.inside.len(),
            ahead: self.mean.ahead(),
            turn: self.turn,
        }
    }
}

fn push(feed: &mut TaskFeed, job: &Job, input: Input) -> u64 {
    match input.argv.filter(|_| job.task.is_none()) {
        Some(argv) => feed.push_with_argv(input.bytes, argv),
        None => feed.push(input.bytes),
    }
}
