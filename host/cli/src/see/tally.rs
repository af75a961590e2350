//! What a pool's events add up to: counters, gateways, times. Every consumer reads it; it writes nothing.
//!
//! A run of a task is on its gateway from the later of two moments, when it was put there and when the run before it there
//! ended, until it ends: gateways are given a few tasks ahead. [`Tally::take`] gives each [`Run`] once, when it has ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sandgate::{LossCause, OutcomeKind, PoolEvent, TimedEvent};

use super::failures::Apart;
use super::text;

/// Bounds of the histogram of task times that metrics show, in seconds.
pub(super) const BOUNDS: [f64; 18] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Marks that are kept, of a run in which workers die all the time.
const MOST_MARKS: usize = 20_000;
/// Samples of memory that are kept for each gateway; then every other one is dropped.
const MOST_SAMPLES: usize = 4096;
const KINDS: usize = OutcomeKind::ALL.len();

/// One run of a task that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) task: u64,
    pub(super) gateway: usize,
    pub(super) attempt: u32,
    pub(super) start: Duration,
    pub(super) end: Duration,
    pub(super) outcome: OutcomeKind,
    /// It will be run again.
    pub(super) again: bool,
}

/// Something that happened to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: Duration,
    pub(super) gateway: usize,
    pub(super) what: What,
    pub(super) text: String,
}

/// What a [`Mark`] marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Started,
    Lost,
    Replaced,
    Recycled,
    Failed,
    Left,
}

impl What {
    pub(super) fn word(self) -> &'static str {
        match self {
            What::Started => "started",
            What::Lost => "lost",
            What::Replaced => "replaced",
            What::Recycled => "recycled",
            What::Failed => "failed to start",
            What::Left => "left",
        }
    }
}

/// One place for a gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) id: Option<Arc<str>>,
    pub(super) pid: Option<u32>,
    /// Tasks that it has, in order, and when each was put there.
    pub(super) tasks: VecDeque<(u64, Duration, u32)>,
    pub(super) last_end: Duration,
    pub(super) busy: Duration,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) workers: u64,
    pub(super) lost: u64,
    /// How many of them with the link, by what happened to it.
    pub(super) links: BTreeMap<String, u64>,
    pub(super) recycled: u64,
    pub(super) failed_starts: u64,
    pub(super) memory: Option<u64>,
    pub(super) peak: u64,
    /// Memory over time.
    pub(super) samples: Vec<(Duration, u64)>,
    skip: u32,
    skipped: u32,
}

impl Place {
    /// What it is called.
    pub(super) fn name(&self, position: usize) -> String {
        self.id.as_ref().map_or_else(|| format!("gw{position}"), |id| text::one_line(id, 40))
    }

    /// The task that runs on it and since when, if any.
    pub(super) fn current(&self) -> Option<(u64, Duration)> {
        self.tasks.front().map(|&(task, since, _)| (task, since.max(self.last_end)))
    }

    pub(super) fn memory_is(&mut self, at: Duration, bytes: Option<u64>) {
        self.memory = bytes;
        let Some(bytes) = bytes else { return };
        self.peak = self.peak.max(bytes);
        self.skipped += 1;
        if self.skipped <= self.skip {
            return;
        }
        self.skipped = 0;
        self.samples.push((at, bytes));
        if self.samples.len() >= MOST_SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.skip = self.skip * 2 + 1;
        }
    }
}

/// All that is counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) queued: u64,
    /// What events do not tell.
    pub(super) apart: Apart,
    pub(super) outcomes: [u64; KINDS],
    pub(super) retried: [u64; KINDS],
    /// Times of tasks' last runs, one more than there are [`BOUNDS`].
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) times: Times,
    pub(super) gateways: Vec<Place>,
    pub(super) marks: Vec<Mark>,
    pub(super) marks_left_out: u64,
    /// When the last task ended.
    pub(super) last_end: Duration,
    pub(super) is_over: bool,
}

impl Tally {
    pub(super) fn new(gateways: usize) -> Tally {
        Tally { gateways: vec![Place::default(); gateways], ..Tally::default() }
    }

    /// Inputs that have what they were to bring, as far as events tell.
    pub(super) fn done(&self) -> u64 {
        (self.outcomes[OutcomeKind::Returned as usize] + self.apart.known_done).saturating_sub(self.apart.spoiled)
    }

