//! What the pool decides, and nothing else: no thread, no clock, no gateway. What happened goes in, what is to be done
//! comes out as [`Action`]s.
//!
//! ```text
//!  submit ─► waiting ──► flying on a lane ──► ended: a value, an error
//!               ▲  ▲          │     │
//!               │  └ retry ◄──┘     └ the worker is lost:
//!               │                      alone on it ─► blamed ─► suspect again, or poisonous after so many losses
//!               └ (never)              with others ─► suspect, not blamed; what cannot have begun waits again
//!            suspects ──► flying alone on a lane, so that a second loss has one cause
//! ```
//!
//! A *lane* ([`Lane`]) is a place for a gateway, which is replaced when its worker is lost. A *run* is one attempt at a task; its
//! number is never used twice, so that whatever is late finds nothing.
//!
//! What waits on a lane behind a run that takes long is *recalled* when another lane has nothing to do. Whether it was taken
//! back is the worker's to say: until then it flies where it is, and nowhere else.
//!
//! * Invariant: a task leaves [`Core`] exactly once, with the one [`Finished`] of it.
//! * Invariant: until then it is in one place: waiting, a suspect, or the one run of it that was not told to stop.

#[cfg(test)]
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_wire::Outcome;
use sandgate_wire::outcome::{LossCause, WorkerLoss};

use super::event::PoolEvent;
use super::lane::{FREE_RESTARTS, Flight, Lane, State, delay, reach_delay};
use super::numbered::Numbered;
use super::result::{OutcomeKind, PoolError, RetryOn, TaskError};
use super::stats::Counts;

mod dispatching;
mod leaving;

/// Runs that a worker is taken to have ended without the host having heard of it. What is further behind the one that a lost
/// worker was at, as far as is known, is no suspect, and may have begun all the same: workers gather what they send. So it is
/// run again in groups of which all are suspects should another worker be lost.
const UNHEARD: usize = 3;

/// Links that may be lost under a task for each worker that it may cost.
const LINKS_FOR_A_LOSS: u32 = 8;

/// A task's number within its pool.
pub(crate) type TaskId = u64;

/// What the pool was told when it was made.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Losses that a task may cause before it is poisonous.
    pub(crate) max_losses: u32,
    /// Most runs on a lane at once.
    pub(crate) max_in_flight: usize,
    /// The same for a lane on another machine, for which many more are on the way.
    pub(crate) max_far_in_flight: usize,
    /// Times that a task that failed is run again, and which failures count.
    pub(crate) retries: u32,
    pub(crate) retry_on: RetryOn,
    /// Failures to start in a row, on every lane, after which the pool gives up; and the same of a machine that is not reached.
    pub(crate) start_attempts: u32,
    pub(crate) reach_attempts: u32,
    /// How long a lane may go without ending a run before its worker is taken for hung.
    pub(crate) patience: Option<Duration>,
    /// Time that a run has to end after it was stopped.
    pub(crate) grace: Duration,
    /// Whether a lane's runs are served by one execution, in order.
    pub(crate) sessions: bool,
    /// Time that the run at the head of a lane has, if the host is the one to watch it.
    pub(crate) watched_deadline: Option<Duration>,
    /// Runs that a lane's worker is at in the same moment; the others there wait.
    pub(crate) executions: usize,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Run a task.
    Run { lane: usize, task: TaskId, run: u64 },
    /// End a run.
    Stop { lane: usize, run: u64 },
    /// Take a run back, unless it has begun.
    Recall { lane: usize, run: u64 },
    /// Kill a worker that does not do as it is told.
    KillWorker { lane: usize },
    /// Start a gateway, in place of the one before.
    Start { lane: usize },
    /// End a gateway, for there will be no other one in its place.
    End { lane: usize },
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Verdict<V> {
    /// With a value.
    Value(V),
    /// It failed.
    Failed(TaskError),
    /// Its worker is gone.
    Lost(WorkerLoss),
    /// It was told to stop, or taken back.
    Stopped,
}

/// A task that is through.
#[derive(Debug)]
pub(crate) struct Finished<P, V> {
    pub(crate) task: TaskId,
    pub(crate) payload: P,
    pub(crate) value: Result<V, Box<TaskError>>,
    pub(crate) attempts: u32,
    pub(crate) lane: Option<usize>,
    pub(crate) queued: Instant,
    pub(crate) started: Option<Instant>,
    pub(crate) finished: Instant,
}

#[derive(Debug)]
struct Task<P> {
    payload: P,
    attempts: u32,
    losses: u32,
    /// Links that were lost while it ran.
    links: u32,
    retries: u32,
    /// It was lost with a worker, behind those that were suspects.
    was_behind: bool,
    queued: Instant,
}

