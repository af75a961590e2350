//! Messages that wait to be received, in the order in which they came; small ones as they lie in their frames.
//!
//! ```text
//!  frame of several:  length u16, bytes │ length u16, bytes │ …      all little-endian, no channels, nothing behind them
//!                      └──────────────── all of it ──► one allocation ──► a place in the queue ──► one by one to who receives
//! ```
//!
//! What arrives together shares one piece of memory, which is gone when the last of it is. Whoever copies a message's bytes anyway
//! looks at the [front](Messages::front) and [skips](Messages::skip) it, without a count of references.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use bytes::Bytes;

use crate::assembly::Message;
use crate::ids::ChannelId;

/// Messages up to this size, each in a frame of its own, share memory with those that arrive together with them.
pub const MAX_SMALL_BYTES: usize = 512;
/// Most bytes of several messages in a frame. Twice as many share memory at most, so that whoever keeps one of them keeps
/// no more.
pub const MAX_SEVERAL_BYTES: usize = 16 * 1024;
/// What says how long one is.
const LENGTH_BYTES: usize = 2;
/// For so many of the first one's size memory is set aside, up to so much of it.
const LIKELY: usize = 64;
const LIKELY_BYTES: usize = 1024;

/// A queue of messages.
#[derive(Debug, Default)]
pub struct Messages {
    items: VecDeque<Item>,
    count: usize,
}

#[derive(Debug)]
enum Item {
    One(Message),
    Several(Several),
}

/// Messages without channels that lie one behind the other, each after its length: at least one.
#[derive(Debug)]
struct Several {
    bytes: Bytes,
    /// Where the next one begins, with its length.
    at: usize,
    left: usize,
}

/// The message that is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front<'a> {
    /// Its payload.
    pub bytes: &'a [u8],
    /// The channels that go with it.
    pub channels: &'a [ChannelId],
}

impl<'a> From<&'a Message> for Front<'a> {
    fn from(message: &'a Message) -> Front<'a> {
        Front { bytes: &message.bytes, channels: &message.channels }
    }
}

/// Writes a message behind others.
pub(crate) fn add(to: &mut Vec<u8>, message: &[u8]) {
    to.reserve(LENGTH_BYTES + message.len());
    to.extend_from_slice(&length(message.len()));
    to.extend_from_slice(message);
}

/// What stands before a small message of so many bytes.
pub(crate) fn length(bytes: usize) -> [u8; LENGTH_BYTES] {
    u16::try_from(bytes).expect("it is small").to_le_bytes()
}

/// The messages of a frame of several, up to what is none.
pub fn each(mut several: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || split(&mut several))
}

/// Takes the first of several messages off `rest`; `None` if it does not begin with one.
pub(crate) fn split<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk()?;
    let (message, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = behind;
    Some(message)
}

impl Several {
    /// Where the next one is. They were looked through when they arrived.
    fn place(&self) -> Range<usize> {
        let length = self.bytes[self.at..].first_chunk().map_or(0, |length| u16::from_le_bytes(*length));
        let begin = self.at + LENGTH_BYTES;
        begin..begin + usize::from(length)
    }

    fn front(&self) -> &[u8] {
        &self.bytes[self.place()]
    }

    /// The next one, which was here, has gone. Says whether there is another one.
    fn skip(&mut self, place: Range<usize>) -> bool {
        self.at = place.end;
        self.left -= 1;
        self.left > 0
    }
}

impl Messages {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts one behind all others.
    pub fn push(&mut self, message: Message) {
        self.count += 1;
        self.items.push_back(Item::One(message));
    }

    /// Puts one before all others.
    pub fn push_front(&mut self, message: Message) {
        self.count += 1;
        self.items.push_front(Item::One(message));
    }

