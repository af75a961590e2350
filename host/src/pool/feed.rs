//! [`TaskFeed`] and [`TaskResults`]: the two ends of a stream of tasks, for callers whose inputs come on one thread and whose
//! results are awaited on another. [`Map`](super::Map) does both on one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::builder::Pool;
use super::core::TaskId;
use super::driver::{Note, Shown};
use super::mailbox::{Receiver, Sender, mailbox};
use super::packed::Packed;
use super::result::{ProgramOutput, TaskError, TaskResult};
use super::seat::Told;
use super::work::{self, Owner, RawResult, RawValue, Submission, Work};

/// Inputs that are gathered before they are handed to the pool, unless [`TaskFeed::flush`] comes first.
const MAX_BATCH: usize = 64;

/// Where inputs go. Nothing here blocks, and nothing bounds what is under way: that is for its user to do.
///
/// Dropping it flushes it; the results end once all of them were given out.
pub struct TaskFeed {
    told: Told,
    shown: Arc<Shown>,
    next_task: Arc<AtomicU64>,
    owner: Arc<Owner>,
    epoch: Instant,
    next: u64,
    batch: Vec<(TaskId, Work)>,
}

/// Where results come from, as soon as they are there. Dropping it cancels what is under way.
pub struct TaskResults<T> {
    results: Receiver<RawResult>,
    notes: Sender<Note>,
    shown: Arc<Shown>,
    owner: u64,
    decode: fn(RawValue) -> Result<T, TaskError>,
}

impl Pool {
    /// A stream of tasks in two ends, to a pool of [programs](super::PoolBuilder::program): an input is what the program
    /// reads.
    pub fn stream_programs(&self) -> (TaskFeed, TaskResults<ProgramOutput>) {
        self.stream(work::output_of)
    }

    /// A stream of tasks in two ends, whose values are bytes: an input is the task's arguments as they are encoded
    /// ([`encode_arguments`](crate::schema::encode_arguments)), a result the bytes of what it sent last, or none if it sent
    /// nothing ([`decode_result`](crate::schema::decode_result)).
    pub fn stream_encoded(&self) -> (TaskFeed, TaskResults<Vec<u8>>) {
        self.stream(work::bytes_of)
    }

    fn stream<T>(&self, decode: fn(RawValue) -> Result<T, TaskError>) -> (TaskFeed, TaskResults<T>) {
        let (sender, results) = mailbox();
        let (number, notes) = (self.next_owner(), self.told.notes.clone());
        let owner = Arc::new(Owner { number, results: sender });
        let next_task = Arc::clone(&self.next_task);
        let epoch = Instant::now().checked_sub(self.age()).unwrap_or_else(Instant::now);
        let (told, shown) = (self.told.clone(), Arc::clone(&self.shown));
        let taken_with = Arc::clone(&shown);
        let feed = TaskFeed { told, shown, next_task, owner, epoch, next: 0, batch: Vec::new() };
        (feed, TaskResults { results, notes, shown: taken_with, owner: number, decode })
    }
}

impl TaskFeed {
    /// Adds an input and gives back its index, from 0.
    pub fn push(&mut self, input: impl Into<Vec<u8>>) -> u64 {
        self.add(input.into(), None)
    }

    /// As [`push`](Self::push), and the program finds these strings in `std::env::args` after its own name, instead of the
    /// pool's [`argv`](super::PoolBuilder::argv). A pool that reuses instances leaves them out.
    pub fn push_with_argv(&mut self, input: impl Into<Vec<u8>>, argv: impl IntoIterator<Item = String>) -> u64 {
        self.add(input.into(), Some(argv.into_iter().collect()))
    }

    fn add(&mut self, input: Vec<u8>, argv: Option<Arc<[String]>>) -> u64 {
        let (id, index) = self.take_numbers();
        let input = Packed::here(&input).unwrap_or_else(|| Packed::Elsewhere(input.into()));
        self.batch.push((id, Work { owner: self.owner.number, index, input, argv, refused: None }));
        if self.batch.len() >= MAX_BATCH {
            self.flush();
        }
        index
    }

    /// Leaves an input out and gives back its index: its result is [`TaskError::Cancelled`] at
    /// once, and nothing runs. It has a number like any other, but neither the pool's events nor its numbers know of it.
    pub fn skip(&mut self) -> u64 {
        let (id, index) = self.take_numbers();
        let _ = self.owner.results.send(RawResult::cancelled(index, id, self.epoch.elapsed()));
        index
    }

    /// How many gateways the pool has now, as [`Pool::gateways`] has it.
    pub fn gateways(&self) -> usize {
        self.shown.lanes.load(Ordering::Acquire)
    }

    /// Hands to the pool what was gathered. Due before whatever may take time.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() {
            let (owner, tasks) = (Arc::clone(&self.owner), std::mem::take(&mut self.batch));
            self.told.tell_and_see(Note::Submit(Submission { owner, tasks }));
        }
    }

    /// The number within the pool, by which events name the task, and the index.
    fn take_numbers(&mut self) -> (TaskId, u64) {
        let index = self.next;
        self.next += 1;
        (self.next_task.fetch_add(1, Ordering::Relaxed), index)
    }
}

impl Drop for TaskFeed {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<T> TaskResults<T> {
    /// The next result, if one comes within `timeout`.
    ///
    /// # Errors
    /// [`FeedEnded`](super::FeedEnded) once the feed was dropped and all results were given out, or the pool is gone.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<TaskResult<T>>, super::FeedEnded> {
        match self.results.recv_timeout(timeout) {
            Ok(result) => Ok(Some(result.typed(self.decode, |lane| self.shown.name(lane)))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(super::FeedEnded),
        }
    }

    /// How many results are there to be taken.
    pub fn waiting(&self) -> usize {
        self.results.len()
    }
}

/// The feed was dropped and all of its results were given out, or the pool is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("feed has ended, and all of its results were taken")]
pub struct FeedEnded;

impl<T> Drop for TaskResults<T> {
    fn drop(&mut self) {
        let _ = self.notes.send(Note::CancelOwner(self.owner));
    }
}

impl fmt::Debug for TaskFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<TaskFeed next={}>", self.next)
    }
}

impl<T> fmt::Debug for TaskResults<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<TaskResults waiting={}>", self.results.len())
    }
}
