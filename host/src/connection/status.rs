//! What a worker says it is doing, when it is asked.

use std::time::Duration;

use sandgate_wire::ToWorker;
use sandgate_wire::message::WorkerStatus;

use super::Connection;
use crate::deadline::Deadline;
use crate::error::StatusError;

#[derive(Debug, Default)]
pub(super) struct StatusSlot {
    asked: bool,
    answers: u64,
    last: WorkerStatus,
}

impl Connection {
    /// Asks the worker for its state. Requests that wait share one answer, so a worker that does not answer costs nothing.
    pub(crate) fn worker_status(&self, timeout: Duration) -> Result<WorkerStatus, StatusError> {
        let deadline = Deadline::after(timeout);
        let _beside = self.reading.beside();
        let mut slot = self.status.lock();
        let seen = slot.answers;
        loop {
            if slot.answers != seen {
                return Ok(slot.last.clone());
            }
            if !self.is_alive() {
                return Err(StatusError::NotAlive { gateway: self.id.clone() });
            }
            if !slot.asked {
                slot.asked = true;
                let _ = self.outbox.push_urgent(ToWorker::Status.encode());
            }
            if let Err(after) = deadline.wait(&self.status_changed, &mut slot) {
                return Err(StatusError::Timeout { gateway: self.id.clone(), after });
            }
        }
    }

    pub(crate) fn status_arrived(&self, status: WorkerStatus) -> Result<(), &'static str> {
        let mut slot = self.status.lock();
        if !slot.asked {
            return Err("a status that nobody asked for");
        }
        *slot = StatusSlot { asked: false, answers: slot.answers + 1, last: status };
        self.status_changed.notify_all();
        Ok(())
    }
}