    /// The next one.
    pub fn front(&self) -> Option<Front<'_>> {
        Some(match self.items.front()? {
            Item::One(message) => message.into(),
            Item::Several(several) => Front { bytes: several.front(), channels: &[] },
        })
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<Message> {
        if let Some(Item::Several(several)) = self.items.front_mut() {
            let place = several.place();
            // Whoever has the last one of them would have all of the memory.
            let bytes = match several.left {
                1 => Bytes::copy_from_slice(several.front()),
                _ => several.bytes.slice(place.clone()),
            };
            self.count -= 1;
            if !several.skip(place) {
                self.items.pop_front();
            }
            return Some(Message { bytes, channels: Vec::new() });
        }
        let Some(Item::One(message)) = self.items.pop_front() else { return None };
        self.count -= 1;
        Some(message)
    }

    /// Drops the next one, if there is one.
    pub fn skip(&mut self) {
        let Some(first) = self.items.front_mut() else { return };
        self.count -= 1;
        let Item::Several(several) = first else {
            self.items.pop_front();
            return;
        };
        if !several.skip(several.place()) {
            self.items.pop_front();
        }
    }

    /// Moves the next ones to the end of `to`, as long as they have no channels and `wanted` says so of their lengths.
    pub fn move_small(&mut self, to: &mut Messages, mut wanted: impl FnMut(usize) -> bool) {
        while let Some(first) = self.items.front_mut() {
            match first {
                Item::One(message) => {
                    if !message.channels.is_empty() || !wanted(message.bytes.len()) {
                        return;
                    }
                    to.items.extend(self.items.pop_front());
                    (self.count, to.count) = (self.count - 1, to.count + 1);
                }
                Item::Several(several) => {
                    let (bytes, at, all) = (several.bytes.clone(), several.at, several.left);
                    let mut is_over = false;
                    while !is_over {
                        let place = several.place();
                        if !wanted(place.len()) {
                            break;
                        }
                        is_over = !several.skip(place);
                    }
                    let left = all - several.left;
                    if left > 0 {
                        to.items.push_back(Item::Several(Several { bytes, at, left }));
                        (self.count, to.count) = (self.count - left, to.count + left);
                    }
                    if !is_over {
                        return;
                    }
                    self.items.pop_front();
                }
            }
        }
    }

    /// Puts all of `before` before these.
    pub fn put_back(&mut self, before: &mut Messages) {
        self.count += mem::take(&mut before.count);
        while let Some(last) = before.items.pop_back() {
            self.items.push_front(last);
        }
    }

    /// Drops all of them.
    pub fn clear(&mut self) {
        self.items.clear();
        self.count = 0;
    }

    /// The length of each.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.items.iter().flat_map(|item| {
            let (one, several) = match item {
                Item::One(message) => (Some(message.bytes.len()), None),
                Item::Several(Several { bytes, at, left }) => (None, Some((&bytes[*at..], *left))),
            };
            let of_several = several
                .into_iter()
                .flat_map(|(mut rest, left)| (0..left).map(move |_| split(&mut rest).map_or(0, <[u8]>::len)));
            one.into_iter().chain(of_several)
        })
    }

    /// Drops all of them, and returns their channels.
    pub fn take_channels(&mut self) -> Vec<ChannelId> {
        self.count = 0;
        let channels = self.items.drain(..).flat_map(|item| match item {
            Item::One(message) => message.channels,
            Item::Several(_) => Vec::new(),
        });
        channels.collect()
    }
}

/// Small messages that have just come one right after the other, and are not in the queue yet.
#[derive(Debug, Default)]
pub struct Together {
    bytes: Vec<u8>,
    count: usize,
}

