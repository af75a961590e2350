//! Messages and the chunks they travel in.
//!
//! The first chunk of a message carries what the receiver must know before the bytes:
//!
//! ```text
//!  flag MORE:      total length in bytes, u64        (otherwise: the rest of this chunk)
//!  flag CHANNELS:  count, u16, then that many u64 channel ids
//!  bytes …
//! ```
//!
//! A frame with SEVERAL, alone, is no chunk: it has [several small messages](crate::messages), one behind the other.
//!
//! Every chunk but the last has MORE. A chunk of nothing with GIVEN_UP in its place says that the rest does not come: a worker sends
//! it for a guest that is stopped within a message. An [`Assembly`] holds at most one message that is not complete; it grows with what
//! really arrived, not with what was announced alone.

use bytes::Bytes;

use crate::flow::{FlowError, ReceiveWindow};
use crate::ids::ChannelId;
use crate::messages::{self, MAX_SEVERAL_BYTES};

/// Flag of a chunk: the message goes on in another one.
pub const MORE: u8 = 1;
/// Flag of a chunk without bytes, alone: the message that was begun is none.
pub const GIVEN_UP: u8 = 4;
/// Flag of a frame, alone: it has several small messages.
pub const SEVERAL: u8 = 8;
/// Flag of a first chunk: channel ids stand before the bytes.
pub const CHANNELS: u8 = 2;

/// So many times what has arrived of a message is set aside for it, up to what was announced: a message is copied once or twice
/// as it grows, and not at each doubling.
const SET_ASIDE: usize = 16;

/// Most channels one message can carry.
pub const MAX_MESSAGE_CHANNELS: usize = 64;

/// What a sender hands over and a receiver gets: bytes, and the channels that the bytes refer to by position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The payload.
    pub bytes: Bytes,
    /// The channels that go with it.
    pub channels: Vec<ChannelId>,
}

/// A part of a message as it stands in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// [`MORE`] and [`CHANNELS`]; or [`SEVERAL`], and then it is no part of one.
    pub flags: u8,
    /// The frame's payload.
    pub payload: &'a [u8],
}

/// A chunk that does not fit what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssemblyError {
    /// A first chunk is shorter than what its flags announce.
    #[error("chunk is too short for its flags")]
    Short,
    /// The message is larger than the receiver takes.
    #[error("message of {length} bytes is larger than the maximum of {maximum}")]
    TooLarge {
        /// The announced length.
        length: u64,
        /// The most this receiver takes.
        maximum: u64,
    },
    /// More channels than a message may carry.
    #[error("message carries {count} channels, the maximum is {MAX_MESSAGE_CHANNELS}")]
    TooManyChannels {
        /// How many.
        count: usize,
    },
    /// More small messages than a frame may have.
    #[error("frame of small messages has {length} bytes, the maximum is {MAX_SEVERAL_BYTES}")]
    Several {
        /// Its length.
        length: usize,
    },
    /// The chunks do not add up to the announced length.
    #[error("message of {announced} bytes arrived as {arrived}")]
    Length {
        /// The announced length.
        announced: u64,
        /// What came.
        arrived: u64,
    },
    /// A flag that a chunk in this place cannot have.
    #[error("chunk has unknown flags {0:#x}")]
    Flags(u8),
    /// More than a task may have under way altogether.
    #[error("task has more than its {maximum} bytes of memory under way")]
    Memory {
        /// The task's memory in bytes.
        maximum: u64,
    },
    /// The sender had no credit for the message.
    #[error(transparent)]
    Flow(#[from] FlowError),
}

#[derive(Debug)]
struct Partial {
    total: u64,
    /// How much of it was handed over already.
    landed: u64,
    bytes: Vec<u8>,
    /// The bytes are with the reader, which reads the next chunk to their end.
    is_lent: bool,
    channels: Vec<ChannelId>,
}

/// Puts the chunks of one channel together.
#[derive(Debug, Default)]
pub struct Assembly {
    partial: Option<Partial>,
}

