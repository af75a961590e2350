//! Whose task is next: several kinds of jobs share one worker, and together they have no more tasks in their pools than it runs at
//! once. A kind that is alone has more ahead, so that no gateway waits for the next task.

use std::time::Duration;

/// Work ahead in the pool of a kind that is alone, for each gateway: as much as the way to another machine takes. Another kind
/// that comes waits that long for its turn.
const AHEAD: Duration = Duration::from_millis(50);
/// Tasks that take longer have none of their kind behind them.
const LONG: Duration = Duration::from_secs(1);
/// The least and the most that others have.
const TASKS_AHEAD: (usize, usize) = (2, 64);
/// How much the newest run time counts.
const NEWEST: f64 = 0.1;

/// What is known of how long tasks take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean(Option<f64>);

impl Mean {
    /// A task has taken so long.
    pub(super) fn took(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        self.0 = Some(self.0.map_or(time, |mean| mean + (time - mean) * NEWEST));
    }

    /// How many tasks such a time holds.
    pub(super) fn fit(self, time: Duration) -> Option<usize> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float becomes the nearest number"
        )]
        self.0.map(|mean| (time.as_secs_f64() / mean.max(1e-9)) as usize)
    }

    /// Tasks that the pool of a kind has for each gateway while no other kind has any.
    pub(super) fn ahead(self) -> usize {
        match (self.fit(LONG), self.fit(AHEAD)) {
            (Some(1..), Some(tasks)) => tasks.clamp(TASKS_AHEAD.0, TASKS_AHEAD.1),
            _ => 1,
        }
    }
}

/// What one kind of job has here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Whether it has a task that waits, and a pool that takes it.
    pub(super) waits: bool,
    /// Tasks that its pool has.
    pub(super) inside: usize,
    /// How many that may be for each gateway, if no other kind has any.
    pub(super) ahead: usize,
    /// When it had its last turn.
    pub(super) turn: u64,
}

/// The kind whose task is next, if there is room for one more among so many gateways: the one that has least.
pub(super) fn next(loads: impl Iterator<Item = Load> + Clone, lanes: usize) -> Option<usize> {
    let (mut busy, mut inside, mut ahead) = (0, 0, 0);
    for load in loads.clone().filter(|load| load.waits || load.inside > 0) {
        (busy, inside, ahead) = (busy + 1, inside + load.inside, load.ahead);
    }
    let most = if busy == 1 { lanes.saturating_mul(ahead) } else { lanes };
    if inside >= most {
        return None;
    }
    let waiting = loads.enumerate().filter(|(_, load)| load.waits);
    waiting.min_by_key(|(_, load)| (load.inside, load.turn)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_has_work_ahead_and_nobody_else() {
        let load = |waits, inside, turn| Load { waits, inside, ahead: 8, turn };
        let check = |loads: &[Load], expected| assert_eq!(next(loads.iter().copied(), 4), expected, "{loads:?}");
        check(&[], None);
        check(&[load(false, 0, 0)], None);
        check(&[load(true, 31, 0), load(false, 0, 0)], Some(0));
        check(&[load(true, 32, 0), load(false, 0, 0)], None);
        // Another one has come: nothing until there is room for it, and then it is the one.
        check(&[load(true, 31, 0), load(true, 0, 0)], None);
        check(&[load(true, 4, 0), load(true, 0, 0)], None);
        check(&[load(true, 3, 0), load(true, 0, 0)], Some(1));
        // Nothing of it waits, but it has one that runs.
        check(&[load(true, 3, 0), load(false, 1, 0)], None);
        check(&[load(true, 2, 0), load(false, 1, 0)], Some(0));
        // With one gateway for many kinds they have it in turn.
        let in_turn = [load(true, 0, 3), load(true, 0, 1), load(true, 0, 2)];
        assert_eq!(next(in_turn.into_iter(), 1), Some(1));
    }

    #[test]
    fn short_tasks_have_many_ahead_and_long_ones_none() {
        let check = |time: Duration, expected| {
            let mut mean = Mean::default();
            assert_eq!(mean.ahead(), 1, "nothing is known");
            (0..100).for_each(|_| mean.took(time));
            assert_eq!(mean.ahead(), expected, "{time:?}");
        };
        check(Duration::ZERO, 64);
        check(Duration::from_millis(10), 5);
        check(Duration::from_millis(900), 2);
        check(Duration::from_secs(2), 1);
    }
}
