//! One place for a gateway: its state, what flies on it, and how much that may be.
//!
//! The window is about 12 ms of work, as the time from one end to the next tells, and is filled up once a quarter of it is used, so
//! that a worker is told of several runs at once. A lane that has run dry though tasks wait
//! gets more, up to 50 ms, since then its way to the host is the slow part; a lane where many always wait gets less again.
//! A lane on another machine has as much more under way as the way there and back takes, and more runs than others may have
//! for it. What is on the way is no part of a run's time: a run that was put on an empty lane has taken that much less.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::core::{Rules, TaskId};

/// Work that a lane is given ahead: enough that its worker never waits for the host, little enough that no task waits
/// long behind another while other lanes are idle.
const AHEAD: Duration = Duration::from_millis(12);
/// The most work ahead on a lane that has run dry, which is how a slow way to the worker shows.
const MOST_AHEAD: Duration = Duration::from_millis(50);
/// The longest way that counts: whoever says how long it is may lie.
const MAX_WAY: Duration = Duration::from_secs(1);
/// A run takes long if nothing has ended on its lane for this time, in which all that is ahead there should have.
const LONG: Duration = Duration::from_millis(18);
/// The longest time for which ends of short runs may wait to be noticed.
const PATIENCE: Duration = Duration::from_millis(6);
/// A run is short if the mean on its lane is no more than this. A worker tells at once of those that are longer.
const SHORT: Duration = Duration::from_micros(1200);
/// Runs that a lane has at least: one that runs and one that waits.
const MIN_WINDOW: usize = 2;
/// A worker that goes at once so many times is replaced without delay; then the delay begins at the least and doubles.
pub(super) const FREE_RESTARTS: u32 = 2;
const LEAST_DELAY: Duration = Duration::from_millis(20);
const MOST_DELAY: Duration = Duration::from_secs(1);
/// The same for machines that are not reached: whoever keeps them does not want to be asked all the time.
const LEAST_REACH_DELAY: Duration = Duration::from_millis(250);
const MOST_REACH_DELAY: Duration = Duration::from_secs(15);
/// The least part of a run's time that is its own, whatever is known of the way.
const LEAST_PART: u32 = 8;
/// The part of a new measurement in a lane's mean time for a task.
const MEAN_SHARE: f64 = 1.0 / 16.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Up,
    /// Its worker is gone, but its runs have not ended yet; nothing more is put on it.
    Closing,
    /// Waits until then before it is started again.
    Down {
        until: Instant,
    },
    /// It has left the pool for good.
    Gone,
}

/// One place for a gateway.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) state: State,
    pub(super) flights: VecDeque<Flight>,
    /// A suspect flies on it, and nothing else may.
    pub(super) alone: bool,
    /// It is to leave the pool: it takes nothing more, and is gone once it is empty.
    pub(super) is_leaving: bool,
    /// It takes nothing more until it is empty and a suspect can have it.
    pub(super) draining: bool,
    /// Losses since a run ended well, and failures to start since a start.
    pub(super) losses_in_a_row: u32,
    pub(super) failed_starts: u32,
    /// It has failed to start so often that nothing is expected of it.
    pub(super) is_hopeless: bool,
    /// Mean time between ends of runs, in seconds; 0 if it is not known.
    pub(super) mean: f64,
    /// Runs that keep it from running dry: doubled when it has, taken back slowly while many wait.
    pub(super) enough: f64,
    /// How long something takes to its worker and back: work of that long is under way besides.
    pub(super) way: Duration,
    /// When a run ended last, or the first of the present ones began.
    pub(super) progress: Instant,
    /// Runs that have ended since it learned from some.
    pub(super) ended: Option<Ended>,
    has_learnt: bool,
    pub(super) generation: u64,
    /// Runs that were told to stop.
    pub(super) stops: usize,
    /// Its worker was killed for a run that did not stop, so the others are not to blame.
    pub(super) innocent: bool,
    /// Its worker was killed, and is not gone yet.
    pub(super) killed: bool,
    /// It was told to stop something, and has not said yet that it has.
    pub(super) stop_is_under_way: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) run: u64,
    pub(super) task: TaskId,
    pub(super) started: Instant,
    /// When its worker is killed because it was told to stop and did not.
    pub(super) stop_by: Option<Instant>,
    /// It was asked for, to be run elsewhere.
    pub(super) recalled: bool,
    /// It was lost with a worker before, behind those that were suspects.
    pub(super) was_behind: bool,
}