impl Assembly {
    /// Takes the next chunk and returns the message if that was its last. The whole length is taken off `window` (if the
    /// stream has one) when the first chunk arrives.
    ///
    /// # Errors
    /// See [`AssemblyError`]; each means that the peer broke the protocol.
    pub fn push(
        &mut self,
        chunk: Chunk<'_>,
        maximum: u64,
        window: Option<&mut ReceiveWindow>,
    ) -> Result<Option<Message>, AssemblyError> {
        let more = chunk.flags & MORE != 0;
        let Some(mut partial) = self.partial.take() else {
            let first = First::parse(chunk)?;
            if first.total > maximum {
                return Err(AssemblyError::TooLarge { length: first.total, maximum });
            }
            if let Some(window) = window {
                window.arrive(first.total)?;
            }
            if !more {
                return Ok(Some(Message { bytes: Bytes::copy_from_slice(first.bytes), channels: first.channels }));
            }
            let mut partial =
                Partial { total: first.total, landed: 0, bytes: Vec::new(), is_lent: false, channels: first.channels };
            partial.extend(first.bytes);
            self.partial = Some(partial.checked()?);
            return Ok(None);
        };
        if chunk.flags == GIVEN_UP && chunk.payload.is_empty() {
            // Its credits are lost: whoever gives a message up sends no other.
            return Ok(None);
        }
        if chunk.flags & !MORE != 0 {
            return Err(AssemblyError::Flags(chunk.flags));
        }
        partial.extend(chunk.payload);
        self.go_on(partial, more)
    }

    /// The chunk is in its place.
    fn go_on(&mut self, partial: Partial, more: bool) -> Result<Option<Message>, AssemblyError> {
        let partial = partial.checked()?;
        if more {
            self.partial = Some(partial);
            return Ok(None);
        }
        let arrived = partial.arrived();
        if arrived != partial.total {
            return Err(AssemblyError::Length { announced: partial.total, arrived });
        }
        Ok(Some(Message { bytes: Bytes::from(partial.bytes), channels: partial.channels }))
    }
}

