//! The hub behind its lock. What is to be sent is placed under the lock, in the order in which it was decided, and written
//! once the lock is free: a write wakes the host, which may take the processor for milliseconds.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use sandgate_wire::Outbox;

use super::Hub;

pub(crate) struct SharedHub {
    hub: Mutex<Hub>,
    outbox: Arc<Outbox>,
}

/// The lock, held. When it is dropped, what was placed meanwhile is written.
pub(crate) struct HubGuard<'a> {
    // In this order: fields are dropped from the first to the last.
    hub: MutexGuard<'a, Hub>,
    writes: Writes<'a>,
}

struct Writes<'a> {
    outbox: &'a Outbox,
    placed: bool,
}

impl SharedHub {
    pub(crate) fn new(hub: Hub) -> SharedHub {
        SharedHub { outbox: Arc::clone(&hub.outbox), hub: Mutex::new(hub) }
    }

    pub(crate) fn lock(&self) -> HubGuard<'_> {
        HubGuard { hub: self.hub.lock(), writes: Writes { outbox: &self.outbox, placed: false } }
    }
}

impl HubGuard<'_> {
    /// Waits for `condition`, or until `deadline`. Returns early if there was something to write.
    pub(crate) fn wait(&mut self, condition: &Condvar, deadline: Option<Instant>) {
        if self.write_placed() {
            return;
        }
        match deadline {
            None => condition.wait(&mut self.hub),
            Some(at) => {
                condition.wait_until(&mut self.hub, at);
            }
        }
    }

    /// Writes what is to be written, and says whether there was anything. The lock is let go for it.
    pub(crate) fn write_placed(&mut self) -> bool {
        let placed = std::mem::take(&mut self.hub.placed);
        if placed {
            let outbox = self.writes.outbox;
            self.unlocked(|| outbox.write_placed());
        }
        placed
    }

    /// Does something without the lock.
    pub(crate) fn unlocked(&mut self, action: impl FnOnce()) {
        MutexGuard::unlocked(&mut self.hub, action);
    }
}

impl Deref for HubGuard<'_> {
    type Target = Hub;

    fn deref(&self) -> &Hub {
        &self.hub
    }
}

impl DerefMut for HubGuard<'_> {
    fn deref_mut(&mut self) -> &mut Hub {
        &mut self.hub
    }
}

impl Drop for HubGuard<'_> {
    fn drop(&mut self) {
        self.writes.placed = std::mem::take(&mut self.hub.placed);
    }
}

impl Drop for Writes<'_> {
    fn drop(&mut self) {
        if self.placed {
            self.outbox.write_placed();
        }
    }
}
