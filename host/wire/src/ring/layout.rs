//! Where things lie in the shared memory, and what a producer and a consumer need of it.

use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64, Ordering};

use super::memory::Mapping;

/// Bytes that one ring holds. A power of two. Large enough that a frame of the largest size is two or three sleeps at most,
/// small enough that both rings stay in the second cache.
pub const CAPACITY_BYTES: usize = 256 * 1024;
/// The most that a host can ask a worker to map, for each ring.
pub(super) const MAX_CAPACITY_BYTES: usize = 64 * 1024 * 1024;

/// The first page has the words.
pub(super) const HEADER_BYTES: usize = 4096;
/// Each word has two cache lines to itself, since processors fetch them in pairs.
const WORD_STRIDE: usize = 128;
const WORDS: usize = 4;

const _: () = assert!(2 * WORDS * WORD_STRIDE <= HEADER_BYTES, "the words of both rings are on the first page");
const _: () = assert!(CAPACITY_BYTES.is_power_of_two() && CAPACITY_BYTES <= MAX_CAPACITY_BYTES);

/// What a side says of itself in its word.
pub(super) const AWAKE: u64 = 0;
pub(super) const SLEEPS: u64 = 1;
pub(super) const DOZES: u64 = 2;

/// All of the shared memory.
pub(super) const fn total_bytes(capacity: usize) -> usize {
    HEADER_BYTES + 2 * capacity
}

/// The words of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes ever written. The producer's.
    Tail,
    /// Bytes ever read. The consumer's.
    Head,
    /// [`SLEEPS`] while the consumer sleeps until there are bytes, [`DOZES`] while it sleeps until there are bytes that
    /// cannot wait. It sets it, and whoever sets it back rings.
    ConsumerSleeps,
    /// 1 while the producer sleeps until there is room.
    ProducerSleeps,
}

/// Which way a ring goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToWorker,
    ToHost,
}

/// A number that two sides share.
pub(crate) trait Word {
    fn load(&self, ordering: Ordering) -> u64;
    fn store(&self, value: u64, ordering: Ordering);
    fn swap(&self, value: u64, ordering: Ordering) -> u64;
}

/// A ring's words and bytes. Real memory, or what a model checker has instead.
pub(crate) trait Memory {
    type Word: Word;

    fn word(&self, place: Place) -> &Self::Word;
    /// A power of two.
    fn capacity(&self) -> usize;
    /// The caller has the right to these bytes, by the positions.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
    /// As for [`copy_in`](Self::copy_in).
    fn copy_out(&self, offset: usize, bytes: &mut [u8]);
    /// As [`copy_out`](Self::copy_out), to the end of a vector, into memory that it has already.
    fn append_out(&self, offset: usize, length: usize, to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + length, 0);
        self.copy_out(offset, &mut to[start..]);
    }
    /// A fence of sequential consistency.
    fn fence();
}

impl Word for AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        AtomicU64::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        AtomicU64::store(self, value, ordering);
    }

    fn swap(&self, value: u64, ordering: Ordering) -> u64 {
        AtomicU64::swap(self, value, ordering)
    }
}

/// One ring of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    mapping: Arc<Mapping>,
    capacity: usize,
    words_at: usize,
    bytes_at: usize,
}

impl Ring {
    /// Both rings of a mapping, which is as long as [`total_bytes`] says: to the worker, and to the host.
    pub(crate) fn both(mapping: Mapping, capacity: usize) -> (Ring, Ring) {
        assert!(capacity.is_power_of_two() && mapping.len() == total_bytes(capacity), "a mapping of two rings");
        let mapping = Arc::new(mapping);
        let ring = |direction: Direction| {
            let number = usize::from(direction == Direction::ToHost);
            let (words_at, bytes_at) = (number * WORDS * WORD_STRIDE, HEADER_BYTES + number * capacity);
            Ring { mapping: Arc::clone(&mapping), capacity, words_at, bytes_at }
        };
        (ring(Direction::ToWorker), ring(Direction::ToHost))
    }
}

impl Memory for Ring {
    type Word = AtomicU64;

    fn word(&self, place: Place) -> &AtomicU64 {
        self.mapping.word(self.words_at + place as usize * WORD_STRIDE)
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.mapping.copy_in(self.bytes_at + offset, bytes);
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        self.mapping.copy_out(self.bytes_at + offset, bytes);
    }

    fn append_out(&self, offset: usize, length: usize, to: &mut Vec<u8>) {
        self.mapping.append_out(self.bytes_at + offset, length, to);
    }

    fn fence() {
        atomic::fence(Ordering::SeqCst);
    }
}

/// Where `length` bytes from a position on lie in a ring: the offset of the first, and how many there are before the ring
/// begins anew.
pub(super) fn split(capacity: usize, position: u64, length: usize) -> (usize, usize) {
    let mask = capacity as u64 - 1;
    let offset = usize::try_from(position & mask).expect("less than the capacity, which is a usize");
    (offset, length.min(capacity - offset))
}