impl Together {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one of at most [`MAX_SMALL_BYTES`].
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= MAX_SMALL_BYTES, "it has a place of its own");
        if self.bytes.is_empty() {
            self.bytes.reserve((LIKELY * (LENGTH_BYTES + bytes.len())).min(LIKELY_BYTES));
        }
        add(&mut self.bytes, bytes);
        self.count += 1;
    }

    /// Whether they are to be [shared](Self::share) before more is added.
    pub fn are_enough(&self) -> bool {
        self.bytes.len() >= MAX_SEVERAL_BYTES
    }

    /// Adds what was [found](crate::assembly::Assembly::several) to be so many.
    pub fn extend(&mut self, several: &[u8], count: usize) {
        self.bytes.extend_from_slice(several);
        self.count += count;
    }

    /// Puts them at the end of `queue`: before anything else is queued, and before any of them is taken.
    pub fn share(&mut self, queue: &mut Messages) {
        if self.count > 0 {
            let (bytes, left) = (Bytes::from(mem::take(&mut self.bytes)), mem::take(&mut self.count));
            queue.count += left;
            queue.items.push_back(Item::Several(Several { bytes, at: 0, left }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::assembly::{Assembly, AssemblyError, CHANNELS, Chunk, MORE, SEVERAL};
    use crate::flow::{FlowError, ReceiveWindow, Window};

    fn one(bytes: &[u8], channels: &[u64]) -> Message {
        Message { bytes: Bytes::copy_from_slice(bytes), channels: channels.iter().copied().map(ChannelId).collect() }
    }

    fn together(messages: &[Vec<u8>], queue: &mut Messages) {
        let mut together = Together::default();
        messages.iter().for_each(|bytes| together.push(bytes));
        assert_eq!(together.is_empty(), messages.is_empty());
        together.share(queue);
        // There is nothing left to give.
        together.share(queue);
        assert!(together.is_empty());
    }

    #[test]
    fn each_has_its_own_bytes_behind_what_was_there() {
        let sizes = [0, 17, MAX_SMALL_BYTES, 0, 1, 511, 0];
        let messages: Vec<Vec<u8>> = (1_u8..).zip(sizes).map(|(number, size)| vec![number; size]).collect();
        let mut queue = Messages::default();
        queue.push(one(b"before", &[7]));
        together(&messages, &mut queue);
        queue.push(one(b"between", &[]));
        together(&messages, &mut queue);
        assert_eq!(queue.len(), 2 + 2 * messages.len());
        assert_eq!(queue.front(), Some(Front { bytes: b"before", channels: &[ChannelId(7)] }));
        assert_eq!(queue.pop().unwrap(), one(b"before", &[7]));
        for bytes in &messages {
            assert_eq!(queue.front(), Some(Front { bytes, channels: &[] }));
            assert_eq!(queue.pop().unwrap(), one(bytes, &[]));
        }
        queue.skip();
        let lengths: Vec<usize> = queue.lengths().collect();
        assert_eq!(lengths, sizes);
        for bytes in &messages {
            assert_eq!(queue.front().unwrap().bytes, bytes);
            queue.skip();
        }
        assert!(queue.is_empty() && queue.front().is_none() && queue.pop().is_none());
        queue.skip();
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn channels_come_out_of_what_is_dropped() {
        let mut queue = Messages::default();
        queue.push(one(b"a", &[1, 2]));
        together(&[vec![1], vec![2]], &mut queue);
        queue.push(one(b"b", &[3]));
        assert_eq!(queue.take_channels(), [1, 2, 3].map(ChannelId));
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn what_is_no_message_is_not_split() {
        for bytes in [&[][..], &[1], &[1, 0], &[3, 0, 1, 2], &[0, 1, 2]] {
            let mut rest = bytes;
            assert_eq!((split(&mut rest), rest), (None, bytes));
        }
        let mut rest = &[0, 0, 2, 0, 7, 8, 9][..];
        assert_eq!((split(&mut rest), split(&mut rest), rest), (Some(&[][..]), Some(&[7, 8][..]), &[9][..]));
    }

    #[test]
    fn several_messages_in_a_frame_are_counted_one_by_one() {
        let mut assembly = Assembly::default();
        let several = |messages: &[&[u8]]| {
            let mut payload = Vec::new();
            messages.iter().for_each(|message| add(&mut payload, message));
            payload
        };
        let window = || ReceiveWindow::new(Window::new(1000, 3));
        let count = |assembly: &Assembly, payload: &[u8]| assembly.several(payload, 4, &mut window());
        assert_eq!(count(&assembly, &several(&[b"ab", b"", b"abcd"])), Ok((3, 6)));
        let too_large = AssemblyError::TooLarge { length: 5, maximum: 4 };
        assert_eq!(count(&assembly, &several(&[b"ab", b"abcde"])), Err(too_large));
        assert_eq!(count(&assembly, &several(&[b"", b"", b"", b""])), Err(FlowError::Overrun.into()));
        let many = several(&vec![&b""[..]; MAX_SEVERAL_BYTES / 2 + 1]);
        assert_eq!(count(&assembly, &many), Err(AssemblyError::Several { length: MAX_SEVERAL_BYTES + 2 }));
        assert_eq!(count(&assembly, b""), Err(AssemblyError::Short), "a frame of none is none");
        for payload in [&b"\x01"[..], b"\x01\0", b"\x01\0ab", b"\x02\0ab\x01\0"] {
            assert_eq!(count(&assembly, payload), Err(AssemblyError::Short));
        }
        for flags in [SEVERAL, SEVERAL | MORE, SEVERAL | CHANNELS] {
            let refused = assembly.push(Chunk { flags, payload: &several(&[b"ab"]) }, 1000, None);
            assert_eq!(refused, Err(AssemblyError::Flags(flags)), "it is no chunk");
        }
        let first = [&6_u64.to_le_bytes()[..], b"ab"].concat();
        assembly.push(Chunk { flags: MORE, payload: &first }, 1000, None).unwrap();
        assert_eq!(count(&assembly, &several(&[b"ab"])), Err(AssemblyError::Flags(SEVERAL)), "within a message");
    }

    #[derive(Debug, Clone)]
    enum Step {
        One(Vec<u8>, bool),
        Together(Vec<Vec<u8>>),
        Pop,
        Skip,
        /// So many, of up to so many bytes, to another queue, of which so many are taken there before the rest comes back.
        Move(usize, usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        prop_oneof![
            (bytes(), any::<bool>()).prop_map(|(bytes, with)| Step::One(bytes, with)),
            prop::collection::vec(bytes(), 1..6).prop_map(Step::Together),
            Just(Step::Pop),
            Just(Step::Skip),
            (0..8_usize, 0..20_usize, 0..8_usize).prop_map(|(most, length, taken)| Step::Move(most, length, taken)),
        ]
    }

    proptest! {
        /// It is a queue of messages, whatever they lie in.
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec(step(), 0..60)) {
            let (mut queue, mut model) = (Messages::default(), VecDeque::new());
            for step in steps {
                match step {
                    Step::One(bytes, with) => {
                        let message = one(&bytes, if with { &[5] } else { &[] });
                        queue.push(message.clone());
                        model.push_back(message);
                    }
                    Step::Together(messages) => {
                        together(&messages, &mut queue);
                        model.extend(messages.iter().map(|bytes| one(bytes, &[])));
                    }
                    Step::Pop => prop_assert_eq!(queue.pop(), model.pop_front()),
                    Step::Skip => {
                        queue.skip();
                        model.pop_front();
                    }
                    Step::Move(most, length, taken) => {
                        let mut moved = Messages::default();
                        let mut left = most;
                        queue.move_small(&mut moved, |of| {
                            let wanted = left > 0 && of <= length;
                            left -= usize::from(wanted);
                            wanted
                        });
                        let fits = |message: &&Message| message.channels.is_empty() && message.bytes.len() <= length;
                        let expected = model.iter().take(most).take_while(fits).count();
                        prop_assert_eq!(moved.len(), expected);
                        for _ in 0..taken.min(expected) {
                            prop_assert_eq!(moved.pop(), model.pop_front());
                        }
                        queue.put_back(&mut moved);
                        prop_assert!(moved.is_empty());
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                let lengths: Vec<usize> = queue.lengths().collect();
                let expected: Vec<usize> = model.iter().map(|message| message.bytes.len()).collect();
                prop_assert_eq!(lengths, expected);
                let front = queue.front().map(|front| (front.bytes.to_vec(), front.channels.to_vec()));
                prop_assert_eq!(front, model.front().map(|it| (it.bytes.to_vec(), it.channels.clone())));
            }
        }
    }
}
