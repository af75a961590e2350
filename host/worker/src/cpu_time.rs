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
//! the connection, is not its own either: an execution is charged with the time that has passed outside of its waits, or with
//! what its thread has used if that is less. Both are at least what it has used, and a wait costs no system call. Where
//! threads wait for processors it can be charged with more: with as much of what its thread reads in its waits as it had to wait.

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
    /// When it began, and what its thread had used before it.
    began: OnceLock<(Instant, Duration)>,
    /// Nanoseconds of its waits, up to the last that is over.
    waited: AtomicU64,
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
            waited: AtomicU64::new(0),
            due: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            armed: Mutex::default(),
        }
    }

    /// For the execution's thread, when it begins, which is `now`. Returns after how long to look.
    pub(crate) fn begin(&self, now: Instant) -> Duration {
        let _ = self.began.set((now, used_until(now)));
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
        let left = self.budget.saturating_sub(self.charged());
        Some((!left.is_zero()).then(|| left.max(LEAST_LEFT)))
    }

    fn charged(&self) -> Duration {
        let Some((began, before)) = self.began.get() else { return Duration::ZERO };
        let used = used_by_this_thread().saturating_sub(*before);
        let waited = Duration::from_nanos(self.waited.load(Ordering::Relaxed));
        used.min(began.elapsed().saturating_sub(waited))
    }

    /// For the execution's thread, which waits in `action`, and is charged with nothing of that.
    pub(crate) fn wait(&self, action: impl FnOnce()) {
        let since = Instant::now();
        action();
        let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(waited, Ordering::Relaxed);
    }

    /// For the execution's thread, which waits from here on, or no more, whatever else it does meanwhile.
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
            && cpu.budget + cpu.began.get().unwrap().1 > used_by_this_thread()
        {}
        cpu.set_waiting(true);
        assert!(!cpu.fall_due() && !cpu.is_overlooked());
        cpu.set_waiting(false);
        assert!(cpu.is_overlooked());
        assert_eq!(cpu.look(), Some(None));
    }

    #[test]
    fn what_the_thread_does_in_a_wait_is_not_charged_and_what_it_does_outside_is() {
        const LONG: Duration = Duration::from_millis(20);
        let cpu = CpuTime::new(Duration::from_secs(100));
        let start = Instant::now();
        cpu.begin(start);
        let compute = || {
            let start = used_by_this_thread();
            while used_by_this_thread() - start < LONG {}
        };
        let mut waited = Duration::ZERO;
        let mut wait = |action: &dyn Fn()| {
            cpu.wait(|| {
                let since = Instant::now();
                action();
                waited += since.elapsed();
            });
            assert!(cpu.charged() + waited <= start.elapsed());
        };
        wait(&compute);
        compute();
        assert!(cpu.charged() >= LONG);
        // Whoever has slept has no more to use for that.
        let sleep = || {
            let _ = std::sync::mpsc::sync_channel::<()>(0).1.recv_timeout(LONG);
        };
        wait(&sleep);
        compute();
        assert!(cpu.charged() >= 2 * LONG);
    }
}
