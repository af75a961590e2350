//! Processor time of one execution, and when to look at it. Nothing ticks: the clock has one entry for each execution, at
//! the earliest moment at which its time could be used up.
//!
//! ```text
//!  armed at now + what is left ──► due ──► its own thread looks ──► used up: it stops
//!     ▲                                          └── not used up ──┐
//!     └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Only the thread itself is asked how much it has used, so nothing has to be known about it elsewhere. One that waits
//! uses none: it is not woken to look, but looks when its wait is over. What it does meanwhile for the whole worker, reading
//! the connection, is not its own either.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// What is left is looked at again after this long at the earliest. The budget can be exceeded by as much.
const LEAST_LEFT: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct CpuTime {
    budget: Duration,
    /// What its thread had used before it.
    began: OnceLock<Duration>,
    /// What its thread has used for others meanwhile, in nanoseconds.
    excused: AtomicU64,
    /// The budget may be used up, and the thread has not looked yet.
    due: AtomicBool,
    /// The thread waits, or is about to, and looks when it does not any more.
    waiting: AtomicBool,
    /// Its entry in the clock.
    pub(crate) armed: Mutex<Option<(Instant, u64)>>,
}

impl CpuTime {
    pub(crate) fn new(budget: Duration) -> CpuTime {
        CpuTime {
            budget,
            began: OnceLock::new(),
            excused: AtomicU64::new(0),
            due: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            armed: Mutex::default(),
        }
    }

    /// For the execution's thread, when it begins, which is `now`. Returns after how long to look.
    pub(crate) fn begin(&self, now: Instant) -> Duration {
        let _ = self.began.set(used_until(now));
        self.budget
    }

    /// For the clock: the moment has come. Says whether the thread is to be made to look.
    pub(crate) fn fall_due(&self) -> bool {
        self.due.store(true, Ordering::SeqCst);
        !self.waiting.load(Ordering::SeqCst)
    }

    /// For the clock: whether the thread has still not looked, and does not wait.
    pub(crate) fn is_overlooked(&self) -> bool {
        self.due.load(Ordering::SeqCst) && !self.waiting.load(Ordering::SeqCst)
    }

    /// For the execution's thread: the moment has come, and it has this much left; none if all is used.
    pub(crate) fn look(&self) -> Option<Option<Duration>> {
        if !self.due.load(Ordering::Relaxed) || !self.due.swap(false, Ordering::SeqCst) {
            return None;
        }
        let began = self.began.get().copied().unwrap_or_default();
        let excused = Duration::from_nanos(self.excused.load(Ordering::Relaxed));
        let left = self.budget.saturating_sub(used_by_this_thread().saturating_sub(began + excused));
        Some((!left.is_zero()).then(|| left.max(LEAST_LEFT)))
    }

    /// Does something on the execution's thread that it is not charged for.
    pub(crate) fn excuse(&self, action: impl FnOnce()) {
        let before = used_by_this_thread();
        action();
        let used = used_by_this_thread().saturating_sub(before);
        self.excused.fetch_add(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }
}

thread_local! {
    /// When this thread has looked last what it has used, and what that was.
    static LAST_LOOK: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// What this thread has used until now, or up to [`LEAST_LEFT`] more: it is not asked anew for each of many short executions,
/// since that is a system call. No more than the time that has passed can have been used since it was asked.
fn used_until(now: Instant) -> Duration {
    if let Some((at, used)) = LAST_LOOK.get() {
        let passed = now.saturating_duration_since(at);
        if passed < LEAST_LEFT {
            return used + passed;
        }
    }
    let used = used_by_this_thread();
    LAST_LOOK.set(Some((now, used)));
    used
}

fn used_by_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_thread_computes_counts() {
        let cpu = CpuTime::new(Duration::from_millis(5));
        assert_eq!(cpu.begin(Instant::now()), Duration::from_millis(5));
        assert_eq!(cpu.look(), None, "the moment has not come");
        assert!(cpu.fall_due());
        assert!(matches!(cpu.look(), Some(Some(left)) if left > Duration::from_millis(1)));
        assert_eq!(cpu.look(), None);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500)
            && cpu.budget + cpu.began.get().copied().unwrap() > used_by_this_thread()
        {}
        cpu.set_waiting(true);
        assert!(!cpu.fall_due() && !cpu.is_overlooked());
        cpu.set_waiting(false);
        assert!(cpu.is_overlooked());
        assert_eq!(cpu.look(), Some(None));
    }
}
