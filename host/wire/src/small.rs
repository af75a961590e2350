//! Small messages that arrive one right after the other: they are queued without their bytes, which they share in one piece of
//! memory once all of them are here.
//!
//! One allocation and one count of references serve as many as arrive together. That memory is gone when the last of them
//! is.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use crate::assembly::Message;

/// Messages up to this size share memory.
pub const MAX_SMALL_BYTES: usize = 512;
/// For so many of the first one's size memory is set aside, up to so much of it.
const LIKELY: usize = 64;
const LIKELY_BYTES: usize = 1024;

/// The bytes of those that were queued last, one behind the other, and where each begins.
#[derive(Debug, Default)]
pub struct SmallMessages {
    bytes: Vec<u8>,
    begins: Vec<usize>,
}

impl SmallMessages {
    /// Queues one more, which has to come right after those before.
    pub fn push(&mut self, bytes: &[u8], queue: &mut VecDeque<Message>) {
        if self.begins.is_empty() {
            self.begins.reserve(LIKELY);
            self.bytes.reserve((LIKELY * bytes.len()).min(LIKELY_BYTES));
        }
        self.begins.push(self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        queue.push_back(Message::default());
    }

    /// Gives those at the end of `queue` their bytes: before anything else is queued, and before any of them is taken.
    pub fn share(&mut self, queue: &mut VecDeque<Message>) {
        if self.begins.is_empty() {
            return;
        }
        let bytes = Bytes::from(mem::take(&mut self.bytes));
        let first = queue.len() - self.begins.len();
        let mut begins = self.begins.drain(..).peekable();
        for message in queue.range_mut(first..) {
            let Some(begin) = begins.next() else { return };
            message.bytes = bytes.slice(begin..begins.peek().copied().unwrap_or(bytes.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_bytes_behind_what_was_there() {
        let sizes = [0, 17, MAX_SMALL_BYTES, 0, 1, 511, 0];
        let messages: Vec<Vec<u8>> = (1_u8..).zip(sizes).map(|(number, size)| vec![number; size]).collect();
        let mut queue = VecDeque::from([Message { bytes: Bytes::from_static(b"before"), ..Message::default() }]);
        let mut small = SmallMessages::default();
        for _ in 0..2 {
            messages.iter().for_each(|bytes| small.push(bytes, &mut queue));
            small.share(&mut queue);
            // There is nothing left to give.
            small.share(&mut queue);
        }
        assert_eq!(queue.pop_front().unwrap().bytes, &b"before"[..]);
        let given: Vec<Vec<u8>> = queue.into_iter().map(|message| message.bytes.to_vec()).collect();
        assert_eq!(given, [&messages[..], &messages[..]].concat());
    }
}