type Tasks<P> = Numbered<Task<P>>;

/// The state of a pool.
#[derive(Debug)]
pub(crate) struct Core<P, V> {
    rules: Rules,
    tasks: Tasks<P>,
    waiting: VecDeque<TaskId>,
    suspects: VecDeque<TaskId>,
    /// A task may have ended while it waited: its number is still among those that do.
    any_left_waiting: bool,
    lanes: Vec<Lane>,
    next_run: u64,
    broken: Option<Arc<PoolError>>,
    pub(crate) actions: Vec<Action>,
    pub(crate) finished: Vec<Finished<P, V>>,
    /// What happened, if anybody wants to know.
    pub(crate) events: Option<Vec<(Instant, PoolEvent)>>,
    pub(crate) counts: Counts,
}

impl<P, V> Core<P, V> {
    /// A pool without tasks, whose lanes are being started.
    pub(crate) fn new(rules: Rules, lanes: usize, now: Instant, wants_events: bool) -> Core<P, V> {
        Core {
            rules,
            tasks: Tasks::default(),
            waiting: VecDeque::new(),
            suspects: VecDeque::new(),
            any_left_waiting: false,
            lanes: (0..lanes).map(|_| Lane::new(now)).collect(),
            next_run: 0,
            broken: None,
            actions: Vec::new(),
            finished: Vec::new(),
            events: wants_events.then(Vec::new),
            counts: Counts::default(),
        }
    }

    // ---- what is known ----

    pub(crate) fn payload(&self, task: TaskId) -> Option<&P> {
        self.tasks.get(task).map(|task| &task.payload)
    }

    pub(crate) fn in_flight(&self, lane: usize) -> usize {
        self.lanes[lane].flights.len()
    }

    /// The run that a lane with one execution at a time is at.
    pub(crate) fn head(&self, lane: usize) -> Option<u64> {
        self.lanes[lane].flights.front().map(|flight| flight.run)
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn is_starting(&self, lane: usize) -> bool {
        self.lanes[lane].state == State::Starting
    }

    pub(crate) fn generation(&self, lane: usize) -> u64 {
        self.lanes[lane].generation
    }

    /// The tasks that `wanted` picks.
    pub(crate) fn find(&self, wanted: impl Fn(&P) -> bool) -> Vec<TaskId> {
        self.tasks.iter().filter(|(_, task)| wanted(&task.payload)).map(|(id, _)| id).collect()
    }

    /// When [`tick`](Self::tick) has something to do next, if nothing else happens.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let timers = self.lanes.iter().filter_map(|lane| lane.next_timer(&self.rules));
        timers.chain(self.next_recall()).min()
    }

    fn tell(&mut self, now: Instant, event: impl FnOnce() -> PoolEvent) {
        if let Some(events) = &mut self.events {
            events.push((now, event()));
        }
    }

    // ---- what happens ----

    /// A task was given to the pool.
    pub(crate) fn submit(&mut self, id: TaskId, payload: P, now: Instant) {
        self.counts.queued += 1;
        self.tell(now, || PoolEvent::TaskQueued { task: id });
        self.tasks
            .insert(id, Task { payload, attempts: 0, losses: 0, links: 0, retries: 0, was_behind: false, queued: now });
        match self.broken.clone() {
            Some(error) => self.finish(id, Err(Box::new(TaskError::NoGateway(error))), None, now),
            None => self.waiting.push_back(id),
        }
    }

    /// A task that was given to the pool, and that cannot be run.
    pub(crate) fn refuse(&mut self, id: TaskId, error: Box<TaskError>, now: Instant) {
        self.finish(id, Err(error), None, now);
    }