    /// Tasks of the pool that have ended.
    pub(super) fn finished(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Inputs that have not, without those that were cancelled.
    pub(super) fn failed(&self) -> u64 {
        let kinds = [OutcomeKind::Returned, OutcomeKind::Cancelled].map(|kind| self.outcomes[kind as usize]);
        let Apart { bad, spoiled, known_failed, .. } = self.apart;
        self.finished() - kinds.iter().sum::<u64>() + bad + spoiled + known_failed
    }

    /// Inputs that have a result.
    pub(super) fn ended(&self) -> u64 {
        self.done() + self.failed()
    }

    pub(super) fn retried(&self) -> u64 {
        self.retried.iter().sum()
    }

    pub(super) fn lost(&self) -> u64 {
        self.gateways.iter().map(|place| place.lost).sum()
    }

    /// Time of all runs together.
    pub(super) fn busy(&self) -> Duration {
        self.gateways.iter().map(|place| place.busy).sum()
    }

    pub(super) fn memory(&self) -> u64 {
        self.gateways.iter().filter_map(|place| place.memory).sum()
    }

    /// How many tasks were under way on average: what one gateway alone would have taken, over what it took.
    pub(super) fn speed_up(&self) -> Option<f64> {
        let wall = self.last_end.as_secs_f64();
        (wall > 0.0).then(|| self.busy().as_secs_f64() / wall)
    }

    /// Adds an event. If a run has ended with it, that run.
    pub(super) fn take(&mut self, timed: &TimedEvent) -> Option<Run> {
        let at = timed.at;
        match &timed.event {
            PoolEvent::PoolStarted { gateways } => {
                self.place(gateways.saturating_sub(1));
            }
            PoolEvent::PoolFinished => {
                self.is_over = true;
                self.gateways.iter_mut().for_each(|place| (place.pid, place.memory) = (None, None));
            }
            PoolEvent::TaskQueued { .. } => self.queued += 1,
            PoolEvent::TaskStarted { task, gateway, attempt } => {
                self.place(*gateway).tasks.push_back((*task, at, *attempt));
            }
            PoolEvent::TaskTakenBack { task, gateway } => {
                self.place(*gateway).leave(*task);
            }
            PoolEvent::TaskRetried { task, gateway, cause, attempts } => {
                self.retried[*cause as usize] += 1;
                let place = self.place(*gateway);
                let (began, attempt) = place.leave(*task).unwrap_or((at, *attempts));
                let start = began.max(place.last_end);
                place.ran(start, at);
                let run = Run { task: *task, gateway: *gateway, attempt, start, end: at, outcome: *cause, again: true };
                // What was behind the run that lost the worker has not run at all.
                return (run.start < run.end).then_some(run);
            }
            PoolEvent::TaskFinished { task, gateway, outcome, attempts, duration } => {
                self.outcomes[*outcome as usize] += 1;
                self.last_end = self.last_end.max(at);
                let gateway = (*gateway)?;
                // How long something took until it was cancelled tells nothing.
                let counts = u64::from(*outcome != OutcomeKind::Cancelled);
                if counts > 0 {
                    self.times.record(*duration);
                    let seconds = duration.as_secs_f64();
                    let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
                    self.buckets[bucket] += 1;
                }
                let place = self.place(gateway);
                place.leave(*task);
                place.finished += counts;
                place.failed += counts * u64::from(*outcome != OutcomeKind::Returned);
                let start = at.saturating_sub(*duration);
                place.ran(start, at);
                let attempt = (*attempts).max(1);
                return Some(Run { task: *task, gateway, attempt, start, end: at, outcome: *outcome, again: false });
            }
            event => self.gateway_event(at, event),
        }
        None
    }

    fn gateway_event(&mut self, at: Duration, event: &PoolEvent) {
        let (gateway, what, told) = match event {
            PoolEvent::GatewayStarting { gateway, id } => {
                self.place(*gateway).id = Some(Arc::clone(id));
                return;
            }
            PoolEvent::GatewayStarted { gateway, id, pid } => {
                let place = self.place(*gateway);
                place.id = Some(Arc::clone(id));
                place.has_worker(*pid);
                (*gateway, What::Started, pid_text(*pid))
            }
            PoolEvent::GatewayReplaced { gateway, pid, .. } => {
                self.place(*gateway).has_worker(*pid);
                (*gateway, What::Replaced, pid_text(*pid))
            }
            PoolEvent::GatewayRecycled { gateway, pid } => {
                let place = self.place(*gateway);
                place.recycled += 1;
                place.has_worker(*pid);
                (*gateway, What::Recycled, pid_text(*pid))
            }
            PoolEvent::GatewayLost { gateway, loss } => {
                let place = self.place(*gateway);
                place.lost += 1;
                if let LossCause::Link { problem, .. } = &loss.cause {
                    *place.links.entry(problem.to_string()).or_default() += 1;
                }
                (place.pid, place.memory) = (None, None);
                let mut told = loss.to_string();
                let tail = text::tail(loss.stderr_tail.trim_end(), 1000);
                if !tail.is_empty() && !told.contains(tail) {
                    told = format!("{told}\n{tail}");
                }
                (*gateway, What::Lost, told)
            }
            PoolEvent::GatewayFailed { gateway, error, again_in } => {
                self.place(*gateway).failed_starts += 1;
                (*gateway, What::Failed, format!("{error}; again in {}", text::time(*again_in)))
            }
            PoolEvent::GatewayLeft { gateway } => {
                let place = self.place(*gateway);
                (place.pid, place.memory) = (None, None);
                (*gateway, What::Left, String::new())
            }
            _ => return,
        };
        if self.marks.len() < MOST_MARKS {
            self.marks.push(Mark { at, gateway, what, text: told });
        } else {
            self.marks_left_out += 1;
        }
    }

    fn place(&mut self, gateway: usize) -> &mut Place {
        if self.gateways.len() <= gateway {
            self.gateways.resize_with(gateway + 1, Place::default);
        }
        &mut self.gateways[gateway]
    }
}

impl Place {
    /// The task is not on it any more: when it was put there, and which attempt that was.
    fn leave(&mut self, task: u64) -> Option<(Duration, u32)> {
        let position = self.tasks.iter().position(|&(on, _, _)| on == task)?;
        self.tasks.remove(position).map(|(_, since, attempt)| (since, attempt))
    }

