//! [`Map`]: results for the inputs of an iterator, pulled as they are needed.
//!
//! ```text
//!  inputs ─pull─► encode ─► the pool ─► results ─► in order? the others wait in `early` ─► next()
//!         └─ while fewer than `window` are under way or not taken, and fewer bytes than `buffer_bytes`
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::builder::Pool;
use super::core::TaskId;
use super::mailbox::{Receiver, Sender, mailbox};
use super::result::TaskResult;
use super::work::{Codec, RawResult, Work};

/// Most inputs that are handed to the pool in one go.
const MAX_BATCH: usize = 64;
/// An iterator that gives an input within this time is not waited for with those it gave before.
const SOON: Duration = Duration::from_micros(20);

/// Iterator over the results of a pool's tasks; see [`Pool::map`].
///
/// Inputs are pulled by `next`, on its caller's thread, a little ahead of what the gateways need. Dropping the iterator
/// cancels what it has asked for. If the inputs' own iterator panics, so does `next`, and no more inputs are pulled.
pub struct Map<'a, I: Iterator, T> {
    pool: &'a Pool,
    inputs: Option<I>,
    ordered: bool,
    owner: u64,
    sender: Sender<RawResult>,
    results: Receiver<RawResult>,
    /// Inputs that were pulled and whose results were not given out, and bytes of both.
    outstanding: usize,
    bytes: usize,
    pulled: u64,
    next: u64,
    /// Results that came before their turn.
    early: BTreeMap<u64, RawResult>,
    /// Inputs that are pulled in one go; one if they come slowly.
    batch: usize,
    codec: Codec<I::Item, T>,
}

/// Inputs that were pulled. They reach the pool also if the next one makes the iterator panic.
struct Batch<'a> {
    pool: &'a Pool,
    tasks: Vec<(TaskId, Work)>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.pool.submit_all(std::mem::take(&mut self.tasks));
        }
    }
}

impl<'a, I, T> Map<'a, I, T>
where
    I: Iterator,
{
    pub(crate) fn new(pool: &'a Pool, inputs: I, ordered: bool, codec: Codec<I::Item, T>) -> Map<'a, I, T> {
        let (sender, results) = mailbox();
        Map {
            pool,
            inputs: Some(inputs),
            ordered,
            owner: pool.next_owner(),
            sender,
            results,
            outstanding: 0,
            bytes: 0,
            pulled: 0,
            next: 0,
            early: BTreeMap::new(),
            batch: 1,
            codec,
        }
    }

    /// How many inputs were pulled so far.
    pub fn pulled(&self) -> u64 {
        self.pulled
    }

    /// Inputs whose results have not come.
    fn under_way(&self) -> usize {
        self.outstanding - self.results.len() - self.early.len()
    }

    fn may_pull(&self) -> bool {
        let ahead = self.under_way() < 2 * self.pool.enough() && self.outstanding < self.pool.window;
        let fits = self.bytes < self.pool.buffer_bytes || self.under_way() < 2 * self.pool.gateways();
        self.inputs.is_some() && ahead && fits
    }

    /// Whether `next` need not wait.
    fn is_ready(&mut self) -> bool {
        if !self.ordered {
            return !self.results.is_empty();
        }
        while !self.early.contains_key(&self.next) {
            let Ok(result) = self.results.try_recv() else { return false };
            self.early.insert(result.index, result);
        }
        true
    }

    /// Pulls one batch of inputs and hands it to the pool.
    fn pull(&mut self) {
        if self.pool.is_cancelled() {
            self.inputs = None;
        }
        // An iterator that panics is not asked again.
        let Some(mut inputs) = self.inputs.take() else { return };
        let start = Instant::now();
        let mut batch = Batch { pool: self.pool, tasks: Vec::with_capacity(self.batch) };
        let mut ended = false;
        for _ in 0..self.batch {
            match inputs.next() {
                Some(input) => batch.tasks.push(self.work(&input)),
                None => ended = true,
            }
            if ended || self.bytes >= self.pool.buffer_bytes || self.outstanding >= self.pool.window {
                break;
            }
        }
        drop(batch);
        let quick = start.elapsed() < SOON * u32::try_from(self.batch).unwrap_or(u32::MAX);
        self.batch = if quick { (self.batch * 2).min(MAX_BATCH) } else { 1 };
        if !ended {
            self.inputs = Some(inputs);
        }
    }

    /// An input as the pool gets it. One that cannot be encoded is told there as well: it has its number and its result.
    fn work(&mut self, input: &I::Item) -> (TaskId, Work) {
        let index = self.pulled;
        let encoded = (self.codec.encode)(input);
        self.pulled += 1;
        self.outstanding += 1;
        let (owner, results) = (self.owner, self.sender.clone());
        let (input, refused) = encoded.map_or_else(|error| (Bytes::new(), Some(error)), |input| (input, None));
        self.bytes += input.len();
        (self.pool.next_task(), Work { owner, index, input, argv: None, results, refused })
    }

    fn give(&mut self, result: RawResult) -> TaskResult<T> {
        self.outstanding -= 1;
        self.bytes = self.bytes.saturating_sub(result.input_bytes);
        self.next += 1;
        result.typed(self.codec.decode)
    }
}

impl<I, T> Iterator for Map<'_, I, T>
where
    I: Iterator,
{
    type Item = TaskResult<T>;

    fn next(&mut self) -> Option<TaskResult<T>> {
        loop {
            let ready = self.is_ready();
            // Inputs that come slowly do not keep back a result that is there.
            let lacking = self.batch > 1 && self.under_way() < self.pool.enough();
            if (!ready || lacking) && self.may_pull() {
                self.pull();
                continue;
            }
            if self.outstanding == 0 {
                return None;
            }
            let result = match self.early.remove(&self.next) {
                Some(result) => result,
                // There is a sender as long as there is this iterator, and the pool answers for all that it was given.
                None => self.results.recv().ok()?,
            };
            if !self.ordered || result.index == self.next {
                return Some(self.give(result));
            }
            self.early.insert(result.index, result);
        }
    }
}

impl<I: Iterator, T> Drop for Map<'_, I, T> {
    fn drop(&mut self) {
        if self.outstanding > 0 {
            self.pool.cancel_owner(self.owner);
        }
    }
}

impl<I: Iterator, T> fmt::Debug for Map<'_, I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Map pulled={} outstanding={}>", self.pulled, self.outstanding)
    }
}