/// Runs of which the host was told together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    count: usize,
    /// When one had ended before them.
    since: Instant,
    /// When the first of them was put on the lane.
    put: Instant,
}

impl Flight {
    pub(super) fn can_be_recalled(&self) -> bool {
        self.stop_by.is_none() && !self.recalled
    }
}

impl Lane {
    /// A lane whose gateway is being started.
    pub(super) fn new(now: Instant) -> Lane {
        Lane {
            state: State::Starting,
            flights: VecDeque::new(),
            alone: false,
            is_leaving: false,
            draining: false,
            losses_in_a_row: 0,
            failed_starts: 0,
            is_hopeless: false,
            mean: 0.0,
            enough: 0.0,
            way: Duration::ZERO,
            progress: now,
            ended: None,
            has_learnt: false,
            generation: 0,
            stops: 0,
            innocent: false,
            killed: false,
            stop_is_under_way: false,
        }
    }

    pub(super) fn remove(&mut self, run: u64) -> Option<Flight> {
        let position = self.flights.iter().position(|flight| flight.run == run)?;
        let flight = self.flights.remove(position)?;
        if flight.stop_by.is_some() {
            self.stops -= 1;
        }
        Some(flight)
    }

    /// Takes the run at its head, which has ended.
    pub(super) fn remove_first(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.stops -= usize::from(flight.stop_by.is_some());
        Some(flight)
    }

    pub(super) fn recount_stops(&mut self) {
        self.stops = self.flights.iter().filter(|flight| flight.stop_by.is_some()).count();
    }

    /// How far away its worker is.
    pub(super) fn is_away(&mut self, way: Duration) {
        self.way = way.min(MAX_WAY);
    }

    /// A run has ended that was put on it then.
    pub(super) fn run_ended(&mut self, now: Instant, put: Instant) {
        let ended = self.ended.get_or_insert(Ended { count: 0, since: self.progress, put });
        ended.count += 1;
        (self.progress, self.losses_in_a_row) = (now, 0);
    }

    /// Learns from the runs that have ended by now: those of which it is told together took as long each.
    /// Says whether it has learnt anything since it was asked.
    pub(super) fn learn(&mut self) -> bool {
        if let Some(Ended { count, since, put }) = self.ended.take() {
            self.learn_from(count, (since, self.progress), put);
        }
        std::mem::take(&mut self.has_learnt)
    }

    /// So many runs have ended, of which the first was put on it then.
    pub(super) fn ended_well(&mut self, count: usize, now: Instant, put: Instant) {
        let since = std::mem::replace(&mut self.progress, now);
        self.losses_in_a_row = 0;
        self.learn_from(count, (since, now), put);
    }

    /// Before that moment another run had ended, or the lane was empty.
    fn learn_from(&mut self, count: usize, (since, now): (Instant, Instant), put: Instant) {
        let whole = now.saturating_duration_since(since.max(put));
        let on_the_way = (put + self.way).saturating_duration_since(since.max(put));
        // The way is an estimate, and the time without it no less than a part of the whole.
        let took = whole.saturating_sub(on_the_way).max(whole / LEAST_PART);
        let count = i32::try_from(count).unwrap_or(i32::MAX).max(1);
        let took = (took.as_secs_f64() / f64::from(count)).max(f64::MIN_POSITIVE);
        // As if each of them had taken that long.
        let share = 1.0 - (1.0 - MEAN_SHARE).powi(count);
        self.has_learnt = true;
        self.mean = if self.mean == 0.0 { took } else { self.mean + (took - self.mean) * share };
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        if self.flights.len() as f64 * 2.0 > self.enough {
            self.enough *= (1.0 - MEAN_SHARE / 4.0).powi(count);
        }
    }

    /// Nothing flies on it though tasks wait: it was given too little.
    pub(super) fn has_run_dry(&mut self, rules: &Rules) {
        if !self.alone && !self.draining {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let (window, most) = (self.window(rules) as f64, self.most(rules) as f64);
            self.enough = (window * 2.0).min(most);
        }
    }

    pub(super) fn takes_long_from(&self) -> Instant {
        self.progress + LONG + self.way
    }

