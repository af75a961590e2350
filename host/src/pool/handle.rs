//! What users hold of a task that they have submitted, and of a pool that they may want to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, TryRecvError};

use super::core::TaskId;
use super::driver::{Note, Shown};
use super::mailbox::{Receiver, Sender};
use super::result::{TaskError, TaskResult};
use super::work::{RawResult, RawValue};

/// A task that was [submitted](super::Pool::submit). Its result is given out once, so what waits for it takes the handle.
///
/// Dropping the handle cancels the task, unless it has ended; [`detach`](TaskHandle::detach) lets it go on.
pub struct TaskHandle<T> {
    id: TaskId,
    results: Receiver<RawResult>,
    notes: Option<Sender<Note>>,
    shown: Arc<Shown>,
    decode: fn(RawValue) -> Result<T, TaskError>,
}

impl<T> TaskHandle<T> {
    pub(crate) fn new(
        id: TaskId,
        results: Receiver<RawResult>,
        (notes, shown): (Sender<Note>, Arc<Shown>),
        decode: fn(RawValue) -> Result<T, TaskError>,
    ) -> TaskHandle<T> {
        TaskHandle { id, results, notes: Some(notes), shown, decode }
    }

    /// Waits for the task's result. It always comes: a pool that is dropped cancels its tasks.
    pub fn wait(mut self) -> TaskResult<T> {
        let result = self.results.recv().ok();
        self.through(result)
    }

    /// [`wait`](Self::wait) for at most `timeout`.
    ///
    /// # Errors
    /// The handle, if the task has no result yet.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<TaskResult<T>, TaskHandle<T>> {
        match self.results.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => Err(self),
            result => Ok(self.through(result.ok())),
        }
    }

    /// The task's result, if it is there.
    ///
    /// # Errors
    /// The handle, if it is not.
    pub fn try_result(mut self) -> Result<TaskResult<T>, TaskHandle<T>> {
        match self.results.try_recv() {
            Err(TryRecvError::Empty) => Err(self),
            result => Ok(self.through(result.ok())),
        }
    }

    fn through(&mut self, result: Option<RawResult>) -> TaskResult<T> {
        self.notes = None;
        let gone = || RawResult::cancelled(self.id, self.id, Duration::ZERO);
        result.unwrap_or_else(gone).typed(self.decode, |lane| self.shown.name(lane))
    }
}

impl<T> TaskHandle<T> {
    /// The task's number within its pool, by which events name it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the task. Does not block; its result follows: [`TaskError::Cancelled`], unless it had ended before.
    pub fn cancel(&self) {
        if let Some(notes) = &self.notes {
            let _ = notes.send(Note::CancelTask(self.id));
        }
    }

    /// Lets the task go on without anybody who waits for it.
    pub fn detach(mut self) {
        self.notes = None;
    }
}

impl<T> Drop for TaskHandle<T> {
    fn drop(&mut self) {
        if self.results.is_empty() {
            self.cancel();
        }
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<TaskHandle {}>", self.id)
    }
}

/// Stops a pool from anywhere: a signal's thread, a callback, another thread. Clones are the same token.
#[derive(Clone)]
pub struct CancelToken {
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) notes: Sender<Note>,
}

impl CancelToken {
    /// Cancels every task of the pool, those that are still to come included. Does not block. Iterators pull no more
    /// inputs, give the results of those they have pulled, most of them [`TaskError::Cancelled`], and end.
    pub fn cancel(&self) {
        if !self.cancelled.swap(true, Ordering::AcqRel) {
            let _ = self.notes.send(Note::CancelAll);
        }
    }

    /// Whether it was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<CancelToken cancelled={}>", self.is_cancelled())
    }
}
