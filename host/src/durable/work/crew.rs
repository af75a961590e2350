//! The worker itself: one loop that takes notes from requests, pools and the connection, and decides what is next.
//!
//! 1. A message arrives. It is a task: its job is looked up, and it waits for its turn in the job's pool. It is none: dead letter.
//! 2. A pool has a result: it is stored, then the task is acknowledged, then there is room for another.
//! 3. There is room: a request for as many tasks. Requests under way count as tasks, so that never more come than fit.
//! 4. Time passes: the server is told of tasks that go on.
//! 5. Stop: see [`ending`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, AckKind};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use self::looking::Looks;
use super::flight::{Capacity, Entry, Flight, Key, Stage};
use super::pools::{PoolNote, Pools, Trouble};
use super::report::Fate;
use super::storing::{self, Letter};
use super::{CannotGoOn, Worked, WorkerSettings};
use crate::durable::connect::Standing;
use crate::durable::error::{Cause, DurableError};
use crate::durable::job::{Job, Record};
use crate::durable::message::{self, Ending, JobResult};
use crate::durable::name::{CONSUMER, JobId};
use crate::durable::nats::Nats;
use crate::durable::pull::{self, Arrival, End};
use crate::durable::setup::{self, Wanted};
use crate::pool::OutcomeKind;

mod ending;
mod looking;

/// Requests for tasks at once, and tasks in each: one that is withdrawn costs a message for each that it may still bring.
const MAX_REQUESTS: usize = 4;
const MAX_REQUESTED: usize = 1024;
/// Bytes of tasks in one request, if none is larger.
const REQUEST_BYTES: usize = 16 << 20;
/// How long an acknowledgement may take to be sent.
const SENDING: Duration = Duration::from_secs(5);
/// How long a job's record is believed; jobs whose records are kept.
const RECORD_KEPT: Duration = Duration::from_secs(60);
/// How old a record may be that says that a task is of another job of the same id.
const RECORD_FRESH: Duration = Duration::from_millis(500);
const MAX_RECORDS: usize = 1024;

/// Something that was sent, and for which task.
type Sending = BoxFuture<'static, Sent>;

#[derive(Debug)]
enum Sent {
    /// A result is stored and its task acknowledged.
    Result { key: Key, stored: Result<(), DurableError>, failed: bool, dead: bool },
    /// A message that is no task is a dead letter.
    Garbage(Result<(), DurableError>),
    /// A delivery of a task is given back, if the server has said so.
    Back { key: Key, message: Arc<jetstream::Message>, confirmed: bool },
    /// The server was told of a task that goes on.
    Progress,
    /// A job's record was looked up.
    Record { job: JobId, found: Result<Option<(Job, u64)>, DurableError> },
    /// The consumer is there again.
    Ready(Result<Duration, DurableError>),
    /// The server was made to forget requests that were withdrawn.
    Forgotten,
    /// The consumer was looked at, and perhaps made anew.
    Looked { is_renewed: bool },
}

/// What is known of a job.
enum Known {
    /// Tasks wait for its record.
    Asked(Vec<Key>),
    Is(Arc<Job>, u64, Instant),
}

pub(super) struct Crew {
    nats: Nats,
    settings: WorkerSettings,
    stop: watch::Receiver<bool>,
    /// Withdraws requests.
    halt: watch::Sender<bool>,
    is_ending: bool,
    /// The server has forgotten requests that were withdrawn.
    are_forgotten: bool,
    ack_wait: Duration,
    capacity: Capacity,
    flight: Flight,
    pools: Pools,
    jobs: HashMap<JobId, Known>,
    /// What becomes of tasks: waited for at the end.
    sending: FuturesUnordered<Sending>,
    /// What only matters while there is more to do.
    asking: FuturesUnordered<Sending>,
    arrivals: (mpsc::UnboundedSender<Arrival>, mpsc::UnboundedReceiver<Arrival>),
    pool_notes: mpsc::UnboundedReceiver<PoolNote>,
    /// Tasks that requests under way may still bring, and those requests.
    requested: usize,
    requests: usize,
    /// Whether the consumer is there, as far as is known.
    is_ready: bool,
    /// When to see whether it does what it is there for.
    looks: Looks,
    /// When a last task came or went.
    busy: Instant,
    worked: Worked,
    fatal: Option<DurableError>,
}

