//! The pool's work: takes notes of what happened to [`Core`], and does what that says.
//!
//! ```text
//!  users ──submit, cancel──┐
//!  readers ──run N moved───┼─► notes ─► Core ─► actions ─► Ground ─► gateways
//!  starters ──gateway up───┘              └──► finished ─► users
//! ```
//!
//! It is done by one thread at a time ([`Seat`](super::seat::Seat)), whenever there are notes, and at the earliest of the
//! core's deadlines if there is one. It runs no user's code and waits for nobody.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::core::{Action, Core, TaskId, Verdict};
use super::event::{EventSink, PoolEvent, TimedEvent};
use super::ground::{Came, Ground, Made, NotBegun};
use super::machines::Machine;
use super::mailbox::{Receiver, Sender};
use super::packed::Packed;
use super::result::PoolError;
use super::stats::Counts;
use super::work::{Owners, RawValue, Submission, Work};
use crate::deadline::Deadline;
use crate::gateway::Gateway;

/// Notes that are taken before anything is done about them.
const MAX_BATCH: usize = 256;

/// Tasks that are under way for a gateway at least, however long they take.
const LEAST_ENOUGH: usize = 64;

/// Something that the pool's thread is to know.
#[derive(Debug)]
pub(crate) enum Note {
    /// Tasks for the pool.
    Submit(Submission),
    /// A run, or a session, has brought something or ended.
    Moved { lane: usize, number: u64 },
    /// What became of the start of a gateway.
    Started { lane: usize, result: Result<Box<Made>, PoolError> },
    /// What became of the start of a gateway that waits to be needed.
    Spare(Result<Box<Made>, PoolError>),
    /// A gateway that was replaced is gone for good.
    Buried,
    /// These are the machines from now on.
    Machines(Arc<[Machine]>),
    /// A gateway takes no more runs. Behind all that its runs have told.
    Gone { lane: usize, generation: u64 },
    /// Nobody wants this task any more.
    CancelTask(TaskId),
    /// Nobody wants what this iterator has asked for any more.
    CancelOwner(u64),
    /// Nobody wants anything any more.
    CancelAll,
    /// Somebody wants numbers.
    Stats(crossbeam_channel::Sender<Snapshot>),
    /// The pool is being dropped.
    Shutdown,
}

/// What whoever asks can see at once.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Gateways, without those that are leaving.
    pub(crate) lanes: AtomicUsize,
    /// Tasks under way that keep all of them busy.
    pub(crate) enough: AtomicUsize,
    /// The gateways of the lanes, where there has been one.
    names: Mutex<Vec<Option<Arc<str>>>>,
}

impl Shown {
    /// The gateway of a lane.
    pub(crate) fn name(&self, lane: usize) -> Option<Arc<str>> {
        self.names.lock().get(lane).cloned().flatten()
    }

    /// The gateway of a lane, which is called like this from now on if it has no name yet. Says whether it had none.
    fn name_first(&self, lane: usize, name: &str) -> (Arc<str>, bool) {
        let mut names = self.names.lock();
        if names.len() <= lane {
            names.resize(lane + 1, None);
        }
        let is_first = names[lane].is_none();
        (Arc::clone(names[lane].get_or_insert_with(|| Arc::from(name))), is_first)
    }
}

/// The scheduler's part of a [`PoolStats`](super::PoolStats).
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) counts: Counts,
    pub(crate) unfinished: usize,
    pub(crate) lanes: Vec<(usize, u64, Option<Gateway>)>,
    pub(crate) dropped_events: u64,
    pub(crate) spares: usize,
}

pub(crate) struct Driver {
    pub(crate) core: Core<Work, RawValue>,
    pub(crate) ground: Ground,
    /// To itself.
    pub(crate) own: Sender<Note>,
    pub(crate) events: Option<EventSink>,
    pub(crate) epoch: Instant,
    pub(crate) lanes: usize,
    pub(crate) shown: Arc<Shown>,
    pub(crate) owners: Owners,
    pub(crate) drop_timeout: Duration,
    pub(crate) state: Life,
    pub(crate) told_until: Duration,
    /// Empty between calls, for its memory.
    pub(crate) batch: Vec<Note>,
    /// When spare gateways are started; `None` once that has come.
    pub(crate) spares_from: Option<Instant>,
}

