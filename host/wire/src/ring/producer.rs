//! The side of a ring that writes.

use std::io::IoSlice;
use std::sync::atomic::Ordering;

use super::Violation;
use super::layout::{AWAKE, DOZES, Memory, Place, SLEEPS, Word, split};

/// Bytes after which the other side can go on if it is awake, while the rest is still being copied.
pub(super) const PIECE_BYTES: usize = 32 * 1024;

/// Writes into a ring. There is one for each ring.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    memory: M,
    /// Bytes ever written.
    tail: u64,
    /// Bytes that the consumer had read when this side last looked.
    head: u64,
}

impl<M: Memory> Producer<M> {
    /// The producer of a ring that nobody has written to.
    pub(crate) fn new(memory: M) -> Producer<M> {
        Producer { memory, tail: 0, head: 0 }
    }

    /// Copies as much as there is room for and lets the consumer see it. Nothing is written when there is no room.
    pub(crate) fn write(&mut self, buffers: &[IoSlice<'_>]) -> Result<usize, Violation> {
        let wanted = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut room = self.known_room();
        if room < wanted {
            room = self.room()?;
        }
        let mut left = wanted.min(room);
        let mut piece = piece_of(left);
        let mut unseen = 0;
        for buffer in buffers {
            let mut bytes = &buffer[..buffer.len().min(left)];
            left -= bytes.len();
            while !bytes.is_empty() {
                let (next, rest) = bytes.split_at(bytes.len().min(piece - unseen));
                self.copy(unseen, next);
                unseen += next.len();
                bytes = rest;
                if unseen == piece {
                    self.publish(std::mem::take(&mut unseen));
                    piece = piece_of(left + bytes.len());
                }
            }
        }
        Ok(wanted.min(room))
    }

    /// Copies bytes in behind so many that the consumer cannot see yet. There is room for them.
    fn copy(&self, unseen: usize, bytes: &[u8]) {
        let position = self.tail.wrapping_add(unseen as u64);
        let (offset, first) = split(self.memory.capacity(), position, bytes.len());
        self.memory.copy_in(offset, &bytes[..first]);
        if first < bytes.len() {
            self.memory.copy_in(0, &bytes[first..]);
        }
    }

    /// Lets the consumer see so many bytes.
    fn publish(&mut self, count: usize) {
        self.tail = self.tail.wrapping_add(count as u64);
        // The bytes are there for whoever sees this.
        self.memory.word(Place::Tail).store(self.tail, Ordering::Release);
    }

    /// Whether the consumer sleeps, to be asked after each write. It is told so once: whoever is told has to ring.
    pub(crate) fn has_to_ring(&self) -> bool {
        M::fence();
        let sleeps = self.memory.word(Place::ConsumerSleeps);
        sleeps.load(Ordering::Relaxed) != AWAKE && sleeps.swap(AWAKE, Ordering::Relaxed) != AWAKE
    }

    /// As [`has_to_ring`](Self::has_to_ring), after a write that can wait: a consumer that dozes is left alone while the ring
    /// is at most half full.
    pub(crate) fn has_to_ring_lazily(&self) -> bool {
        M::fence();
        let sleeps = self.memory.word(Place::ConsumerSleeps);
        match sleeps.load(Ordering::Relaxed) {
            AWAKE => false,
            DOZES if self.used() <= much(self.memory.capacity()) => false,
            _ => sleeps.swap(AWAKE, Ordering::Relaxed) != AWAKE,
        }
    }

    /// Bytes that the consumer has not read, as it says. A word is looked at, and nothing is believed.
    fn used(&self) -> usize {
        let head = self.memory.word(Place::Head).load(Ordering::Relaxed);
        usize::try_from(self.tail.wrapping_sub(head)).unwrap_or(usize::MAX)
    }

    /// How many bytes can be written.
    pub(crate) fn room(&mut self) -> Result<usize, Violation> {
        // What the consumer has copied out before may be written over.
        let head = self.memory.word(Place::Head).load(Ordering::Acquire);
        if head.wrapping_sub(self.head) > self.tail.wrapping_sub(self.head) {
            return Err(Violation { found: head, least: self.head, most: self.tail });
        }
        self.head = head;
        Ok(self.known_room())
    }

    /// Whether there is room for a piece, or something wrong. A word is looked at, and nothing is believed.
    pub(crate) fn has_some_room(&self) -> bool {
        let head = self.memory.word(Place::Head).load(Ordering::Relaxed);
        let used = usize::try_from(self.tail.wrapping_sub(head)).unwrap_or(0);
        self.memory.capacity().saturating_sub(used) >= PIECE_BYTES.min(much(self.memory.capacity()))
    }

    /// Whether there is room worth waking up for: then the consumer rings who sleeps.
    pub(crate) fn has_much_room(&mut self) -> Result<bool, Violation> {
        Ok(self.room()? >= much(self.memory.capacity()))
    }

    /// Says that this side sleeps until there is much room; false if there is already.
    pub(crate) fn about_to_wait(&mut self) -> Result<bool, Violation> {
        self.memory.word(Place::ProducerSleeps).store(SLEEPS, Ordering::Relaxed);
        M::fence();
        if self.has_much_room()? {
            self.is_awake();
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes back what [`about_to_wait`](Self::about_to_wait) said.
    pub(crate) fn is_awake(&self) {
        self.memory.word(Place::ProducerSleeps).store(AWAKE, Ordering::Relaxed);
    }

    fn known_room(&self) -> usize {
        let used = usize::try_from(self.tail.wrapping_sub(self.head)).unwrap_or(usize::MAX);
        self.memory.capacity().saturating_sub(used)
    }
}

/// How many of so many bytes the consumer is to see at once: a piece, and a small rest with it.
fn piece_of(left: usize) -> usize {
    if left < PIECE_BYTES + PIECE_BYTES / 2 { left } else { PIECE_BYTES }
}

/// Room for which a producer that sleeps is woken.
pub(super) const fn much(capacity: usize) -> usize {
    capacity / 2
}