    fn ran(&mut self, start: Duration, end: Duration) {
        // Runs of a gateway that overlap count once.
        self.busy += end.saturating_sub(start.max(self.last_end));
        self.last_end = self.last_end.max(end);
    }

    fn has_worker(&mut self, pid: Option<u32>) {
        (self.pid, self.workers) = (pid, self.workers + 1);
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!("worker process {pid}"))
}

/// Distribution of durations with 32 buckets to a doubling: what is read from it is at most 3 % too large.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    buckets: Vec<u64>,
    count: u64,
    pub(super) total: Duration,
    pub(super) longest: Duration,
}

impl Times {
    pub(super) fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 1);
        let bucket = match micros {
            0..64 => micros,
            _ => {
                let shift = micros.ilog2() - 5;
                u64::from(shift) * 32 + (micros >> shift)
            }
        };
        let bucket = usize::try_from(bucket).unwrap_or(usize::MAX).min(2047);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.total = self.total.saturating_add(time);
        self.longest = self.longest.max(time);
    }

    /// What this part of all, from 0 to 1, does not exceed.
    pub(super) fn quantile(&self, part: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "a rank need not be exact beyond 2^53")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is clamped by the cast")]
        let rank = ((part * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        let bucket = bucket as u64;
        let bound = match bucket {
            0..64 => bucket,
            _ => {
                let shift = bucket / 32 - 1;
                ((bucket % 32 + 33) << shift) - 1
            }
        };
        Some(Duration::from_micros(bound).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandgate::WorkerLoss;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn take(tally: &mut Tally, at: u64, event: PoolEvent) -> Option<Run> {
        tally.take(&TimedEvent { at: ms(at), event })
    }

    #[test]
    fn what_was_put_behind_another_begins_when_that_has_ended() {
        let mut tally = Tally::new(1);
        let (gateway, attempt) = (0, 1);
        for task in [0, 1, 2] {
            take(&mut tally, 0, PoolEvent::TaskQueued { task });
            take(&mut tally, 5, PoolEvent::TaskStarted { task, gateway, attempt });
        }
        let outcome = OutcomeKind::Returned;
        let finished = PoolEvent::TaskFinished { task: 0, gateway: Some(0), outcome, attempts: 1, duration: ms(10) };
        let run = take(&mut tally, 15, finished).unwrap();
        assert_eq!((run.start, run.end), (ms(5), ms(15)));
        assert_eq!(tally.gateways[0].current(), Some((1, ms(15))));
        let loss = WorkerLoss {
            gateway: "gw0".to_owned(),
            pid: None,
            cause: LossCause::Signaled { signal: 9 },
            stderr_tail: "the end".to_owned(),
        };
        take(&mut tally, 20, PoolEvent::GatewayLost { gateway, loss: Box::new(loss) });
        let retried = |task| PoolEvent::TaskRetried { task, gateway, cause: OutcomeKind::WorkerLost, attempts: 0 };
        let run = take(&mut tally, 20, retried(1)).unwrap();
        assert_eq!((run.start, run.end, run.attempt, run.again), (ms(15), ms(20), 1, true));
        assert_eq!(take(&mut tally, 20, retried(2)), None, "it was not run");
        assert_eq!((tally.busy(), tally.retried(), tally.lost(), tally.queued), (ms(15), 2, 1, 3));
        assert!(tally.marks[0].text.contains("the end"));
        assert_eq!(tally.gateways[0].current(), None);
    }

    #[test]
    fn quantiles_are_at_most_three_percent_too_large() {
        let mut times = Times::default();
        (1..=10_000).for_each(|n| times.record(Duration::from_micros(n * 100)));
        for part in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let (found, exact) = (times.quantile(part).unwrap().as_secs_f64(), part);
            assert!(exact <= found + 1e-9 && found <= exact * 1.033, "{part}: {found}");
        }
        assert_eq!(Times::default().quantile(0.5), None);
    }

    #[test]
    fn samples_of_memory_are_thinned_out() {
        let mut place = Place::default();
        (0..100_000).for_each(|at| place.memory_is(ms(at), Some(at)));
        assert!(place.samples.len() < MOST_SAMPLES);
        assert!(place.samples.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(place.peak, 99_999);
        assert!(place.samples.last().unwrap().0 > ms(99_000));
    }
}
