//! [`Map`]: results for the inputs of an iterator, pulled as they are needed.
//!
//! ```text
//!  inputs ─pull─► encode ─► the pool ─► results ─► in order? the others wait in `early` ─► next()
//!         └─ while fewer than `window` are under way or not taken, and fewer bytes than `buffer_bytes`
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::builder::Pool;
use super::core::TaskId;
use super::mailbox::{Receiver, mailbox};
use super::packed::Packed;
use super::result::TaskResult;
use super::work::{Codec, Owner, RawResult, Work};

/// Most inputs that are handed to the pool in one go.
const MAX_BATCH: usize = 512;
/// As long as gateways lack work, which is to reach them soon.
const SMALL_BATCH: usize = 64;
/// Pulling them takes no longer than that by much, and a piece of memory that they share is no larger by much.
const LONG: Duration = Duration::from_millis(1);
const SHARED_TOGETHER: usize = 64 * 1024;
/// An iterator that gives an input within this time is not waited for with those it gave before.
const SOON: Duration = Duration::from_micros(20);
/// Inputs up to this size share memory with those that are pulled with them, which is kept until all of them are through.
const SHARED_BYTES: usize = 1024;

/// Iterator over the results of a pool's tasks; see [`Pool::map`].
///
/// Inputs are pulled by `next`, on its caller's thread, a little ahead of what the gateways need. Dropping the iterator
/// cancels what it has asked for. If the inputs' own iterator panics, so does `next`, and no more inputs are pulled.
pub struct Map<'a, I: Iterator, T> {
    pool: &'a Pool,
    inputs: Option<I>,
    ordered: bool,
    owner: Arc<Owner>,
    results: Receiver<RawResult>,
    /// Results that were taken together and are to be looked at.
    taken: VecDeque<RawResult>,
    /// Inputs that were pulled and whose results were not given out, and bytes of both.
    outstanding: usize,
    bytes: usize,
    pulled: u64,
    next: u64,
    /// Results that came before their turn, each in its place from the next one on, and how many there are.
    early: VecDeque<Option<RawResult>>,
    early_count: usize,
    /// Inputs that are pulled in one go; one if they come slowly.
    batch: usize,
    /// The last input was too large to share memory with others.
    large: bool,
    codec: Codec<I::Item, T>,
    /// The gateways of lanes that gave results.
    names: Vec<Option<Arc<str>>>,
}