impl Assembly {
    /// The bytes of a message that is no more than this chunk, if it is that and has no channels: what [`push`](Self::push)
    /// does, without a copy.
    ///
    /// # Errors
    /// See [`AssemblyError`].
    pub fn whole<'a>(
        &self,
        chunk: Chunk<'a>,
        maximum: u64,
        window: &mut ReceiveWindow,
    ) -> Result<Option<&'a [u8]>, AssemblyError> {
        if chunk.flags != 0 || self.partial.is_some() {
            return Ok(None);
        }
        let length = chunk.payload.len() as u64;
        if length > maximum {
            return Err(AssemblyError::TooLarge { length, maximum });
        }
        window.arrive(length)?;
        Ok(Some(chunk.payload))
    }

    /// How many messages are in a frame of [several](SEVERAL), and how many bytes they have together.
    ///
    /// # Errors
    /// See [`AssemblyError`]. The window may count some of them then.
    pub fn several(
        &self,
        mut payload: &[u8],
        maximum: u64,
        window: &mut ReceiveWindow,
    ) -> Result<(usize, u64), AssemblyError> {
        if self.partial.is_some() {
            return Err(AssemblyError::Flags(SEVERAL));
        }
        if payload.len() > MAX_SEVERAL_BYTES {
            return Err(AssemblyError::Several { length: payload.len() });
        }
        let (mut count, mut bytes) = (0, 0);
        while !payload.is_empty() {
            let length = messages::split(&mut payload).ok_or(AssemblyError::Short)?.len() as u64;
            if length > maximum {
                return Err(AssemblyError::TooLarge { length, maximum });
            }
            window.arrive(length)?;
            count += 1;
            bytes += length;
        }
        if count == 0 { Err(AssemblyError::Short) } else { Ok((count, bytes)) }
    }

    /// Whether no message is under way.
    pub fn is_empty(&self) -> bool {
        self.partial.is_none()
    }

    /// Lends what is here of the message that is not complete, with room for a chunk of so many bytes at its end, if that fits and can
    /// be had. The chunk [came](Self::came) then, instead of being [pushed](Self::push).
    pub fn lend(&mut self, flags: u8, length: usize) -> Option<Vec<u8>> {
        let partial = self.partial.as_mut()?;
        // Of what was handed over in parts the rest is small.
        let can_be = partial.landed == 0 && !partial.is_lent && partial.fits(flags, length);
        if !can_be || !partial.reserve(length, partial.bytes.len()) {
            return None;
        }
        partial.is_lent = true;
        Some(std::mem::take(&mut partial.bytes))
    }

    /// Takes back what was lent, with the chunk at its end. Nothing happens if it was of a message that is none any more.
    ///
    /// # Errors
    /// See [`AssemblyError`].
    pub fn came(&mut self, flags: u8, bytes: Vec<u8>) -> Result<Option<Message>, AssemblyError> {
        let Some(mut partial) = self.partial.take_if(|partial| partial.is_lent) else { return Ok(None) };
        (partial.bytes, partial.is_lent) = (bytes, false);
        self.go_on(partial, flags & MORE != 0)
    }

    /// Whether a chunk of so many bytes can be handed over as it arrives, because all before it was; [`landed`](Self::landed)
    /// then says that it did.
    pub fn can_land(&self, flags: u8, length: usize) -> bool {
        self.partial.as_ref().is_some_and(|partial| {
            partial.bytes.is_empty() && partial.landed > 0 && !partial.is_lent && partial.fits(flags, length)
        })
    }

    /// A chunk was handed over as it arrived. The message that is whole by it lacks all that was.
    ///
    /// # Errors
    /// See [`AssemblyError`].
    pub fn landed(&mut self, flags: u8, length: usize) -> Result<Option<Message>, AssemblyError> {
        let Some(mut partial) = self.partial.take() else { return Ok(None) };
        partial.landed += length as u64;
        self.go_on(partial, flags & MORE != 0)
    }

    /// Of a message that is not complete and has no channels: its length, and how many of its bytes are here.
    pub fn under_way(&self) -> Option<(u64, usize)> {
        let partial = self.partial.as_ref().filter(|partial| partial.channels.is_empty())?;
        Some((partial.total, partial.bytes.len()))
    }

    /// Hands over what is here of the message that is not complete, in exchange for other memory. From then on the message that
    /// [`push`](Self::push) returns lacks that.
    pub fn hand_over(&mut self, mut spare: Vec<u8>) -> Vec<u8> {
        spare.clear();
        let Some(partial) = &mut self.partial else { return spare };
        partial.landed += partial.bytes.len() as u64;
        std::mem::replace(&mut partial.bytes, spare)
    }

    /// Takes back what was handed over: all of it, in order.
    pub fn take_back(&mut self, mut bytes: Vec<u8>) {
        if let Some(partial) = &mut self.partial {
            debug_assert!(partial.landed == bytes.len() as u64, "all of it");
            bytes.append(&mut partial.bytes);
            (partial.landed, partial.bytes) = (0, bytes);
        }
    }

    /// The channels of the message that is not complete, when it never will be.
    pub fn into_channels(self) -> Vec<ChannelId> {
        self.partial.map(|partial| partial.channels).unwrap_or_default()
    }
}

/// The channels that a chunk carries, for a receiver that has no use for the message.
///
/// # Errors
/// See [`AssemblyError`].
pub fn attached(chunk: Chunk<'_>) -> Result<Vec<ChannelId>, AssemblyError> {
    if chunk.flags & CHANNELS == 0 {
        return Ok(Vec::new());
    }
    Ok(First::parse(chunk)?.channels)
}

