//! What one task holds, against [`Limits::memory_bytes`](crate::Limits::memory_bytes).
//!
//! ```text
//!  guest:     linear memory + tables                                    refused when it would go over
//!  messages:  unread, in parts, sent and not taken, output under way    waits for room, or ends the task
//!
//!  guest + max(0, messages - 128 KiB)  ≤  memory_bytes
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
    messages: u64,
}

impl Held {
    fn counted(self) -> u64 {
        self.guest.saturating_add(self.messages.saturating_sub(UNCOUNTED_BYTES))
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

    /// Counts messages, unless that is too much.
    pub fn try_hold(&self, bytes: u64) -> bool {
        self.change(|held| held.messages = held.messages.saturating_add(bytes))
    }

    /// Counts messages that are here already, and says whether they are within the limit.
    #[must_use = "the task may be over its limit"]
    pub fn hold(&self, bytes: u64) -> bool {
        let mut held = self.held.lock();
        held.messages = held.messages.saturating_add(bytes);
        held.counted() <= self.limit
    }

    /// Messages are gone.
    pub fn release(&self, bytes: u64) {
        let mut held = self.held.lock();
        held.messages = held.messages.saturating_sub(bytes);
    }

    /// Whether messages would fit if there were no others.
    pub fn could_hold(&self, bytes: u64) -> bool {
        let guest = self.held.lock().guest;
        Held { guest, messages: bytes }.counted() <= self.limit
    }

    /// What is held, the uncounted included.
    pub fn held(&self) -> u64 {
        let held = *self.held.lock();
        held.guest.saturating_add(held.messages)
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
        assert!(account.try_hold(UNCOUNTED_BYTES) && !account.try_hold(1), "a full task can still say so");
        assert!(account.could_hold(UNCOUNTED_BYTES) && !account.could_hold(UNCOUNTED_BYTES + 1));
        account.shrink(500);
        assert!(account.try_hold(500) && !account.grow(1));
        account.release(UNCOUNTED_BYTES + 500);
        assert!(account.grow(500));
        assert_eq!(account.held(), 1000);
        assert!(!account.hold(u64::MAX), "it is counted, and over");
    }
}
