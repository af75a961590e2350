//! [`Deadline`]: until when a call waits. Computed once, so that waiting in several steps takes no longer than one.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, MutexGuard};

/// Until when to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    timeout: Duration,
}

impl Deadline {
    pub(crate) const NEVER: Deadline = Deadline { at: None, timeout: Duration::MAX };

    /// A deadline `timeout` from now; one beyond the clock's range is never.
    pub(crate) fn after(timeout: Duration) -> Deadline {
        Deadline { at: Instant::now().checked_add(timeout), timeout }
    }

    /// What is left of it; `None` for one that never comes.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The moment, unless it never comes.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it has come.
    pub(crate) fn is_over(&self) -> bool {
        self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// The time it was made with.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The sooner of two.
    pub(crate) fn sooner(self, other: Deadline) -> Deadline {
        match (self.at, other.at) {
            (None, _) => other,
            (Some(ours), Some(theirs)) if theirs < ours => other,
            _ => self,
        }
    }

    /// This deadline, or an earlier one by `margin`.
    pub(crate) fn earlier(&self, margin: Duration) -> Deadline {
        Deadline { at: self.at.map(|at| at.checked_sub(margin).unwrap_or(at)), timeout: self.timeout }
    }

    /// Waits on a condition once; an error is the timeout that has passed.
    pub(crate) fn wait<T>(&self, condition: &Condvar, guard: &mut MutexGuard<'_, T>) -> Result<(), Duration> {
        match self.at {
            None => condition.wait(guard),
            Some(at) => {
                if condition.wait_until(guard, at).timed_out() && Instant::now() >= at {
                    return Err(self.timeout);
                }
            }
        }
        Ok(())
    }
}
