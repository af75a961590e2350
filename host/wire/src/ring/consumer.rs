//! The side of a ring that reads.

use std::sync::atomic::Ordering;

use super::Violation;
use super::layout::{AWAKE, DOZES, Memory, Place, SLEEPS, Word, split};
use super::producer::{PIECE_BYTES, much};

/// Reads from a ring. There is one for each ring.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    memory: M,
    /// Bytes ever read.
    head: u64,
    /// Bytes that the producer had written when this side last looked.
    tail: u64,
    /// Bytes that were read when this side last looked whether the producer sleeps.
    looked_at: u64,
    /// No more than what was there then counts.
    is_closed: bool,
}

impl<M: Memory> Consumer<M> {
    /// The consumer of a ring that nobody has read from.
    pub(crate) fn new(memory: M) -> Consumer<M> {
        Consumer { memory, head: 0, tail: 0, looked_at: 0, is_closed: false }
    }

    /// Copies as much as there is, and lets the producer write over it. 0 if there is nothing.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Violation> {
        let count = self.look()?.min(buffer.len());
        if count == 0 {
            return Ok(0);
        }
        for piece in buffer[..count].chunks_mut(PIECE_BYTES) {
            self.copy(piece);
            self.give_back(piece.len());
        }
        Ok(count)
    }

    /// As [`read`](Self::read), at most so many bytes to the end of a vector, into memory that it has already.
    pub(crate) fn append(&mut self, to: &mut Vec<u8>, most: usize) -> Result<usize, Violation> {
        let count = self.look()?.min(most).min(to.capacity() - to.len());
        let mut left = count;
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            let (offset, first) = split(self.memory.capacity(), self.head, piece);
            self.memory.append_out(offset, first, to);
            if first < piece {
                self.memory.append_out(0, piece - first, to);
            }
            self.give_back(piece);
            left -= piece;
        }
        Ok(count)
    }

    /// The producer may write over so many bytes.
    fn give_back(&mut self, count: usize) {
        self.head = self.head.wrapping_add(count as u64);
        // The bytes were copied out before anybody sees this.
        self.memory.word(Place::Head).store(self.head, Ordering::Release);
    }

    /// As [`read`](Self::read), but everything stays where it is.
    pub(crate) fn peek(&mut self, buffer: &mut [u8]) -> Result<usize, Violation> {
        let count = self.look()?.min(buffer.len());
        self.copy(&mut buffer[..count]);
        Ok(count)
    }

    /// Whether the producer sleeps and there is room for it by now, to be asked after each read. It is told so once: whoever
    /// is told has to ring.
    ///
    /// The producer sleeps only if it finds little room by what it sees of this side's position, which is no older than this
    /// side's last look for it, or that would have found it asleep. So there is nothing to look for while all that was written
    /// since then would leave much room. After a look that finds it asleep with less than much room the next one looks again.
    pub(crate) fn has_to_ring(&mut self) -> bool {
        let since = usize::try_from(self.tail.wrapping_sub(self.looked_at)).unwrap_or(usize::MAX);
        if self.memory.capacity().saturating_sub(since) >= much(self.memory.capacity()) {
            return false;
        }
        self.looked_at = self.head;
        M::fence();
        let sleeps = self.memory.word(Place::ProducerSleeps);
        if sleeps.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // There may be more in it than this side knows. Then the producer is rung too early, and looks again.
        let used = usize::try_from(self.tail.wrapping_sub(self.head)).unwrap_or(usize::MAX);
        self.memory.capacity().saturating_sub(used) >= much(self.memory.capacity())
            && sleeps.swap(0, Ordering::Relaxed) != 0
    }

    /// How many bytes can be read.
    pub(crate) fn look(&mut self) -> Result<usize, Violation> {
        if !self.is_closed {
            // What the producer has copied in before can be copied out.
            let tail = self.memory.word(Place::Tail).load(Ordering::Acquire);
            let most = self.head.wrapping_add(self.memory.capacity() as u64);
            if tail.wrapping_sub(self.tail) > most.wrapping_sub(self.tail) {
                return Err(Violation { found: tail, least: self.tail, most });
            }
            self.tail = tail;
        }
        Ok(usize::try_from(self.tail.wrapping_sub(self.head)).expect("at most the capacity, which is a usize"))
    }

    /// Whether [`read`](Self::read) would find anything, or something wrong. A word is looked at, and nothing is believed.
    pub(crate) fn has_something(&self) -> bool {
        self.tail != self.head
            || (!self.is_closed && self.memory.word(Place::Tail).load(Ordering::Relaxed) != self.head)
    }

    /// Says that this side sleeps until there is something; false if there is already.
    pub(crate) fn about_to_wait(&self) -> bool {
        self.says(SLEEPS)
    }

    /// Says that this side sleeps until there is something that cannot wait, or half of the ring is full; false if there is
    /// something already.
    pub(crate) fn about_to_doze(&self) -> bool {
        self.says(DOZES)
    }

    fn says(&self, sleep: u64) -> bool {
        self.memory.word(Place::ConsumerSleeps).store(sleep, Ordering::Relaxed);
        M::fence();
        if self.has_something() {
            self.is_awake();
            return false;
        }
        true
    }

    /// Has a thread that dozes woken for anything from here on, for another thread that has looked after the ring meanwhile and
    /// will not any more. False if there is something already: that is for the caller to read, since nobody may be woken for it.
    pub(crate) fn sleeps_from_here(&self) -> bool {
        self.memory.word(Place::ConsumerSleeps).store(SLEEPS, Ordering::Relaxed);
        M::fence();
        !self.has_something()
    }

    /// Takes back what [`about_to_wait`](Self::about_to_wait) or [`about_to_doze`](Self::about_to_doze) said.
    pub(crate) fn is_awake(&self) {
        self.memory.word(Place::ConsumerSleeps).store(AWAKE, Ordering::Relaxed);
    }

    /// The producer is gone, or is not to be listened to any more: what there is by now is the last.
    pub(crate) fn close(&mut self) -> Result<(), Violation> {
        self.look()?;
        self.is_closed = true;
        Ok(())
    }

    fn copy(&self, bytes: &mut [u8]) {
        let (offset, first) = split(self.memory.capacity(), self.head, bytes.len());
        let (first, rest) = bytes.split_at_mut(first);
        self.memory.copy_out(offset, first);
        if !rest.is_empty() {
            self.memory.copy_out(0, rest);
        }
    }
}