impl Partial {
    fn extend(&mut self, bytes: &[u8]) {
        if self.landed == 0 {
            // Without it the vector grows as it likes.
            let _ = self.reserve(bytes.len(), self.bytes.len() + bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Sets memory aside for `more` bytes, and up to a multiple of what has arrived: address space rather than memory.
    fn reserve(&mut self, more: usize, arrived: usize) -> bool {
        let needed = self.bytes.len() + more;
        if needed <= self.bytes.capacity() {
            return true;
        }
        let announced = usize::try_from(self.total).unwrap_or(usize::MAX);
        let wanted = announced.min(arrived.saturating_mul(SET_ASIDE)).max(needed);
        self.bytes.try_reserve_exact(wanted - self.bytes.len()).is_ok()
    }

    fn fits(&self, flags: u8, length: usize) -> bool {
        let arrives = self.arrived() + length as u64;
        if flags == MORE { arrives <= self.total } else { flags == 0 && arrives == self.total }
    }

    fn checked(self) -> Result<Partial, AssemblyError> {
        let arrived = self.arrived();
        if arrived > self.total {
            return Err(AssemblyError::Length { announced: self.total, arrived });
        }
        Ok(self)
    }

    fn arrived(&self) -> u64 {
        self.landed + self.bytes.len() as u64
    }
}

struct First<'a> {
    total: u64,
    channels: Vec<ChannelId>,
    bytes: &'a [u8],
}

impl<'a> First<'a> {
    fn parse(chunk: Chunk<'a>) -> Result<First<'a>, AssemblyError> {
        let Chunk { flags, payload: mut rest } = chunk;
        if flags & !(MORE | CHANNELS) != 0 {
            return Err(AssemblyError::Flags(flags));
        }
        let announced = match flags & MORE {
            0 => None,
            _ => Some(u64::from_le_bytes(*take(&mut rest)?)),
        };
        let mut channels = Vec::new();
        if flags & CHANNELS != 0 {
            let count = usize::from(u16::from_le_bytes(*take(&mut rest)?));
            if count > MAX_MESSAGE_CHANNELS {
                return Err(AssemblyError::TooManyChannels { count });
            }
            for _ in 0..count {
                channels.push(ChannelId(u64::from_le_bytes(*take(&mut rest)?)));
            }
        }
        Ok(First { total: announced.unwrap_or(rest.len() as u64), channels, bytes: rest })
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], AssemblyError> {
    let (head, tail) = rest.split_first_chunk().ok_or(AssemblyError::Short)?;
    *rest = tail;
    Ok(head)
}

/// Writes what stands before the bytes of a message's first chunk, and returns the chunk's flags.
pub(crate) fn write_prefix(out: &mut Vec<u8>, message: &Message, more: bool) -> u8 {
    let mut flags = 0;
    if more {
        flags |= MORE;
        out.extend_from_slice(&(message.bytes.len() as u64).to_le_bytes());
    }
    if !message.channels.is_empty() {
        flags |= CHANNELS;
        let count = u16::try_from(message.channels.len()).expect("senders check MAX_MESSAGE_CHANNELS");
        out.extend_from_slice(&count.to_le_bytes());
        for channel in &message.channels {
            out.extend_from_slice(&channel.0.to_le_bytes());
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Window;

    fn push(assembly: &mut Assembly, flags: u8, payload: &[u8]) -> Result<Option<Message>, AssemblyError> {
        assembly.push(Chunk { flags, payload }, 1000, None)
    }

    #[test]
    fn golden_prefixes() {
        let message = |bytes: &'static [u8], ids: &[u64]| Message {
            bytes: Bytes::from_static(bytes),
            channels: ids.iter().copied().map(ChannelId).collect(),
        };
        for (message, more, flags, expected) in [
            (message(b"ab", &[]), false, 0, &[][..]),
            (message(b"ab", &[]), true, 1, &[2, 0, 0, 0, 0, 0, 0, 0]),
            (message(b"ab", &[5]), false, 2, &[1, 0, 5, 0, 0, 0, 0, 0, 0, 0]),
            (message(b"", &[5]), true, 3, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut out = Vec::new();
            assert_eq!(write_prefix(&mut out, &message, more), flags);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn bad_chunks_are_errors() {
        let start = |total: u64, bytes: &[u8]| [&total.to_le_bytes()[..], bytes].concat();
        for (flags, payload, error) in [
            (MORE, b"short".to_vec(), AssemblyError::Short),
            (CHANNELS, vec![9, 0, 1], AssemblyError::Short),
            (CHANNELS, vec![65, 0], AssemblyError::TooManyChannels { count: 65 }),
            (MORE, start(1001, b""), AssemblyError::TooLarge { length: 1001, maximum: 1000 }),
            (MORE, start(u64::MAX, b""), AssemblyError::TooLarge { length: u64::MAX, maximum: 1000 }),
            (MORE, start(1, b"ab"), AssemblyError::Length { announced: 1, arrived: 2 }),
            (0x80, vec![], AssemblyError::Flags(0x80)),
        ] {
            assert_eq!(push(&mut Assembly::default(), flags, &payload), Err(error));
        }
        let mut assembly = Assembly::default();
        assert_eq!(push(&mut assembly, MORE, &start(5, b"ab")), Ok(None));
        assert_eq!(push(&mut assembly, 0, b"c"), Err(AssemblyError::Length { announced: 5, arrived: 3 }));
    }

    #[test]
    fn a_whole_message_without_channels_needs_no_copy() {
        let (mut assembly, mut window) = (Assembly::default(), ReceiveWindow::new(Window::new(1000, 2)));
        let chunk = |flags, payload| Chunk { flags, payload };
        assert_eq!(assembly.whole(chunk(0, b"ab"), 2, &mut window), Ok(Some(&b"ab"[..])));
        let too_large = AssemblyError::TooLarge { length: 3, maximum: 2 };
        assert_eq!(assembly.whole(chunk(0, b"abc"), 2, &mut window), Err(too_large));
        for flags in [MORE, CHANNELS, GIVEN_UP, 0x80] {
            assert_eq!(assembly.whole(chunk(flags, b"ab"), 2, &mut window), Ok(None), "for `push` to say");
        }
        assert_eq!(assembly.whole(chunk(0, b""), 2, &mut window), Ok(Some(&b""[..])));
        assert_eq!(assembly.whole(chunk(0, b""), 2, &mut window), Err(FlowError::Overrun.into()));
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        assert_eq!(assembly.whole(chunk(0, b"cdef"), 10, &mut window), Ok(None), "it is the end of another");
    }

    #[test]
    fn nothing_is_set_aside_for_an_announcement() {
        let mut assembly = Assembly::default();
        let announced = (1_u64 << 40).to_le_bytes();
        assembly.push(Chunk { flags: MORE, payload: &announced }, u64::MAX, None).unwrap();
        assert!(assembly.partial.unwrap().bytes.capacity() < 100);
    }

    fn push_large(assembly: &mut Assembly, payload: &[u8]) {
        assembly.push(Chunk { flags: MORE, payload }, u64::MAX, None).unwrap();
    }

    fn start(total: u64, bytes: &[u8]) -> Vec<u8> {
        [&total.to_le_bytes()[..], bytes].concat()
    }

    #[test]
    fn what_is_set_aside_is_a_multiple_of_what_has_arrived() {
        let mut assembly = Assembly::default();
        let first = start(1 << 40, &[7; 1000]);
        assembly.push(Chunk { flags: MORE, payload: &first }, u64::MAX, None).unwrap();
        let capacity = assembly.partial.unwrap().bytes.capacity();
        assert!((1000..=SET_ASIDE * 1000).contains(&capacity), "{capacity} bytes");
    }

    #[test]
    fn a_message_can_be_handed_over_as_it_arrives_and_be_taken_back() {
        let mut assembly = Assembly::default();
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        assert_eq!(assembly.under_way(), Some((6, 2)));
        let mut taken = assembly.hand_over(Vec::new());
        push(&mut assembly, MORE, b"cd").unwrap();
        taken.extend(assembly.hand_over(vec![1; 10]));
        assert_eq!((&taken[..], assembly.under_way()), (&b"abcd"[..], Some((6, 0))));
        assembly.take_back(taken);
        assert_eq!(push(&mut assembly, MORE, b"e"), Ok(None));
        assert_eq!(&assembly.hand_over(Vec::new())[..], b"abcde");
        assert_eq!(push(&mut assembly, 0, b"fg"), Err(AssemblyError::Length { announced: 6, arrived: 7 }));
        push(&mut assembly, MORE, &start(3, b"ab")).unwrap();
        assembly.hand_over(Vec::new());
        assert_eq!(push(&mut assembly, 0, b"c").unwrap().unwrap().bytes, &b"c"[..], "the rest of it");
    }

    #[test]
    fn a_chunk_can_be_read_to_the_end_of_its_message() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.lend(MORE, 2), None, "there is no message yet");
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        for (flags, length) in [(MORE, 5), (0, 3), (0, 5), (GIVEN_UP, 4), (CHANNELS, 4), (0x80, 4)] {
            assert_eq!(assembly.lend(flags, length), None, "for `push` to refuse");
        }
        let mut bytes = assembly.lend(MORE, 2).expect("it fits");
        assert!(bytes == b"ab" && bytes.capacity() >= 4);
        assert_eq!(assembly.lend(MORE, 2), None, "it is lent");
        bytes.extend_from_slice(b"cd");
        assert_eq!(assembly.came(MORE, bytes), Ok(None));
        push(&mut assembly, MORE, b"e").unwrap();
        let mut bytes = assembly.lend(0, 1).expect("it is the last");
        bytes.push(b'f');
        assert_eq!(assembly.came(0, bytes).unwrap().unwrap().bytes, &b"abcdef"[..]);
        assert_eq!(assembly.came(0, b"late".to_vec()), Ok(None), "of a message that is none any more");
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        assembly.hand_over(Vec::new());
        assert_eq!(assembly.lend(0, 4), None, "its beginning is elsewhere");
    }

    #[test]
    fn what_is_lent_is_a_multiple_of_what_has_arrived_and_one_chunk() {
        let mut assembly = Assembly::default();
        push_large(&mut assembly, &start(1 << 40, &[7; 1000]));
        let bytes = assembly.lend(MORE, 50_000).expect("it fits");
        assert!((51_000..60_000).contains(&bytes.capacity()), "{} bytes", bytes.capacity());
    }

    #[test]
    fn a_chunk_can_land_once_all_before_it_has() {
        let mut assembly = Assembly::default();
        assert!(!assembly.can_land(MORE, 2));
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        assert!(!assembly.can_land(MORE, 2), "what is before it is here");
        assembly.hand_over(Vec::new());
        for (flags, length, can) in
            [(MORE, 4, true), (0, 4, true), (MORE, 5, false), (0, 3, false), (GIVEN_UP, 4, false)]
        {
            assert_eq!(assembly.can_land(flags, length), can, "{flags} {length}");
        }
        assert_eq!(assembly.landed(MORE, 2), Ok(None));
        push(&mut assembly, MORE, b"e").unwrap();
        assert!(!assembly.can_land(0, 1));
        assert_eq!(assembly.hand_over(Vec::new()), b"e");
        assert_eq!(assembly.landed(0, 1).unwrap().unwrap().bytes, &b""[..], "all of it has landed");
        assert_eq!(assembly.under_way(), None);
    }

    #[test]
    fn a_message_can_be_given_up_once_it_was_begun() {
        let mut assembly = Assembly::default();
        assert_eq!(push(&mut assembly, GIVEN_UP, b""), Err(AssemblyError::Flags(GIVEN_UP)));
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        assert_eq!(push(&mut assembly, GIVEN_UP, b"c"), Err(AssemblyError::Flags(GIVEN_UP)));
        push(&mut assembly, MORE, &start(6, b"ab")).unwrap();
        assert_eq!(push(&mut assembly, GIVEN_UP, b""), Ok(None));
        assert_eq!(push(&mut assembly, 0, b"next").unwrap().unwrap().bytes, &b"next"[..]);
    }

    proptest! {
        #[test]
        fn arbitrary_chunks_do_not_panic(chunks: Vec<(u8, Vec<u8>)>) {
            let mut assembly = Assembly::default();
            let mut window = ReceiveWindow::default();
            for (flags, payload) in &chunks {
                let _ = assembly.push(Chunk { flags: *flags, payload }, 1000, Some(&mut window));
            }
        }
    }
}
