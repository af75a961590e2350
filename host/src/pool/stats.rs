//! Numbers of a pool: counted as it goes, copied when somebody asks.

use std::time::Duration;

use super::result::OutcomeKind;

/// Buckets of a [`Histogram`]: four for each doubling, from 1 µs up to over an hour.
const BUCKETS: usize = 128;
const PER_DOUBLING: u32 = 4;

/// A distribution of durations, in a fixed number of buckets whose bounds grow by a fifth or so: whatever is read from it
/// is at most a quarter too large.
///
/// ```
/// use std::time::Duration;
/// use sandgate::Histogram;
///
/// let mut histogram = Histogram::default();
/// (1..=100).for_each(|ms| histogram.record(Duration::from_millis(ms)));
/// let median = histogram.quantile(0.5).unwrap();
/// assert!(Duration::from_millis(50) <= median && median <= Duration::from_micros(62_500));
/// assert_eq!(histogram.count(), 100);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    total: Duration,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [0; BUCKETS], count: 0, total: Duration::ZERO, longest: Duration::ZERO }
    }
}

impl Histogram {
    /// Adds a duration.
    pub fn record(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] += 1;
        self.count += 1;
        self.total = self.total.saturating_add(duration);
        self.longest = self.longest.max(duration);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The duration that this part of all, from 0 to 1, does not exceed; `None` if there are none.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "a rank need not be exact beyond 2^53")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is clamped by the cast")]
        let rank = ((part.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(|bucket| upper_bound(bucket).min(self.longest))
    }

    /// The buckets that hold something: the bound that its durations do not exceed, and how many there are.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let counted = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(bucket, &count)| (upper_bound(bucket), count))
    }
}

/// Four to a doubling: the two bits after the highest one choose among them.
fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).saturating_sub(1);
    if micros < u64::from(PER_DOUBLING) {
        return usize::try_from(micros).unwrap_or(0);
    }
    let doubling = micros.ilog2();
    let quarter = (micros >> (doubling - 2)) & 3;
    let bucket = u64::from((doubling - 1) * PER_DOUBLING) + quarter;
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let bucket = bucket as u64;
    let per = u64::from(PER_DOUBLING);
    if bucket < per {
        return Duration::from_micros(bucket + 1);
    }
    let (doubling, quarter) = (bucket / per + 1, bucket % per);
    Duration::from_micros((per + quarter + 1) << (doubling - 2))
}

/// What the scheduler counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) queued: u64,
    pub(crate) retried: u64,
    pub(crate) lost_workers: u64,
    pub(crate) kinds: [u64; OutcomeKind::ALL.len()],
    pub(crate) run_times: Histogram,
}

impl Counts {
    /// A task is through, after a run of this duration if there was one.
    pub(crate) fn finished(&mut self, kind: OutcomeKind, ran: Option<Duration>) {
        self.kinds[kind as usize] += 1;
        ran.into_iter().for_each(|ran| self.run_times.record(ran));
    }
}

/// A pool at one moment; see [`Pool::stats`](super::Pool::stats).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// Tasks that the pool was given.
    pub queued: u64,
    /// Tasks that have a value.
    pub done: u64,
    /// Tasks that have none, by cause; causes of none are left out.
    pub failed: Vec<(OutcomeKind, u64)>,
    /// Runs that were repeated.
    pub retried: u64,
    /// Workers that were lost.
    pub lost_workers: u64,
    /// Tasks that wait or run.
    pub unfinished: usize,
    /// Workers that are ready to take the place of one that is lost: see [`spares`](super::PoolBuilder::spares).
    pub spares: usize,
    /// How long tasks ran, as [`Timing::run_time`](super::Timing::run_time) tells it.
    pub run_times: Histogram,
    /// One for each place that a gateway has, in order.
    pub gateways: Vec<GatewayStats>,
    /// Events that were dropped because nobody took them.
    pub dropped_events: u64,
}

/// One of a pool's gateways at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GatewayStats {
    /// Tasks that it was given and that have not ended.
    pub in_flight: usize,
    /// The worker's process id, if it is there.
    pub pid: Option<u32>,
    /// The worker's resident memory in bytes, if it is there.
    pub memory_bytes: Option<u64>,
    /// How many workers it has had.
    pub workers: u64,
}

impl PoolStats {
    /// Tasks that have no value.
    pub fn failed(&self) -> u64 {
        self.failed.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_its_bucket_and_no_bound_is_a_quarter_too_large() {
        for micros in (0..2000).chain([10_000, 123_456, 60_000_000, 3_600_000_000]) {
            let (duration, bound) = (Duration::from_micros(micros), upper_bound(bucket(Duration::from_micros(micros))));
            assert!(duration <= bound, "{micros}");
            assert!(bound <= Duration::from_micros(micros.max(1) * 5 / 4 + 1), "{micros}: {bound:?}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_distribution_has_no_quantiles() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