    pub(super) fn is_at_a_long_run(&self, now: Instant) -> bool {
        !self.flights.is_empty() && self.takes_long_from() <= now
    }

    /// Whether its runs are short and follow each other.
    pub(super) fn is_brisk(&self) -> bool {
        let is_short = self.mean > 0.0 && self.mean <= SHORT.as_secs_f64();
        is_short && self.way.is_zero() && self.flights.len() > 1
    }

    /// For how long its worker needs nothing more if all that it may have is there: half of that, for the other half is for whoever
    /// gives it more.
    pub(super) fn patience(&self, rules: &Rules) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let work = self.mean * self.window(rules) as f64;
        Duration::try_from_secs_f64(work / 2.0).map_or(PATIENCE, |half| half.min(PATIENCE))
    }

    fn most(&self, rules: &Rules) -> usize {
        if self.way.is_zero() { rules.max_in_flight } else { rules.max_far_in_flight }
    }

    /// How many runs it may have. Before the first has ended that is as few as may be: nobody knows how long they take.
    pub(super) fn window(&self, rules: &Rules) -> usize {
        let most = self.most(rules);
        if self.mean == 0.0 {
            return MIN_WINDOW.min(most);
        }
        // The way is the shortest so far, and no run takes exactly the mean: somewhat more keeps the worker at it.
        let way = self.way + self.way / 4;
        let runs_in = |time: Duration| (time + way).as_secs_f64() / self.mean.max(1e-9);
        let (least, most_ahead) = (runs_in(AHEAD), runs_in(MOST_AHEAD));
        let ahead = least.max(self.enough.min(most_ahead));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and clamped next")]
        let ahead = ahead as usize;
        // What is on its way keeps no worker busy.
        let least = if self.way.is_zero() { MIN_WINDOW } else { MIN_WINDOW + 1 };
        let ahead = if self.way.is_zero() { ahead } else { ahead + MIN_WINDOW };
        ahead.clamp(least, most.max(least)).min(most)
    }

    /// Whether it is time to fill its window up. On the way to another machine nothing is saved by waiting.
    pub(super) fn is_to_be_filled(&self, rules: &Rules) -> bool {
        let flights = self.flights.len();
        flights < rules.executions.max(MIN_WINDOW) || !self.way.is_zero() || 4 * flights <= 3 * self.window(rules)
    }

    pub(super) fn next_timer(&self, rules: &Rules) -> Option<Instant> {
        match self.state {
            State::Down { until } => Some(until),
            State::Up if !self.flights.is_empty() => {
                let patience = rules.patience.map(|patience| self.progress + patience);
                let stop = self.flights.iter().filter(|_| self.stops > 0).filter_map(|flight| flight.stop_by).min();
                let head = self.flights.front().filter(|flight| flight.stop_by.is_none());
                let watched = head.and(rules.watched_deadline).map(|deadline| self.progress + deadline);
                [patience, stop, watched].into_iter().flatten().min()
            }
            _ => None,
        }
    }

    pub(super) fn is_hung(&self, rules: &Rules, now: Instant) -> bool {
        let silent = rules.patience.is_some_and(|patience| self.progress + patience <= now);
        let deaf = self.stops > 0 && self.flights.iter().filter_map(|flight| flight.stop_by).any(|by| by <= now);
        !self.flights.is_empty() && (silent || deaf)
    }

    /// Marks the run at the head to be stopped if its time is over.
    pub(super) fn stop_late_head(&mut self, rules: &Rules, now: Instant) -> Option<u64> {
        let deadline = rules.watched_deadline?;
        let head = self.flights.front_mut().filter(|flight| flight.stop_by.is_none())?;
        if self.progress + deadline > now {
            return None;
        }
        head.stop_by = Some(now + rules.grace);
        self.stops += 1;
        Some(head.run)
    }
}

/// How long the start after so many losses in a row waits.
pub(super) fn delay(times: u32) -> Duration {
    match times.checked_sub(FREE_RESTARTS + 1) {
        None => Duration::ZERO,
        Some(more) => LEAST_DELAY.saturating_mul(1 << more.min(16)).min(MOST_DELAY),
    }
}

/// How long the next attempt to reach a machine waits after so many that failed.
pub(super) fn reach_delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    LEAST_REACH_DELAY.saturating_mul(1 << doublings).min(MOST_REACH_DELAY)
}
