//! How long to look before sleeping: as long as looking pays.
//!
//! A peer that answers within microseconds is met awake, which saves it a system call and this side a wake-up, tens of
//! microseconds. But who spins holds a processor. So:
//!
//! 1. Looking goes on for the *budget*. It grows when something comes within it, up to [`MOST`], and is quartered when
//!    nothing does; below [`LEAST`] there is none.
//! 2. A sleep that was over sooner than a spin could have been is counted as one that would have paid, and brings the budget
//!    back.
//! 3. After a moment each look is followed by a yield. If that takes long, somebody else had need of the processor: then
//!    there is no budget, and the next sleeps, ever more of them, do not bring it back.
//! 4. Of a process no more spin at once than half of its processors.

use std::hint;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MOST: Duration = Duration::from_micros(50);
const LEAST: Duration = Duration::from_micros(2);
/// Looking without yields.
const TIGHT: Duration = Duration::from_micros(4);
/// Looks between two looks at the clock.
const LOOKS: u32 = 16;
/// A yield that takes longer has let somebody else run.
const LATE: Duration = Duration::from_micros(5);
/// Sleeps that do not count after somebody else had need of the processor, at first and at most.
const FIRST_PENANCE: u32 = 16;
const LONGEST_PENANCE: u32 = 4096;

/// Threads of this process that spin.
static SPINNING: AtomicUsize = AtomicUsize::new(0);
/// How many may.
static MAX_SPINNING: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(0, |it| it.get() / 2));

/// What one side knows of whether it pays.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    /// When the last wait began.
    since: Option<Instant>,
    /// Sleeps that do not bring the budget back.
    penance: u32,
    next_penance: u32,
}

impl Default for Spin {
    fn default() -> Spin {
        // Asked for now, since a worker that is locked in cannot.
        LazyLock::force(&MAX_SPINNING);
        Spin { budget: MOST, since: None, penance: 0, next_penance: FIRST_PENANCE }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Ready,
    TooLate,
    /// Somebody else had need of the processor.
    Contended,
}

impl Spin {
    /// Looks for so long at most, and lets others have the processor meanwhile who need it. Nothing is remembered. Whether it found
    /// something.
    pub(crate) fn for_once(most: Duration, ready: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        let others = SPINNING.fetch_add(1, Ordering::Relaxed);
        let found = others < *MAX_SPINNING
            && loop {
                match look(start, most, &ready) {
                    End::Ready => break true,
                    End::TooLate => break false,
                    End::Contended => {}
                }
            };
        SPINNING.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// Looks for a while, if that pays; whether it found something.
    pub(crate) fn until(&mut self, ready: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        self.since = Some(start);
        if self.budget.is_zero() || *MAX_SPINNING == 0 {
            return false;
        }
        let others = SPINNING.fetch_add(1, Ordering::Relaxed);
        let end = (others < *MAX_SPINNING).then(|| look(start, self.budget, ready));
        SPINNING.fetch_sub(1, Ordering::Relaxed);
        end.is_some_and(|end| {
            self.ended(&end);
            end == End::Ready
        })
    }

    fn ended(&mut self, end: &End) {
        match end {
            End::Ready => {
                self.budget = (self.budget * 2).min(MOST);
                self.next_penance = (self.next_penance - self.next_penance / 8).max(FIRST_PENANCE);
            }
            End::TooLate => {
                self.budget /= 4;
                if self.budget < LEAST {
                    self.budget = Duration::ZERO;
                }
            }
            End::Contended => {
                self.budget = Duration::ZERO;
                self.penance = self.next_penance;
                self.next_penance = (self.next_penance * 2).min(LONGEST_PENANCE);
            }
        }
    }

    /// The sleep that followed is over.
    pub(crate) fn slept(&mut self) {
        let Some(since) = self.since.take() else { return };
        if self.penance > 0 {
            self.penance -= 1;
        } else if since.elapsed() < MOST {
            self.budget = MOST;
        }
    }
}

fn look(start: Instant, budget: Duration, ready: impl Fn() -> bool) -> End {
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return End::Ready;
            }
            hint::spin_loop();
        }
        let before = Instant::now();
        let spent = before.saturating_duration_since(start);
        if spent >= budget {
            return End::TooLate;
        }
        if spent >= TIGHT {
            thread::yield_now();
            if before.elapsed() > LATE {
                return if ready() { End::Ready } else { End::Contended };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ends: &[End]) -> Spin {
        let mut spin = Spin::default();
        ends.iter().for_each(|end| spin.ended(end));
        spin
    }

    #[test]
    fn what_does_not_pay_is_soon_given_up_and_what_pays_comes_back() {
        assert_eq!(after(&[]).budget, MOST);
        let none = [End::TooLate, End::TooLate, End::TooLate];
        assert_eq!(after(&none).budget, Duration::ZERO);
        let mut spin = after(&none);
        assert!(!spin.until(|| true), "without a budget nobody looks");
        spin.slept();
        assert!(spin.budget > LEAST, "a short sleep would have paid");
        spin.ended(&End::Ready);
        spin.ended(&End::Ready);
        spin.ended(&End::Ready);
        assert_eq!(spin.budget, MOST);
    }

    #[test]
    fn who_is_in_the_way_stays_asleep_ever_longer() {
        let mut spin = after(&[End::Contended]);
        assert_eq!((spin.budget, spin.penance), (Duration::ZERO, FIRST_PENANCE));
        for _ in 0..FIRST_PENANCE {
            assert!(!spin.until(|| true));
            spin.slept();
            assert_eq!(spin.budget, Duration::ZERO);
        }
        assert!(!spin.until(|| true));
        spin.slept();
        assert!(!spin.budget.is_zero());
        spin.ended(&End::Contended);
        assert_eq!(spin.penance, 2 * FIRST_PENANCE);
        for _ in 0..30 {
            spin.ended(&End::Contended);
        }
        assert_eq!(spin.penance, LONGEST_PENANCE);
    }
}
