//! How long to look before sleeping: as long as looking pays.
//!
//! A peer that answers within microseconds is met awake, which saves it a system call and this side a wake-up, tens of
//! microseconds. But who spins holds a processor. So:
//!
//! 1. Looking goes on for the *budget*, but for 5 and 6. It grows when something comes within it, up to [`MOST`], and is quartered when
//!    nothing does; below [`LEAST`] there is none.
//! 2. A sleep that was over sooner than a spin could have been is counted as one that would have paid, and brings the budget
//!    back.
//! 3. After a moment each look is followed by a yield. If that takes long, somebody else had need of the processor: then
//!    there is no budget, and the next sleeps, ever more of them, do not bring it back.
//! 4. Of a process no more spin at once than half of its processors.
//! 5. After many quick answers one looks for longer: the peer has probably been interrupted. An answer that comes then is no quick one,
//!    so that a peer which has become slow is waited for asleep after a few of them.
//! 6. If yields take as long as a turn of the peer does, again and again, both are on one processor. A kernel that is a guest itself
//!    brings them together, since it takes processors that sleep for such as its own host has taken away, and leaves them so for tens
//!    of milliseconds, in which a hop takes ten times as long. Then a thread of the side that [may](let_threads_step_aside) steps aside.

use std::fs;
use std::hint;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

const MOST: Duration = Duration::from_micros(50);
const LEAST: Duration = Duration::from_micros(2);
/// Looking without yields.
const TIGHT: Duration = Duration::from_micros(4);
/// Looks between two looks at the clock.
const LOOKS: u32 = 16;
/// A yield that takes so long has let a peer have its turn, which looks for [`TIGHT`] at its end.
const TURN: Duration = Duration::from_micros(3);
/// One that takes longer than this has let somebody else run, who computes.
const LATE: Duration = Duration::from_micros(300);
/// Waits with such turns, one after the other, by which the two tell that they are on one processor.
const TOGETHER: u32 = 8;
/// A thread that has stepped aside does so again after this time at the earliest, and each time after twice as long as before, unless
/// it need not for a while.
const FIRST_STAY: Duration = Duration::from_millis(1);
const LONGEST_STAY: Duration = Duration::from_millis(100);
/// How long one looks, and lets others run, that suspects to be on the peer's processor: while the peer steps aside. If it slept,
/// the peer's ring would have it follow.
const STEP: Duration = Duration::from_micros(300);
/// One looks for so long for each quick answer before it. If one slept instead, the peer's ring would bring
/// both onto one processor.
const FOR_EACH_ANSWER: Duration = Duration::from_micros(1);
/// More are not counted, so that this is [`STEP`] at most.
const MOST_QUICK: u32 = 300;
/// Sleeps that do not count after somebody else had need of the processor, at first and at most.
const FIRST_PENANCE: u32 = 16;
const LONGEST_PENANCE: u32 = 4096;

/// Threads of this process that spin.
static SPINNING: AtomicUsize = AtomicUsize::new(0);
/// How many may.
static MAX_SPINNING: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(0, |it| it.get() / 2));

/// Whether threads of this process may be moved.
static STEPS_ASIDE: AtomicBool = AtomicBool::new(false);

/// From here on threads of this process that wait for a peer on their own processor step aside: for hosts, since a worker may not
/// move its threads. A process whose system calls are filtered leaves it: the filter may end it for that.
pub fn let_threads_step_aside() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    STEPS_ASIDE.store(is_unfiltered(&status), Ordering::Relaxed);
}

/// Whether a process with this status (proc_pid_status(5)) has no filter of system calls, as far as that is known.
fn is_unfiltered(status: &str) -> bool {
    status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "0"]))
}

/// What one side knows of whether it pays.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    /// When the last wait began.
    since: Option<Instant>,
    /// Sleeps that do not bring the budget back.
    penance: u32,
    next_penance: u32,
    /// Quick answers, but for a part of those before one that was not.
    quick: u32,
    /// Waits in which the peer had a turn on this processor, since the last one in which nobody took one.
    together: u32,
    /// When it stepped aside last, and for how long it does not do so again.
    stays: (Option<Instant>, Duration),
}

