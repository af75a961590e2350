//! What one task holds, against [`Limits::memory_bytes`](crate::Limits::memory_bytes).
//!
//! ```text
//!  guest:   linear memory + tables                        refused when it would go over
//!  unread:  messages it was sent, in parts or whole       ends the task
//!  sent:    messages it sent that nobody took, output     waits for room, or ends the task if there cannot be any
//!
//!  guest + max(0, unread + sent - 128 KiB)  ≤  memory_bytes
//! ```
//!
//! The worker keeps one account for each execution, and is the one to refuse. The host keeps another of what it holds
//! itself, which is never more unless the worker breaks the rules.

use parking_lot::Mutex;

/// What a message costs besides its bytes: its place in a queue and its allocation.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 128;

/// Bytes of messages and output under way that are not counted, so that a task which has all the memory it may have can
/// still say so.
pub const UNCOUNTED_BYTES: u64 = 128 * 1024;

/// What a message of `length` bytes costs.
pub fn cost(length: u64) -> u64 {
    length.saturating_add(MESSAGE_OVERHEAD_BYTES)
}

/// What a task holds. All of it is in bytes.
#[derive(Debug)]
pub struct Account {
    limit: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    guest: u64,
    unread: u64,
    sent: u64,
}

impl Held {
    fn counted(self) -> u64 {
        self.guest.saturating_add(self.unread.saturating_add(self.sent).saturating_sub(UNCOUNTED_BYTES))
    }
}

impl Account {
    /// An account of a task that may hold this much.
    pub fn new(limit: u64) -> Account {
        Account { limit, held: Mutex::default() }
    }

    /// The guest's own memory grows, unless that is too much.
    pub fn grow(&self, bytes: u64) -> bool {
        self.change(|held| held.guest = held.guest.saturating_add(bytes))
    }

    /// The guest's own memory did not grow after all.
    pub fn shrink(&self, bytes: u64) {
        let mut held = self.held.lock();
        held.guest = held.guest.saturating_sub(bytes);
    }

    /// Counts what was sent to the task, and says whether it is within its limit.
    #[must_use = "the task may be over its limit"]
    pub fn arrived(&self, bytes: u64) -> bool {
        let mut held = self.held.lock();
        held.unread = held.unread.saturating_add(bytes);
        held.counted() <= self.limit
    }

    /// The task took what was sent to it, or nobody will.
    pub fn received(&self, bytes: u64) {
        let mut held = self.held.lock();
        held.unread = held.unread.saturating_sub(bytes);
    }

    /// Counts what the task is about to send, unless that is too much.
    pub fn try_send(&self, bytes: u64) -> bool {
        self.change(|held| held.sent = held.sent.saturating_add(bytes))
    }

    /// Counts what the task has sent, and says whether it is within its limit.
    #[must_use = "the task may be over its limit"]
    pub fn sent(&self, bytes: u64) -> bool {
        let mut held = self.held.lock();
        held.sent = held.sent.saturating_add(bytes);
        held.counted() <= self.limit
    }

    /// What the task sent was taken, or nobody will.
    pub fn taken(&self, bytes: u64) {
        let mut held = self.held.lock();
        held.sent = held.sent.saturating_sub(bytes);
    }

    /// Whether the task could send this if all that it sent before were taken.
    pub fn could_send(&self, bytes: u64) -> bool {
        Held { sent: bytes, ..*self.held.lock() }.counted() <= self.limit
    }

    /// What is held, the uncounted included.
    pub fn held(&self) -> u64 {
        let Held { guest, unread, sent } = *self.held.lock();
        guest.saturating_add(unread).saturating_add(sent)
    }

    fn change(&self, change: impl FnOnce(&mut Held)) -> bool {
        let mut held = self.held.lock();
        let mut after = *held;
        change(&mut after);
        let fits = after.counted() <= self.limit;
        if fits {
            *held = after;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_and_messages_share_the_limit() {
        let account = Account::new(1000);
        assert!(account.grow(1000) && !account.grow(1));
        assert!(account.try_send(UNCOUNTED_BYTES) && !account.try_send(1), "a full task can still say so");
        assert!(account.could_send(UNCOUNTED_BYTES) && !account.could_send(UNCOUNTED_BYTES + 1));
        account.shrink(500);
        assert!(account.try_send(500) && !account.grow(1));
        account.taken(UNCOUNTED_BYTES + 500);
        assert!(account.grow(500));
        assert_eq!(account.held(), 1000);
        assert!(account.arrived(UNCOUNTED_BYTES) && !account.try_send(1) && !account.could_send(1));
        account.received(UNCOUNTED_BYTES);
        assert!(!account.arrived(u64::MAX), "it is counted, and over");
    }
}
