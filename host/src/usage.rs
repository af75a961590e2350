//! How much a worker was used, and its way out when it is replaced: what [`crate::workers`] asks of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::connection::Connection;
use crate::endpoint::Role;
use crate::gateway::Gateway;

/// Time between two looks at a worker's memory.
const MEMORY_PAUSE: Duration = Duration::from_millis(100);

/// How much a worker was used, by which its gateway decides when to replace it.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Executions that were given to it or are about to be.
    places_taken: AtomicU64,
    /// Executions that have ended.
    finished: AtomicU64,
    /// When its memory was looked at last.
    looked_at: Mutex<Option<Instant>>,
}

impl Connection {
    /// The gateway it belongs to.
    pub(crate) fn gateway(self: &Arc<Self>) -> Gateway {
        Gateway::new(self.owner.get_or_make(self))
    }

    /// Counts one more execution, which is about to be given to it; returns how many there are. It does not end before
    /// [`place_used`](Self::place_used), also if it is replaced in between.
    pub(crate) fn take_place(&self) -> u64 {
        self.table.lock().pending += 1;
        self.usage.places_taken.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The execution was given to it, or was not accepted.
    pub(crate) fn place_used(&self, accepted: bool) {
        if !accepted {
            self.usage.places_taken.fetch_sub(1, Ordering::AcqRel);
        }
        let mut table = self.table.lock();
        table.pending -= 1;
        let drained = table.close_if_drained();
        drop(table);
        if drained {
            self.request_terminate(false);
        }
    }

    pub(crate) fn places_taken(&self) -> u64 {
        self.usage.places_taken.load(Ordering::Acquire)
    }

    pub(crate) fn was_used(&self) -> bool {
        self.places_taken() > 0
    }

    /// Executions that have ended.
    pub(crate) fn finished(&self) -> u64 {
        self.usage.finished.load(Ordering::Acquire)
    }

    /// An execution has ended by the worker's own word.
    pub(crate) fn execution_ended(self: &Arc<Self>) {
        self.usage.finished.fetch_add(1, Ordering::AcqRel);
        if self.spec.recycling().memory_bytes.is_some()
            && let Some(workers) = self.owner.get()
        {
            workers.execution_ended(self);
        }
    }

    /// Whether its resident memory has reached so many bytes. It is looked at now and then only; in between this is false.
    pub(crate) fn is_above(&self, bytes: u64) -> bool {
        let now = Instant::now();
        {
            let mut looked_at = self.usage.looked_at.lock();
            if looked_at.is_some_and(|last| now.saturating_duration_since(last) < MEMORY_PAUSE) {
                return false;
            }
            *looked_at = Some(now);
        }
        self.resident_bytes().is_some_and(|resident| resident >= bytes)
    }

    /// Executions that have not ended.
    pub(crate) fn executions(&self) -> usize {
        let table = self.table.lock();
        table.endpoints.values().filter(|endpoint| endpoint.role == Role::Execution).count()
    }

    /// Lets the worker end as soon as nothing of the host's is open: no execution, and no channel that the host made.
    /// Nothing is closed early. Never blocks.
    pub(crate) fn drain(&self) {
        let mut table = self.table.lock();
        table.draining = true;
        let idle = table.close_if_drained();
        drop(table);
        if idle {
            self.request_terminate(false);
        }
    }
}
