//! Who does the pool's work: its own thread, or a thread of the service that has just read what the pool is to know.
//!
//! ```text
//!  a thread of the service:  reads ─► notes, quietly ─► nobody at work? ─► the pool's work ─► reads on
//!  all others:               ───────► notes ─► the pool's thread wakes ──► the pool's work ─► sleeps until a timer
//! ```
//!
//! So a result that arrives wakes whoever waits for it and no thread in between. Nothing in the pool's work waits or runs a
//! user's code, which is what the service asks for. Its end does, and is left to the pool's own thread.
//!
//! Invariant: notes are not left lying. Whoever adds one quietly tries to get the seat afterwards; whoever leaves the seat
//! looks at the notes once more.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::driver::{Driver, Note};
use super::mailbox::{Receiver, Sender};

thread_local! {
    /// On a thread of the service: the pools that are to be seen to before it waits.
    static PENDING: RefCell<Option<Vec<Weak<Seat>>>> = const { RefCell::new(None) };
}

/// The pool's work, for one thread at a time.
pub(crate) struct Seat {
    driver: Mutex<Option<Driver>>,
    notes: Receiver<Note>,
    sleep: Mutex<Sleep>,
    is_broken: AtomicBool,
}

/// What the pool's thread does.
#[derive(Debug, Clone, Copy)]
enum Sleep {
    Awake,
    Until(Instant),
    ForEver,
}

/// How a connection's reader tells a pool.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) notes: Sender<Note>,
    pub(crate) seat: Weak<Seat>,
}

impl Told {
    /// Never blocks.
    pub(crate) fn tell(&self, note: Note) {
        // If the pool is gone nobody needs to know.
        let _ = PENDING.with_borrow_mut(|pending| match pending {
            None => self.notes.send(note),
            Some(pending) => {
                if !pending.last().is_some_and(|last| last.ptr_eq(&self.seat)) {
                    pending.push(Weak::clone(&self.seat));
                }
                self.notes.send_quietly(note)
            }
        });
    }

    /// Tells it, and does what follows from that on this thread, unless another one is at it. Never blocks.
    pub(crate) fn tell_and_see(&self, note: Note) {
        // If the pool is gone, so are the senders of results, and whoever waits is told.
        let Some(seat) = self.seat.upgrade() else { return };
        let _ = self.notes.send_quietly(note);
        seat.visit();
    }
}

/// From here on this thread sees to the pools itself that it tells something: by [`see_to_pools`], before it waits.
pub(crate) fn sees_to_pools() {
    PENDING.set(Some(Vec::new()));
}

/// Does what follows from what this thread has read. Never blocks.
pub(crate) fn see_to_pools() {
    loop {
        let next = PENDING.with_borrow_mut(|pending| pending.as_mut().and_then(Vec::pop));
        let Some(seat) = next else { return };
        if let Some(seat) = seat.upgrade() {
            seat.visit();
        }
    }
}

impl Seat {
    pub(crate) fn new(notes: Receiver<Note>) -> Arc<Seat> {
        let sleep = Mutex::new(Sleep::Awake);
        Arc::new(Seat { driver: Mutex::new(None), notes, sleep, is_broken: AtomicBool::new(false) })
    }

    pub(crate) fn notes(&self) -> &Receiver<Note> {
        &self.notes
    }

    pub(crate) fn begin(&self, driver: Driver) {
        *self.driver.lock() = Some(driver);
    }

    /// The pool's thread: does what nobody else does, until the pool is dropped; then ends its gateways.
    pub(crate) fn run(&self) {
        loop {
            let mut seat = self.driver.lock();
            let Some(driver) = seat.as_mut() else { return };
            let is_broken = self.is_broken.load(Ordering::Acquire);
            if !is_broken {
                driver.work(&self.notes);
            }
            if is_broken || driver.is_over() {
                let driver = seat.take();
                drop(seat);
                if let Some(driver) = driver {
                    driver.finish();
                }
                return;
            }
            let until = driver.next_timer();
            // Whoever has the seat next sees it.
            *self.sleep.lock() = until.map_or(Sleep::ForEver, Sleep::Until);
            drop(seat);
            self.notes.wait(until);
            *self.sleep.lock() = Sleep::Awake;
        }
    }

    /// Does what there is to do, unless somebody else is at it.
    fn visit(&self) {
        let work = AssertUnwindSafe(|| {
            while !self.notes.is_drained() {
                let Some(mut seat) = self.driver.try_lock() else { return };
                let Some(driver) = seat.as_mut().filter(|_| !self.is_broken.load(Ordering::Acquire)) else { return };
                driver.work(&self.notes);
                if driver.is_over() || self.is_too_late_for(driver.next_timer()) {
                    self.notes.rouse();
                }
            }
        });
        if catch_unwind(work).is_err() {
            tracing::error!("the work of a pool panicked");
            self.is_broken.store(true, Ordering::Release);
            self.notes.rouse();
        }
    }

    /// Whether the pool's thread sleeps beyond that.
    fn is_too_late_for(&self, timer: Option<Instant>) -> bool {
        let Some(timer) = timer else { return false };
        match *self.sleep.lock() {
            Sleep::Awake => false,
            Sleep::Until(until) => timer < until,
            Sleep::ForEver => true,
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("notes", &self.notes.len()).finish_non_exhaustive()
    }
}