impl Crew {
    /// Makes what has to be there.
    pub(super) async fn form(
        nats: Nats,
        settings: WorkerSettings,
        stop: watch::Receiver<bool>,
    ) -> Result<Crew, DurableError> {
        setup::streams(&nats).await?;
        let ack_wait = setup::consumer(&nats, wanted(&settings)).await?;
        let (sender, pool_notes) = mpsc::unbounded_channel();
        Ok(Crew {
            stop,
            halt: watch::channel(false).0,
            is_ending: false,
            are_forgotten: false,
            ack_wait,
            capacity: Capacity::new(settings.lanes, settings.in_flight),
            flight: Flight::default(),
            pools: Pools::new(nats.clone(), &settings, sender),
            jobs: HashMap::new(),
            sending: FuturesUnordered::new(),
            asking: FuturesUnordered::new(),
            arrivals: mpsc::unbounded_channel(),
            pool_notes,
            requested: 0,
            requests: 0,
            is_ready: true,
            looks: Looks::new(),
            busy: Instant::now(),
            worked: Worked::default(),
            fatal: None,
            nats,
            settings,
        })
    }

    pub(super) async fn run(mut self) -> Result<Worked, CannotGoOn> {
        let mut stop = self.stop.clone();
        let mut standing = self.nats.standing.clone();
        loop {
            self.request();
            let look = self.next_look().min(self.look());
            tokio::select! {
                () = self.go_on(&mut standing, look) => {}
                () = pull::told(&mut stop) => break,
            }
            if self.fatal.is_some()
                || self.settings.idle.is_some_and(|idle| self.is_idle() && self.busy.elapsed() >= idle)
            {
                break;
            }
        }
        self.end().await
    }

    /// Waits for what comes next, or until `wait` is over or the connection is another one, and does what follows.
    async fn go_on(&mut self, standing: &mut watch::Receiver<Standing>, wait: Duration) {
        tokio::select! {
            Some(arrival) = self.arrivals.1.recv() => self.arrived(arrival),
            Some(note) = self.pool_notes.recv() => self.noted(note),
            Some(sent) = self.sending.next(), if !self.sending.is_empty() => self.sent(sent),
            Some(sent) = self.asking.next(), if !self.asking.is_empty() => self.sent(sent),
            _ = standing.changed() => {}
            () = sleep(wait) => {}
        }
        self.take_more();
        self.look_after();
    }

    /// What else is there already, so that pools get tasks in batches.
    fn take_more(&mut self) {
        while let Ok(arrival) = self.arrivals.1.try_recv() {
            self.arrived(arrival);
        }
        while let Ok(note) = self.pool_notes.try_recv() {
            self.noted(note);
        }
        if !self.is_ending {
            self.pools.dispatch(&mut self.flight);
        }
    }

    fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.sending.is_empty()
    }

    /// Until the server has to hear of tasks again, or it is time to go.
    fn next_look(&self) -> Duration {
        let by_idle =
            self.settings.idle.filter(|_| self.is_idle()).map(|idle| idle.saturating_sub(self.busy.elapsed()));
        let by_tasks = (!self.flight.is_empty()).then(|| self.ack_wait / 6);
        [by_idle, by_tasks, self.pools.next_look()].into_iter().flatten().min().unwrap_or(Duration::from_secs(3600))
    }

    /// Asks for as many tasks as there is room for.
    fn request(&mut self) {
        let room = self.capacity.tasks().saturating_sub(self.flight.len() + self.requested);
        let is_worth_it = room >= (self.capacity.tasks() / 4).max(1) || (room > 0 && self.requests == 0);
        if !self.is_ready || !self.nats.standing.borrow().is_up || !is_worth_it || self.requests >= MAX_REQUESTS {
            return;
        }
        let room = room.min(MAX_REQUESTED);
        let request = pull::Request {
            stream: self.nats.names.tasks(),
            consumer: CONSUMER.to_owned(),
            messages: room,
            bytes: REQUEST_BYTES.max(2 * self.nats.max_payload()),
        };
        self.requested += room;
        self.requests += 1;
        tokio::spawn(pull::run(self.nats.clone(), request, self.arrivals.0.clone(), self.halt.subscribe()));
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Message(message) => {
                self.requested = self.requested.saturating_sub(1);
                self.busy = Instant::now();
                self.take(message);
            }
            Arrival::Ended { unused, why } => {
                self.requested = self.requested.saturating_sub(unused);
                self.requests = self.requests.saturating_sub(1);
                if why == End::Gone && self.is_ready && !self.is_ending {
                    self.is_ready = false;
                    let (nats, wanted) = (self.nats.clone(), wanted(&self.settings));
                    self.asking.push(Box::pin(async move {
                        sleep(pull::BETWEEN_LEADERS).await;
                        let made = match setup::streams(&nats).await {
                            Ok(()) => setup::consumer(&nats, wanted).await,
                            Err(error) => Err(error),
                        };
                        Sent::Ready(made)
                    }));
                }
            }
        }
    }

    /// A message of the stream of tasks.
    fn take(&mut self, message: Arc<jetstream::Message>) {
        // Whoever can publish to an inbox can put there what was never in a stream: nothing acknowledges it.
        let Ok(info) = message.info() else { return };
        let deliveries = u64::try_from(info.delivered).unwrap_or(1);
        let job = self.nats.names.job_of(&message.subject);
        let (key, input) = match (job, message::decode_task(&message.payload)) {
            (Some(job), Ok((run, index, input))) => (Key { job, run, index }, input),
            (job, decoded) => {
                let reason = decoded.err().map_or_else(|| "it belongs to no job".to_owned(), |error| error.to_string());
                let letter = Letter { job, key: None, reason, message };
                let nats = self.nats.clone();
                self.worked.garbage += 1;
                return self.sending.push(Box::pin(async move { Sent::Garbage(storing::bury(&nats, letter).await) }));
            }
        };
        let name = input.name.clone();
        let entry = Entry { message, stage: Stage::Waiting(input), name, heard: Instant::now() };
        if !self.flight.arrived(key.clone(), entry) {
            return;
        }
        // Given back once no request can bring it again at once.
        if self.is_ending {
            return;
        }
        if deliveries > u64::from(self.settings.max_deliveries) {
            let error = format!("it was given to workers {} times, and none of them had a result", deliveries - 1);
            let ending = Ending::Ran(OutcomeKind::WorkerLost);
            return self.store(&key, Fate::Dead(JobResult::failed(0, 0, None, ending, error)));
        }
        self.place(key);
    }

    /// Finds the pool of a task, or what it takes to have one.
    fn place(&mut self, key: Key) {
        match self.jobs.get_mut(&key.job) {
            Some(Known::Asked(waiting)) => return waiting.push(key),
            Some(Known::Is(_, run, since)) if *run != key.run && since.elapsed() < RECORD_FRESH => {
                let ending = Ending::Ran(OutcomeKind::Rejected);
                let result = JobResult::failed(0, 0, None, ending, "its job was forgotten".to_owned());
                return self.store(&key, Fate::Dead(result));
            }
            Some(Known::Is(job, run, since)) if *run == key.run && since.elapsed() < RECORD_KEPT => {
                return self.pools.add(job, key);
            }
            _ => {}
        }
        if self.jobs.len() >= MAX_RECORDS {
            self.jobs.retain(|_, known| matches!(known, Known::Asked(_)));
        }
        let (nats, job) = (self.nats.clone(), key.job.clone());
        self.jobs.insert(job.clone(), Known::Asked(vec![key]));
        self.asking.push(Box::pin(async move {
            let found = Record::read(&nats, &job).await.map(|found| found.map(|(record, _)| (record.job, record.run)));
            Sent::Record { job, found }
        }));
    }

    fn noted(&mut self, note: PoolNote) {
        self.note(note);
        if let Some(lanes) = self.pools.count_lanes() {
            self.capacity.lanes(lanes);
        }
    }

    fn note(&mut self, note: PoolNote) {
        match note {
            PoolNote::Finished { pool, index, fate, took } => {
                self.busy = Instant::now();
                self.capacity.took(took);
                if let Some(key) = self.pools.finished(pool, index, took) {
                    self.store(&key, fate);
                }
            }
            PoolNote::Built { pool, built } => match self.pools.built(pool, built) {
                None => {}
                Some((waiting, Trouble::Job { text, is_dead })) => {
                    for key in waiting {
                        let ending = Ending::Ran(OutcomeKind::Rejected);
                        let result = JobResult::failed(0, 0, None, ending, text.clone());
                        self.store(&key, if is_dead { Fate::Dead(result) } else { Fate::Result(result) });
                    }
                }
                Some((_, Trouble::Worker(text))) => self.fail(DurableError::Unable { source: Cause::text(&text) }),
                Some((_, Trouble::Server(error))) => self.fail(error),
            },
        }
    }

    /// A task has come to its end, one way or another.
    fn store(&mut self, key: &Key, fate: Fate) {
        let (mut result, is_dead) = match fate {
            Fate::Result(result) => (result, false),
            Fate::Dead(result) => (result, true),
            Fate::Returned => return self.leave(key),
            Fate::Unable(text) => {
                self.leave(key);
                return self.fail(DurableError::Unable { source: Cause::text(&text) });
            }
        };
        let Some(entry) = self.flight.get_mut(key) else { return };
        entry.stage = Stage::Storing;
        (result.run, result.index, result.name) = (key.run, key.index, entry.name.clone());
        let reason = result.error.clone().unwrap_or_default();
        let letter =
            Letter { job: Some(key.job.clone()), key: Some(key.clone()), reason, message: Arc::clone(&entry.message) };
        let (nats, key, failed) = (self.nats.clone(), key.clone(), !result.ending.is_success());
        self.sending.push(Box::pin(async move {
            let stored = storing::result(&nats, letter, result, is_dead).await;
            Sent::Result { key, stored, failed, dead: is_dead }
        }));
    }

    fn sent(&mut self, sent: Sent) {
        match sent {
            Sent::Progress => {}
            Sent::Forgotten => self.are_forgotten = true,
            Sent::Back { key, message, confirmed } => {
                self.worked.returned += u64::from(self.flight.was_left(&key, &message, confirmed));
            }
            Sent::Result { key, stored, failed, dead } => match stored {
                Ok(()) => {
                    self.flight.remove(&key);
                    self.worked.done += 1;
                    self.worked.failed += u64::from(failed);
                    self.worked.dead += u64::from(dead);
                }
                Err(error) => self.fail(error),
            },
            Sent::Garbage(buried) => buried.unwrap_or_else(|error| self.fail(error)),
            Sent::Looked { is_renewed } => self.looks.ended(is_renewed),
            Sent::Ready(made) => match made {
                Ok(ack_wait) => (self.ack_wait, self.is_ready) = (ack_wait, true),
                Err(error) => self.fail(error),
            },
            Sent::Record { job, found } => {
                let Some(Known::Asked(waiting)) = self.jobs.remove(&job) else { return };
                let (found, problem) = match found {
                    Ok(Some(found)) => (Some(found), String::new()),
                    Ok(None) => (None, format!("there is no job `{job}`")),
                    Err(error @ DurableError::BadJob { .. }) => (None, super::report::told(&error)),
                    Err(error) => return self.fail(error),
                };
                if let Some((found, run)) = found {
                    self.jobs.insert(job, Known::Is(Arc::new(found), run, Instant::now()));
                    if !self.is_ending {
                        waiting.into_iter().for_each(|key| self.place(key));
                    }
                    return;
                }
                for key in waiting {
                    let result = JobResult::failed(0, 0, None, Ending::Ran(OutcomeKind::Rejected), problem.clone());
                    self.store(&key, Fate::Dead(result));
                }
            }
        }
    }

    /// Nothing comes of a task here: it is for whoever asks next.
    fn leave(&mut self, key: &Key) {
        if let Some(entry) = self.flight.get_mut(key) {
            entry.stage = Stage::Leaving;
        }
    }

    /// Tells the server of tasks that go on, and drops what nobody needs.
    fn look_after(&mut self) {
        if self.nats.standing.borrow().is_up {
            for message in self.flight.unheard(self.ack_wait / 3) {
                self.asking.push(Box::pin(async move {
                    // One that is lost is made good for by the next.
                    let _ = timeout(SENDING, message.ack_with(AckKind::Progress)).await;
                    Sent::Progress
                }));
            }
        }
        self.pools.drop_idle();
    }

    /// This worker cannot go on.
    fn fail(&mut self, error: DurableError) {
        self.fatal.get_or_insert(error);
    }
}

fn wanted(settings: &WorkerSettings) -> Wanted {
    Wanted {
        ack_wait: settings.ack_wait,
        max_pending: settings.max_pending.map(|pending| i64::try_from(pending).unwrap_or(i64::MAX)),
    }
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<Crew with {} tasks>", self.flight.len())
    }
}