/// Inputs that were pulled. They reach the pool also if the next one makes the iterator panic.
struct Batch<'a> {
    pool: &'a Pool,
    owner: Arc<Owner>,
    tasks: Vec<(TaskId, Work)>,
    /// The smaller ones of them, and where each is, if it is not with its task.
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        if !self.bytes.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.bytes));
            for ((_, work), place) in self.tasks.iter_mut().zip(self.places.drain(..)) {
                if !place.is_empty() {
                    work.input = Packed::Elsewhere(bytes.slice(place));
                }
            }
        }
        self.pool.submit_all(Arc::clone(&self.owner), std::mem::take(&mut self.tasks));
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
            owner: Arc::new(Owner { number: pool.next_owner(), results: sender }),
            results,
            taken: VecDeque::new(),
            outstanding: 0,
            bytes: 0,
            pulled: 0,
            next: 0,
            early: VecDeque::new(),
            early_count: 0,
            batch: 1,
            large: false,
            codec,
            names: Vec::new(),
        }
    }

    /// How many inputs were pulled so far.
    pub fn pulled(&self) -> u64 {
        self.pulled
    }

    /// Inputs whose results have not come.
    fn under_way(&self) -> usize {
        self.outstanding - self.results.len() - self.taken.len() - self.early_count
    }

    fn may_pull(&self) -> bool {
        let ahead = self.under_way() < 2 * self.pool.enough() && self.outstanding < self.pool.window;
        let fits = self.bytes < self.pool.buffer_bytes || self.under_way() < 2 * self.pool.gateways();
        self.inputs.is_some() && ahead && fits
    }

    /// Whether so many can be pulled that it is worth it, where more can be once results are given out.
    fn has_room_for_many(&self) -> bool {
        let room = self.pool.window.saturating_sub(self.outstanding);
        room >= self.batch.min(self.pool.window / 8)
    }

    /// Whether `next` need not wait.
    fn is_ready(&mut self) -> bool {
        if self.early.front().is_some_and(Option::is_some) {
            return true;
        }
        loop {
            if self.taken.is_empty() {
                self.results.take_all(&mut self.taken);
            }
            match self.taken.front() {
                None => return false,
                Some(result) if !self.ordered || result.index == self.next => return true,
                Some(_) => {
                    if let Some(result) = self.taken.pop_front() {
                        self.keep(result);
                    }
                }
            }
        }
    }

    /// Keeps a result whose turn has not come.
    fn keep(&mut self, result: RawResult) {
        let place = usize::try_from(result.index - self.next).expect("no more are under way than fit into memory");
        if self.early.len() <= place {
            self.early.resize_with(place + 1, || None);
        }
        self.early[place] = Some(result);
        self.early_count += 1;
    }

    /// Pulls one batch of inputs and hands it to the pool.
    fn pull(&mut self) {
        if self.pool.is_cancelled() {
            self.inputs = None;
        }
        // An iterator that panics is not asked again.
        let Some(mut inputs) = self.inputs.take() else { return };
        let start = Instant::now();
        let (enough, under_way) = (self.pool.enough(), self.under_way());
        let most = if 2 * under_way < enough { SMALL_BATCH } else { MAX_BATCH };
        let most = self.batch.min(most).min((2 * enough).saturating_sub(under_way)).max(1);
        let tasks = Vec::with_capacity(most);
        let owner = Arc::clone(&self.owner);
        let mut batch = Batch { pool: self.pool, owner, tasks, bytes: Vec::new(), places: Vec::new() };
        let mut ended = false;
        for _ in 0..most {
            match inputs.next() {
                Some(input) => self.add(&input, &mut batch),
                None => ended = true,
            }
            let count = batch.tasks.len();
            let is_enough = self.bytes >= self.pool.buffer_bytes || self.outstanding >= self.pool.window;
            let is_long =
                || batch.bytes.len() >= SHARED_TOGETHER || count.is_multiple_of(32) && start.elapsed() >= LONG;
            if ended || is_enough || is_long() {
                break;
            }
        }
        let count = u32::try_from(batch.tasks.len()).unwrap_or(u32::MAX);
        let quick = start.elapsed() < SOON * count.max(1);
        drop(batch);
        self.batch = if quick { (self.batch * 2).min(MAX_BATCH) } else { 1 };
        if !ended {
            self.inputs = Some(inputs);
        }
    }

    /// An input as the pool gets it. One that cannot be encoded is told there as well: it has its number and its result.
    fn add(&mut self, input: &I::Item, batch: &mut Batch<'_>) {
        let index = self.pulled;
        let (mut own, begin) = (Vec::new(), batch.bytes.len());
        let encoded = (self.codec.encode)(input, if self.large { &mut own } else { &mut batch.bytes });
        self.pulled += 1;
        self.outstanding += 1;
        if encoded.is_err() {
            batch.bytes.truncate(begin);
            own.clear();
        } else if batch.bytes.len() - begin > SHARED_BYTES {
            own = batch.bytes.split_off(begin);
        }
        self.large = own.len() > SHARED_BYTES;
        self.bytes += own.len() + batch.bytes.len() - begin;
        let input = match Packed::here(&batch.bytes[begin..]) {
            Some(few) if own.is_empty() => {
                batch.bytes.truncate(begin);
                few
            }
            _ => Bytes::from(own).into(),
        };
        batch.places.push(begin..batch.bytes.len());
        let (owner, refused) = (self.owner.number, encoded.err().map(Box::new));
        let work = Work { owner, index, input, argv: None, refused };
        batch.tasks.push((self.pool.next_task(), work));
    }

    /// The next result, which is there.
    fn take(&mut self) -> Option<RawResult> {
        match self.early.pop_front() {
            Some(Some(result)) => {
                self.early_count -= 1;
                Some(result)
            }
            _ => self.taken.pop_front(),
        }
    }

    fn give(&mut self, result: RawResult) -> TaskResult<T> {
        self.outstanding -= 1;
        self.bytes = self.bytes.saturating_sub(result.input_bytes);
        self.next += 1;
        let (pool, names) = (self.pool, &mut self.names);
        result.typed(self.codec.decode, |lane| {
            if names.len() <= lane {
                names.resize(lane + 1, None);
            }
            if names[lane].is_none() {
                names[lane] = pool.name(lane);
            }
            names[lane].clone()
        })
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
            let lacking = self.batch > 1 && self.under_way() < self.pool.enough() && self.has_room_for_many();
            if (!ready || lacking) && self.may_pull() {
                self.pull();
                continue;
            }
            if ready {
                return self.take().map(|result| self.give(result));
            }
            if self.outstanding == 0 {
                return None;
            }
            // The pool answers for all that it was given.
            self.results.wait(None);
        }
    }
}

impl<I: Iterator, T> Drop for Map<'_, I, T> {
    fn drop(&mut self) {
        if self.outstanding > 0 {
            self.pool.cancel_owner(self.owner.number);
        }
    }
}

impl<I: Iterator, T> fmt::Debug for Map<'_, I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Map pulled={} outstanding={}>", self.pulled, self.outstanding)
    }
}