/// How far a pool is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Life {
    Open,
    /// Everything was cancelled, and whatever comes will be.
    Cancelled,
    Ending,
}

impl Driver {
    /// Does all that there is to do now.
    pub(crate) fn work(&mut self, notes: &Receiver<Note>) {
        let mut batch = std::mem::take(&mut self.batch);
        loop {
            notes.take(MAX_BATCH, &mut batch);
            let now = Instant::now();
            batch.drain(..).for_each(|note| self.take(note, now));
            self.go_on();
            if notes.is_empty() {
                break;
            }
        }
        self.batch = batch;
        self.ground.about_to_wait(|lane| self.core.patience(lane));
    }

    /// Ends the gateways. Blocks until they are gone.
    pub(crate) fn finish(mut self) {
        self.ground.end(Deadline::after(self.drop_timeout));
        self.tell(PoolEvent::PoolFinished);
    }

    /// When there is something to do though nobody says so.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.core.next_timer().into_iter().chain(self.spares_from).min()
    }

    /// Whether nothing is left but to [finish](Self::finish).
    pub(crate) fn is_over(&self) -> bool {
        let lanes = || (0..self.lanes).any(|lane| self.core.is_starting(lane));
        self.state == Life::Ending && !lanes() && self.ground.is_quiet()
    }

    pub(crate) fn take(&mut self, note: Note, now: Instant) {
        match note {
            Note::Submit(Submission { owner, tasks }) => {
                self.owners.enter(owner, tasks.len());
                for (id, mut work) in tasks {
                    let refused = work.refused.take();
                    self.core.submit(id, work, now);
                    if let Some(error) = refused {
                        self.core.refuse(id, error, now);
                    }
                    if self.state != Life::Open {
                        self.core.cancel(id, now);
                    }
                }
            }
            Note::Moved { lane, number } => self.moved(lane, number, now),
            Note::Started { lane, result } => self.started(lane, result, now),
            Note::Spare(result) => self.ground.spare_started(result),
            Note::Buried => self.ground.buried(),
            Note::Machines(machines) => self.machines_are(&machines, now),
            Note::Gone { lane, generation } if generation == self.core.generation(lane) => {
                self.core.lane_gone(lane, self.ground.loss(lane), now);
            }
            Note::Gone { .. } => {}
            Note::CancelTask(id) => self.core.cancel(id, now),
            Note::CancelOwner(owner) => self.cancel(now, |work| work.owner == owner),
            Note::CancelAll => self.end(Life::Cancelled, now),
            Note::Shutdown => {
                self.ground.give_up();
                self.end(Life::Ending, now);
            }
            Note::Stats(answer) => {
                let _ = answer.send(self.snapshot());
            }
        }
    }

    fn end(&mut self, state: Life, now: Instant) {
        if self.state < state {
            self.state = state;
        }
        self.cancel(now, |_| true);
    }

    fn cancel(&mut self, now: Instant, wanted: impl Fn(&Work) -> bool) {
        for id in self.core.find(wanted) {
            self.core.cancel(id, now);
        }
    }

    fn moved(&mut self, lane: usize, number: u64, now: Instant) {
        if self.core.is_far(lane) {
            self.core.way_is(lane, self.ground.way(lane));
        }
        let core = &mut self.core;
        self.ground.take(lane, number, |came| match came {
            Came::Ended { run, verdict } => core.ended(lane, run, verdict, now),
            Came::Answered(answers) => core.answered(lane, answers, now),
            Came::SessionEnded(verdict) => core.session_ended(lane, verdict, now),
        });
    }

    fn tell_if_recycled(&mut self, lane: usize, now: Instant) {
        if let Some(pid) = self.ground.recycled(lane)
            && let Some(events) = &mut self.core.events
        {
            events.push((now, PoolEvent::GatewayRecycled { gateway: lane, pid }));
        }
    }

    fn started(&mut self, lane: usize, result: Result<Box<Made>, PoolError>, now: Instant) {
        let made = match result {
            Ok(made) => made,
            // Nobody waits for it any more, and perhaps it was given up because of that.
            Err(_) if self.state == Life::Ending => return self.core.lane_stays_down(lane),
            Err(error) => {
                tracing::warn!("gateway {lane} of a pool did not start: {}", error.with_causes());
                return self.core.lane_failed(lane, error, now);
            }
        };
        let pid = made.gateway.pid();
        // A spare takes over the name with the place.
        let (id, first) = self.shown.name_first(lane, made.gateway.id());
        let more = made.more;
        self.ground.started(lane, *made, Arc::clone(&id));
        self.core.lane_up_at(lane, self.ground.way(lane), now);
        if self.spares_from.is_none() && self.state != Life::Ending {
            self.ground.start_spares();
        }
        if more > 0 && self.state != Life::Ending && !self.core.is_leaving(lane) {
            self.ground.grow(lane, more);
            self.grow(more, now);
        }
        let workers = self.core.generation(lane);
        if let Some(events) = &mut self.core.events {
            events.push((
                now,
                match first {
                    true => PoolEvent::GatewayStarted { gateway: lane, id, pid },
                    false => PoolEvent::GatewayReplaced { gateway: lane, pid, workers },
                },
            ));
        }
    }

    /// There are more lanes, for which the ground has room.
    fn grow(&mut self, more: usize, now: Instant) {
        self.core.grow(more, now);
        self.tell_starting(self.lanes..self.lanes + more, now);
        self.lanes += more;
        self.recount();
    }

    /// Says what gateways are called that are being started.
    pub(crate) fn tell_starting(&mut self, lanes: Range<usize>, now: Instant) {
        let Some(events) = &mut self.core.events else { return };
        let ids = lanes.filter_map(|gateway| Some((gateway, self.ground.id(gateway)?)));
        events.extend(ids.map(|(gateway, id)| (now, PoolEvent::GatewayStarting { gateway, id })));
    }

    fn machines_are(&mut self, machines: &[Machine], now: Instant) {
        if self.state == Life::Ending {
            return;
        }
        let change = self.ground.change(machines);
        change.leave.into_iter().for_each(|lane| self.core.leave(lane));
        self.grow(change.join, now);
    }

    /// Counts what is shown.
    pub(crate) fn recount(&self) {
        let lanes = (0..self.lanes).filter(|lane| !self.core.is_leaving(*lane));
        let (mut count, mut enough) = (0, 0);
        for lane in lanes {
            count += 1;
            enough += match self.ground.is_far(lane) {
                true => self.core.most_on(true),
                false => self.core.enough(lane).max(LEAST_ENOUGH).min(self.core.most_on(false)),
            };
        }
        self.shown.enough.store(enough, Ordering::Release);
        self.shown.lanes.store(count, Ordering::Release);
    }

    /// Does what follows from the notes.
    fn go_on(&mut self) {
        let now = Instant::now();
        if self.state != Life::Ending {
            self.core.tick(now);
            if self.core.dispatch(now) {
                self.recount();
            }
            if self.spares_from.is_some_and(|from| from <= now) {
                self.spares_from = None;
                self.ground.start_spares();
            }
        }
        let mut actions = std::mem::take(&mut self.core.actions);
        if self.ground.reuses() {
            self.begin_in_sessions(&actions, now);
            actions.retain(|action| !matches!(action, Action::Run { .. }));
        }
        for action in actions.drain(..) {
            match action {
                Action::Run { lane, task, run } => self.begin(lane, task, run, now),
                Action::Stop { lane, run } => self.ground.stop(lane, run),
                Action::Recall { lane, run } => self.ground.recall(lane, run),
                Action::KillWorker { lane } => self.ground.kill_worker(lane),
                Action::Start { lane } if self.state == Life::Ending => self.core.lane_stays_down(lane),
                Action::Start { lane } => self.ground.start(lane),
                Action::End { lane } => self.ground.leave(lane),
            }
        }
        if self.core.actions.is_empty() {
            self.core.actions = actions;
        }
        self.owners.deliver(&mut self.core.finished, self.epoch);
        self.tell_all();
    }

    fn begin(&mut self, lane: usize, task: TaskId, run: u64, now: Instant) {
        let Some(work) = self.core.payload(task) else { return };
        match self.ground.begin(lane, task, run, (work.input.clone(), work.argv.clone())) {
            Ok(()) => self.tell_if_recycled(lane, now),
            Err(not_begun) => self.not_begun(lane, run, not_begun, now),
        }
    }

    /// Gives each session the inputs that are for it, all at once.
    fn begin_in_sessions(&mut self, actions: &[Action], now: Instant) {
        let run = |action: &Action| match *action {
            Action::Run { lane, task, run } => Some((lane, task, run)),
            _ => None,
        };
        let mut all: Vec<(usize, TaskId, u64)> = actions.iter().filter_map(run).collect();
        // Those of one lane stay in their order.
        all.sort_by_key(|&(lane, ..)| lane);
        for of_lane in all.chunk_by(|one, next| one.0 == next.0) {
            let lane = of_lane[0].0;
            let known = of_lane.iter().filter_map(|&(_, task, run)| Some((run, &self.core.payload(task)?.input)));
            let (mut runs, inputs): (Vec<u64>, Vec<&Packed>) = known.unzip();
            let mut not_begun = Vec::new();
            let (mut at, mut any_begun) = (0, false);
            while at < runs.len() {
                let (begun, why_not) = self.ground.ask_session(lane, &inputs[at..]);
                (at, any_begun) = (at + begun, any_begun || begun > 0);
                let Some(why_not) = why_not else { break };
                let is_full = matches!(why_not, NotBegun::Full);
                not_begun.push((runs[at], why_not));
                at += 1;
                if is_full {
                    not_begun.extend(runs.drain(at..).map(|run| (run, NotBegun::Full)));
                }
            }
            if any_begun {
                self.tell_if_recycled(lane, now);
            }
            // The last one first, so that they wait in their order.
            for (run, why_not) in not_begun.into_iter().rev() {
                self.not_begun(lane, run, why_not, now);
            }
        }
    }

    fn not_begun(&mut self, lane: usize, run: u64, why: NotBegun, now: Instant) {
        match why {
            NotBegun::Full => self.core.not_taken(lane, run, now),
            NotBegun::Refused(error) => self.core.ended(lane, run, Verdict::Failed(error), now),
            NotBegun::Closing => {
                self.core.not_begun(lane, run, now);
                let generation = self.core.generation(lane);
                let _ = self.own.send(Note::Gone { lane, generation });
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let lane = |lane| (self.core.in_flight(lane), self.core.generation(lane), self.ground.gateway(lane).cloned());
        Snapshot {
            counts: self.core.counts.clone(),
            unfinished: self.core.unfinished(),
            lanes: (0..self.lanes).map(lane).collect(),
            dropped_events: self.events.as_ref().map_or(0, EventSink::dropped),
            spares: self.ground.spares(),
        }
    }

    fn tell_all(&mut self) {
        let Some(events) = self.core.events.as_mut().filter(|events| !events.is_empty()) else { return };
        let Some(sink) = &self.events else { return };
        for (at, event) in events.drain(..) {
            // Notes of one batch are not taken in the order of their clocks to the nanosecond; consumers need not care.
            self.told_until = self.told_until.max(at.saturating_duration_since(self.epoch));
            sink.tell(TimedEvent { at: self.told_until, event });
        }
    }

    fn tell(&mut self, event: PoolEvent) {
        self.tell_all();
        if let Some(events) = &mut self.core.events {
            events.push((Instant::now(), event));
        }
        self.tell_all();
    }
}