    /// Nobody wants this task any more. It is through at once; if it flies, its run is stopped.
    pub(crate) fn cancel(&mut self, id: TaskId, now: Instant) {
        if !self.tasks.contains(id) {
            return;
        }
        let mut place = None;
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let head = lane.flights.front().map(|flight| flight.run);
            if let Some(flight) = lane.flights.iter_mut().find(|flight| flight.task == id) {
                place = Some((number, flight.started));
                // In a session, one that has not begun cannot be stopped by itself. Its answer is dropped.
                let can_stop = !self.rules.sessions || Some(flight.run) == head;
                if flight.stop_by.is_none() && can_stop {
                    flight.stop_by = Some(now + self.rules.grace);
                    lane.stops += 1;
                    lane.stop_is_under_way = true;
                    self.actions.push(Action::Stop { lane: number, run: flight.run });
                }
                break;
            }
        }
        self.finish(id, Err(Box::new(TaskError::Cancelled)), place, now);
    }

    /// A lane's gateway is there.
    pub(crate) fn lane_up(&mut self, lane: usize, now: Instant) {
        self.lane_up_at(lane, Duration::ZERO, now);
    }

    /// A lane's gateway is there, and so far away.
    pub(crate) fn lane_up_at(&mut self, lane: usize, way: Duration, now: Instant) {
        let it = &mut self.lanes[lane];
        it.is_away(way);
        (it.state, it.failed_starts, it.mean, it.progress, it.ended) = (State::Up, 0, 0.0, now, None);
        (it.stop_is_under_way, it.killed, it.is_hopeless) = (false, false, false);
        it.generation += 1;
    }

    /// Whether something takes a while to a lane's gateway.
    pub(crate) fn is_far(&self, lane: usize) -> bool {
        !self.lanes[lane].way.is_zero()
    }

    /// How far away a lane's gateway is now.
    pub(crate) fn way_is(&mut self, lane: usize, way: Duration) {
        self.lanes[lane].is_away(way);
    }

    /// For how long the ends of a lane's runs can wait, if these are short and follow each other, so that none is awaited by itself.
    pub(crate) fn patience(&self, lane: usize) -> Option<Duration> {
        let lane = &self.lanes[lane];
        (self.rules.executions == 1 && lane.is_brisk()).then(|| lane.patience(&self.rules))
    }

    /// How many runs a lane here is given.
    pub(crate) fn enough(&self, lane: usize) -> usize {
        self.lanes[lane].window(&self.rules)
    }

    /// Most runs on a lane that is on another machine, or here.
    pub(crate) fn most_on(&self, is_far: bool) -> usize {
        if is_far { self.rules.max_far_in_flight } else { self.rules.max_in_flight }
    }

    /// There are more lanes, behind all others, whose gateways are being started. So there is hope again.
    pub(crate) fn grow(&mut self, more: usize, now: Instant) {
        if more > 0 {
            self.broken = None;
        }
        for lane in self.lanes.len()..self.lanes.len() + more {
            self.lanes.push(Lane::new(now));
            self.actions.push(Action::Start { lane });
        }
    }

    /// A lane's gateway could not be started.
    pub(crate) fn lane_failed(&mut self, lane: usize, error: PoolError, now: Instant) {
        let is_unreached = error.is_unreached();
        let attempts = if is_unreached { self.rules.reach_attempts } else { self.rules.start_attempts };
        let it = &mut self.lanes[lane];
        it.failed_starts += 1;
        it.is_hopeless = it.failed_starts >= attempts;
        let delay = match is_unreached {
            true => reach_delay(it.failed_starts),
            false => delay(it.failed_starts + FREE_RESTARTS),
        };
        it.state = State::Down { until: now + delay };
        if it.is_leaving {
            return self.has_left(lane, now);
        }
        let text = error.of_gateway();
        self.tell(now, || PoolEvent::GatewayFailed { gateway: lane, error: text, again_in: delay });
        let hopeless = |lane: &Lane| lane.is_hopeless && matches!(lane.state, State::Down { .. });
        let mut lanes = self.lanes.iter().filter(|lane| !lane.is_leaving);
        if lanes.all(hopeless) && self.broken.is_none() {
            let error = Arc::new(error);
            self.broken = Some(Arc::clone(&error));
            let all: Vec<TaskId> = self.tasks.iter().map(|(id, _)| id).collect();
            for id in all {
                self.finish(id, Err(Box::new(TaskError::NoGateway(Arc::clone(&error)))), None, now);
            }
        }
    }

    /// A run could not begin, because its gateway is about to go. It does not count.
    pub(crate) fn not_begun(&mut self, lane: usize, run: u64, now: Instant) {
        self.lanes[lane].state = State::Closing;
        self.not_taken(lane, run, now);
    }

    /// A run has not begun, and will not: its session takes nothing more for now, or it was taken back.
    pub(crate) fn not_taken(&mut self, lane: usize, run: u64, now: Instant) {
        if let Some(flight) = self.lanes[lane].remove(run) {
            self.back_to_waiting(lane, flight, now);
        }
    }

    fn back_to_waiting(&mut self, lane: usize, flight: Flight, now: Instant) {
        let task = flight.task;
        if self.tasks.contains(task) {
            self.waiting.push_front(task);
            self.tell(now, || PoolEvent::TaskTakenBack { task, gateway: lane });
        }
    }

    /// A lane will not be started again.
    pub(crate) fn lane_stays_down(&mut self, lane: usize) {
        self.lanes[lane].state = State::Closing;
    }

    /// A lane's worker is gone, and whatever has not ended on it will not.
    pub(crate) fn lane_gone(&mut self, lane: usize, loss: WorkerLoss, now: Instant) {
        if self.lanes[lane].state == State::Closing {
            self.lost(lane, loss, now);
        }
    }

    /// A run has ended. One that nobody knows is late.
    pub(crate) fn ended(&mut self, lane: usize, run: u64, verdict: Verdict<V>, now: Instant) {
        let it = &mut self.lanes[lane];
        if let Verdict::Lost(loss) = verdict {
            if it.flights.iter().any(|flight| flight.run == run) {
                self.lost(lane, loss, now);
            }
            return;
        }
        let began = it.progress;
        if let (Verdict::Stopped, Some(flight)) = (&verdict, it.flights.iter().find(|flight| flight.run == run)) {
            // In a session, the stop was meant for another one.
            let is_taken_back = flight.recalled || self.rules.sessions && it.stop_is_under_way;
            match flight.stop_by {
                Some(_) => it.stop_is_under_way = false,
                None if is_taken_back => {
                    it.stop_is_under_way = false;
                    return self.not_taken(lane, run, now);
                }
                None => {
                    let message = "it has ended a run that nobody had stopped".to_owned();
                    return self.lost(lane, unresponsive(message), now);
                }
            }
        }
        let took_long = it.is_at_a_long_run(now);
        let Some(flight) = it.remove(run) else { return };
        it.run_ended(now, flight.started);
        self.see_whether_dry(lane, took_long);
        let Some(task) = self.tasks.get_mut(flight.task) else { return };
        task.attempts += 1;
        let place = Some((lane, flight.started.max(began)));
        let error = match verdict {
            Verdict::Value(value) => return self.finish(flight.task, Ok(value), place, now),
            Verdict::Failed(error) => error,
            Verdict::Stopped => {
                TaskError::Ended(Outcome::TimedOut { after: self.rules.watched_deadline.unwrap_or_default() })
            }
            Verdict::Lost(_) => return,
        };
        let kind = error.kind();
        if task.retries < self.rules.retries && self.rules.retry_on.includes(kind) {
            task.retries += 1;
            self.retry(flight.task, lane, kind, now);
            self.waiting.push_back(flight.task);
            return;
        }
        self.finish(flight.task, Err(Box::new(error)), place, now);
    }

    /// A lane's session has answered the first of its tasks, one after the other. What nothing was asked for is dropped.
    pub(crate) fn answered(&mut self, lane: usize, values: impl ExactSizeIterator<Item = V>, now: Instant) {
        let it = &mut self.lanes[lane];
        let count = values.len().min(it.flights.len());
        let Some(first) = it.flights.front() else { return };
        let (put, mut began) = (first.started, it.progress);
        let took_long = it.is_at_a_long_run(now);
        it.ended_well(count, now, put);
        for value in values.take(count) {
            let Some(flight) = self.lanes[lane].remove_first() else { return };
            if let Some(mut task) = self.tasks.remove(flight.task) {
                task.attempts += 1;
                self.through(flight.task, task, Ok(value), Some((lane, flight.started.max(began))), now);
            }
            began = now;
        }
        self.see_whether_dry(lane, took_long);
    }

    /// Runs have ended on a lane. If none are left it was given too little.
    fn see_whether_dry(&mut self, lane: usize, took_long: bool) {
        let it = &mut self.lanes[lane];
        if it.flights.is_empty() && !self.waiting.is_empty() && !took_long {
            it.has_run_dry(&self.rules);
        }
    }

    /// A lane's one execution for many tasks has ended: the run at its head ends like this, the others have not begun.
    pub(crate) fn session_ended(&mut self, lane: usize, verdict: Verdict<V>, now: Instant) {
        let Some(head) = self.head(lane) else { return };
        if !matches!(verdict, Verdict::Lost(_)) {
            let rest: Vec<Flight> = self.lanes[lane].flights.drain(1..).collect();
            self.lanes[lane].recount_stops();
            rest.into_iter().rev().for_each(|flight| self.back_to_waiting(lane, flight, now));
        }
        self.ended(lane, head, verdict, now);
    }

    fn retry(&mut self, id: TaskId, lane: usize, cause: OutcomeKind, now: Instant) {
        self.counts.retried += 1;
        let attempts = self.tasks.get(id).map_or(0, |task| task.attempts);
        self.tell(now, || PoolEvent::TaskRetried { task: id, gateway: lane, cause, attempts });
    }

    /// The worker is gone: who is to blame, and when does the lane start again?
    fn lost(&mut self, lane: usize, loss: WorkerLoss, now: Instant) {
        let it = &mut self.lanes[lane];
        let flights = std::mem::take(&mut it.flights);
        (it.alone, it.draining, it.stops) = (false, false, 0);
        it.losses_in_a_row += 1;
        let delay = delay(it.losses_in_a_row);
        if it.is_leaving {
            // Nothing is started in its place.
            it.state = State::Down { until: now };
        } else if delay.is_zero() {
            it.state = State::Starting;
            self.actions.push(Action::Start { lane });
        } else {
            it.state = State::Down { until: now + delay };
        }
        self.counts.lost_workers += 1;
        let told = loss.clone();
        self.tell(now, || PoolEvent::GatewayLost { gateway: lane, loss: Box::new(told) });
        let is_innocent = std::mem::take(&mut self.lanes[lane].innocent);
        // The machine or the way to it has failed, and no task is a suspect for that; one that is there each time is, in the end.
        let is_link = matches!(loss.cause, LossCause::Link { .. });
        let single = flights.len() == 1 && !is_innocent && !is_link;
        let (mut behind, all_suspects) = (Vec::new(), self.all_suspects());
        for (position, flight) in flights.into_iter().enumerate() {
            let Some(task) = self.tasks.get_mut(flight.task) else { continue };
            task.links += u32::from(is_link && position < self.rules.executions);
            if single || task.links >= self.rules.max_losses.saturating_mul(LINKS_FOR_A_LOSS) {
                task.attempts += 1;
                task.losses += 1;
                if is_link || task.losses >= self.rules.max_losses {
                    let error = TaskError::Poisonous { attempts: task.attempts, loss: loss.clone() };
                    self.finish(flight.task, Err(Box::new(error)), Some((lane, flight.started)), now);
                    continue;
                }
            }
            let is_suspect = position < all_suspects && !is_link;
            task.was_behind = !is_suspect && !is_link;
            self.retry(flight.task, lane, OutcomeKind::WorkerLost, now);
            if is_suspect {
                self.suspects.push_back(flight.task);
            } else {
                behind.push(flight.task);
            }
        }
        behind.into_iter().rev().for_each(|task| self.waiting.push_front(task));
    }

    /// How many runs are suspects of the loss of their worker at most.
    fn all_suspects(&self) -> usize {
        self.rules.executions + UNHEARD
    }

    fn finish(&mut self, id: TaskId, value: Result<V, Box<TaskError>>, place: Option<(usize, Instant)>, now: Instant) {
        let Some(task) = self.tasks.remove(id) else { return };
        // What waits is found by its number, which nothing has now.
        self.any_left_waiting |= place.is_none();
        self.through(id, task, value, place, now);
    }

    /// A task that is none any more has ended like this.
    fn through(
        &mut self,
        id: TaskId,
        task: Task<P>,
        value: Result<V, Box<TaskError>>,
        place: Option<(usize, Instant)>,
        now: Instant,
    ) {
        let Task { payload, attempts, queued, .. } = task;
        let (lane, started) = (place.map(|(lane, _)| lane), place.map(|(_, started)| started));
        let ran = started.map(|started| now.saturating_duration_since(started));
        let kind = value.as_ref().map_or_else(|error| error.kind(), |_| OutcomeKind::Returned);
        self.counts.finished(kind, ran);
        let duration = ran.unwrap_or_default();
        self.tell(now, || PoolEvent::TaskFinished { task: id, gateway: lane, outcome: kind, attempts, duration });
        self.finished.push(Finished { task: id, payload, value, attempts, lane, queued, started, finished: now });
    }
}

fn unresponsive(message: String) -> WorkerLoss {
    let cause = LossCause::Unresponsive { message };
    WorkerLoss { gateway: String::new(), pid: None, cause, stderr_tail: String::new() }
}

#[cfg(test)]
impl<P, V> Core<P, V> {
    /// Whether a lane has a run of this task.
    pub(crate) fn flies(&self, lane: usize, task: TaskId) -> bool {
        self.lanes[lane].flights.iter().any(|flight| flight.task == task)
    }

    /// How many places each unfinished task is in: one, by the invariant.
    pub(crate) fn places(&self) -> HashMap<TaskId, usize> {
        let mut places: HashMap<TaskId, usize> = self.tasks.iter().map(|(id, _)| (id, 0)).collect();
        let flights = self.lanes.iter().flat_map(|lane| &lane.flights).map(|flight| &flight.task);
        for id in self.waiting.iter().chain(&self.suspects).chain(flights) {
            places.entry(*id).and_modify(|count| *count += 1);
        }
        places
    }
}
