//! For benchmarks only: what has no way in from outside.

use std::time::{Duration, Instant};

use crate::pool::{Action, Core, RetryOn, Rules, Verdict};

/// A pool's decisions without gateways, on so many lanes: each call takes a batch of 64 tasks from their submission to their
/// ends.
pub fn pool_core(lanes: usize) -> impl FnMut() {
    const BATCH: u64 = 64;
    // No decision of these depends on how much time passes.
    let now = Instant::now();
    let rules = Rules {
        max_losses: 3,
        max_in_flight: 64,
        retries: 0,
        retry_on: RetryOn::none(),
        start_attempts: 5,
        patience: None,
        grace: Duration::from_secs(1),
        sessions: false,
        watched_deadline: None,
    };
    let mut core: Core<u64, u64> = Core::new(rules, lanes, now, false);
    (0..lanes).for_each(|lane| core.lane_up(lane, now));
    let mut next = 0;
    move || {
        (next..next + BATCH).for_each(|task| core.submit(task, task, now));
        next += BATCH;
        while core.unfinished() > 0 {
            core.dispatch(now);
            assert!(!core.actions.is_empty(), "there are tasks and free lanes, and nothing is to be done");
            for action in std::mem::take(&mut core.actions) {
                if let Action::Run { lane, task, run } = action {
                    core.ended(lane, run, Verdict::Value(task), now);
                }
            }
        }
        core.finished.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_goes_on_for_ever() {
        let mut batch = pool_core(2);
        (0..100).for_each(|_| batch());
    }
}