impl Default for Spin {
    fn default() -> Spin {
        // Asked for now, since a worker that is locked in cannot.
        LazyLock::force(&MAX_SPINNING);
        Spin {
            budget: MOST,
            since: None,
            penance: 0,
            next_penance: FIRST_PENANCE,
            quick: 0,
            together: 0,
            stays: (None, FIRST_STAY),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Ready,
    /// It came, but a wait of [`MOST`] would have been over.
    Slow,
    TooLate,
    /// Somebody else had need of the processor.
    Contended,
}

/// What became of yields.
#[derive(Debug, PartialEq, Eq)]
enum Turns {
    /// The peer had a turn on this processor, as far as can be told.
    Given,
    NobodyTook,
}

impl Spin {
    /// Looks for so long at most, and lets others have the processor meanwhile who need it. Nothing is remembered. Whether it found
    /// something.
    pub(crate) fn for_once(most: Duration, ready: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        let others = SPINNING.fetch_add(1, Ordering::Relaxed);
        let found = others < *MAX_SPINNING
            && loop {
                match look(start, most, &ready).0 {
                    End::Ready | End::Slow => break true,
                    End::TooLate => break false,
                    End::Contended => {}
                }
            };
        SPINNING.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// Looks for a while, if that pays, and not beyond `deadline`; whether it found something.
    pub(crate) fn until(&mut self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        self.since = Some(start);
        if self.budget.is_zero() || *MAX_SPINNING == 0 {
            return false;
        }
        let others = SPINNING.fetch_add(1, Ordering::Relaxed);
        let patience = self.patience();
        let budget = deadline.map_or(patience, |at| patience.min(at.saturating_duration_since(start)));
        let end = (others < *MAX_SPINNING).then(|| look(start, budget, ready));
        SPINNING.fetch_sub(1, Ordering::Relaxed);
        if end.is_none() {
            self.quick = 0;
        }
        end.is_some_and(|(end, turns)| {
            // What a deadline has cut short says nothing.
            if budget == patience || end != End::TooLate {
                self.ended(&end);
            }
            if self.is_together_after(turns) && STEPS_ASIDE.load(Ordering::Relaxed) {
                self.step_aside();
            }
            matches!(end, End::Ready | End::Slow)
        })
    }

    /// How long to look this time.
    fn patience(&self) -> Duration {
        if self.together >= TOGETHER / 2 {
            return STEP;
        }
        self.budget.max(self.quick * FOR_EACH_ANSWER)
    }

    /// Whether this side and its peer share a processor, as far as one more wait can tell.
    fn is_together_after(&mut self, turns: Option<Turns>) -> bool {
        self.together = match turns {
            None => self.together,
            Some(Turns::Given) => self.together.saturating_add(1),
            Some(Turns::NobodyTook) => 0,
        };
        self.together >= TOGETHER
    }

    fn step_aside(&mut self) {
        self.together = 0;
        let now = Instant::now();
        let (last, stay) = self.stays;
        let since = last.map(|last| now.saturating_duration_since(last));
        if since.is_some_and(|since| since < stay) {
            return;
        }
        let is_anew = since.is_none_or(|since| since > 10 * stay);
        self.stays = (Some(now), if is_anew { FIRST_STAY } else { (2 * stay).min(LONGEST_STAY) });
        step_aside();
    }

    fn ended(&mut self, end: &End) {
        self.quick = match end {
            End::Ready => (self.quick + 1).min(MOST_QUICK),
            End::Slow => self.quick / 4,
            End::TooLate | End::Contended => 0,
        };
        match end {
            End::Slow => {}
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

/// Has the thread go on on another processor, if it may run on any, and says whether it does. It may run on all that it could then,
/// as far as these are there: what is offline just now, and is named, is forgotten.
fn step_aside() -> bool {
    let Ok(all) = sched_getaffinity(None) else { return false };
    let mut others = all;
    match sched_getcpu() {
        here @ 0..CpuSet::MAX_CPU => others.unset(here),
        _ => return false,
    }
    if others.count() == 0 || sched_setaffinity(None, &others).is_err() {
        return false;
    }
    // If it gets no more when it asks for everything, it is restricted by its process's share of the machine alone, or as good as
    // that. Then it keeps that wish, since the share may grow.
    let mut everything = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| everything.set(cpu));
    let is_unrestricted = sched_setaffinity(None, &everything).is_ok() && sched_getaffinity(None) == Ok(all);
    if !is_unrestricted {
        let _ = sched_setaffinity(None, &all);
    }
    true
}

/// Looks until there is something, the budget is spent, or a yield was [`LATE`], and says what became of yields, if there were any.
fn look(start: Instant, budget: Duration, ready: impl Fn() -> bool) -> (End, Option<Turns>) {
    let mut turns = None;
    let mut spent = Duration::ZERO;
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return (if spent < MOST { End::Ready } else { End::Slow }, turns);
            }
            hint::spin_loop();
        }
        let before = Instant::now();
        spent = before.saturating_duration_since(start);
        if spent >= budget {
            return (End::TooLate, turns);
        }
        if spent >= TIGHT {
            thread::yield_now();
            let taken = before.elapsed();
            if taken > LATE {
                return (if ready() { End::Slow } else { End::Contended }, None);
            }
            if taken >= TURN {
                turns = Some(Turns::Given);
            } else {
                turns = turns.or(Some(Turns::NobodyTook));
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
        assert!(!spin.until(None, || true), "without a budget nobody looks");
        spin.slept();
        assert!(spin.budget > LEAST, "a short sleep would have paid");
        spin.ended(&End::Ready);
        spin.ended(&End::Ready);
        spin.ended(&End::Ready);
        assert_eq!(spin.budget, MOST);
    }

    #[test]
    fn a_peer_that_has_been_quick_for_long_is_waited_for_longer() {
        let mut spin = Spin::default();
        let mut patience = Vec::new();
        for _ in 0..400 {
            patience.push(spin.patience());
            spin.ended(&End::Ready);
        }
        assert_eq!((patience[0], patience[50]), (MOST, MOST), "who was seldom quick");
        assert!(patience[50] < patience[100] && patience[100] < patience[200]);
        assert_eq!(spin.patience(), STEP, "there is an end to it");
        spin.ended(&End::TooLate);
        assert_eq!(spin.patience(), MOST / 4);
    }

    #[test]
    fn nobody_looks_beyond_a_deadline() {
        let mut spin = Spin::default();
        (0..400).for_each(|_| spin.ended(&End::Ready));
        let deadline = Instant::now();
        let (looks, patience) = (std::cell::Cell::new(0), spin.patience());
        let ready = || {
            looks.set(looks.get() + 1);
            false
        };
        assert!(!spin.until(Some(deadline), ready));
        assert!(looks.get() <= LOOKS);
        // Another test may have the one place of those that look.
        assert!(looks.get() == 0 || spin.patience() == patience);
    }

    #[test]
    fn a_peer_that_has_become_slow_is_not_waited_for_longer() {
        let mut spin = Spin::default();
        (0..400).for_each(|_| spin.ended(&End::Ready));
        for _ in 0..5 {
            let start = Instant::now();
            spin.until(None, || start.elapsed() > 4 * MOST);
        }
        assert!(spin.quick < 2 && spin.patience() <= MOST, "{spin:?}");
    }

    #[test]
    fn who_steps_aside_may_run_wherever_it_could() {
        let on_a_thread = |begins: fn()| {
            let moves = move || {
                begins();
                let before = sched_getaffinity(None).unwrap();
                let moves = step_aside();
                assert_eq!(sched_getaffinity(None).unwrap(), before);
                assert_eq!(moves, before.count() > 1);
                before
            };
            thread::scope(|scope| scope.spawn(moves).join().unwrap())
        };
        on_a_thread(|| {});
        let all = on_a_thread(|| {
            let mut here = CpuSet::new();
            here.set(sched_getcpu());
            sched_setaffinity(None, &here).unwrap();
        });
        assert_eq!(all.count(), 1);
    }

    #[test]
    fn who_is_filtered_or_does_not_know_is_not_moved() {
        assert!(is_unfiltered("Name:\tit\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
        for status in ["Seccomp:\t2\nSeccomp_filters:\t1\n", "Seccomp:\t1\n", "Seccomp_filters:\t0\n", ""] {
            assert!(!is_unfiltered(status), "{status}");
        }
    }

    #[test]
    fn who_is_together_with_its_peer_again_and_again_notices() {
        let mut spin = Spin::default();
        let given = || Some(Turns::Given);
        for _ in 1..TOGETHER {
            assert!(!spin.is_together_after(given()) && !spin.is_together_after(None));
        }
        assert!(spin.is_together_after(given()) && spin.is_together_after(given()));
        assert!(!spin.is_together_after(Some(Turns::NobodyTook)) && !spin.is_together_after(given()));
    }

    #[test]
    fn a_thread_steps_aside_now_and_then() {
        let mut spin = Spin::default();
        spin.step_aside();
        let (last, stay) = spin.stays;
        assert!(last.is_some() && stay == FIRST_STAY);
        let stays_after = |spin: &mut Spin, since: Duration| {
            spin.stays.0 = Instant::now().checked_sub(since);
            let before = spin.stays;
            spin.step_aside();
            (spin.stays != before).then_some(spin.stays.1)
        };
        spin.stays.1 = LONGEST_STAY;
        assert_eq!(stays_after(&mut spin, FIRST_STAY), None, "it has just done so");
        spin.stays.1 = FIRST_STAY;
        for stay in [2, 4, 8].map(|times| times * FIRST_STAY) {
            let before = spin.stays.1;
            assert_eq!(stays_after(&mut spin, 2 * before), Some(stay));
        }
        spin.stays.1 = LONGEST_STAY;
        assert_eq!(stays_after(&mut spin, 2 * LONGEST_STAY), Some(LONGEST_STAY));
        assert_eq!(stays_after(&mut spin, 11 * LONGEST_STAY), Some(FIRST_STAY));
    }

    #[test]
    fn who_is_in_the_way_stays_asleep_ever_longer() {
        let mut spin = after(&[End::Contended]);
        assert_eq!((spin.budget, spin.penance), (Duration::ZERO, FIRST_PENANCE));
        for _ in 0..FIRST_PENANCE {
            assert!(!spin.until(None, || true));
            spin.slept();
            assert_eq!(spin.budget, Duration::ZERO);
        }
        assert!(!spin.until(None, || true));
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
