//! Cuts a byte stream into frames. Knows lengths and numbers, not what they mean.
//!
//! ```text
//!  0        4      5       6          8            16
//!  ┌────────┬──────┬───────┬──────────┬────────────┬─────────────┐
//!  │ length │ kind │ flags │ zero     │ channel    │ payload …   │   all little-endian
//!  │ u32    │ u8   │ u8    │ u16      │ u64        │ length bytes│
//!  └────────┴──────┴───────┴──────────┴────────────┴─────────────┘
//! ```
//!
//! The length is checked against [`MAX_FRAME_BYTES`] before any memory is set aside for the payload.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::ids::ChannelId;
use crate::reading::{Alarm, Ringer};
use crate::spin::Spin;
use crate::transport::ReceiveHalf;

mod straight;

pub use self::straight::Payload;
use self::straight::{Lent, reading};

/// Size of a frame's header.
pub const HEADER_BYTES: usize = 16;

/// Largest payload of a frame. Larger messages travel in chunks.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// Size of the chunks that a large message is cut into, small enough that others get a turn between them.
pub const CHUNK_BYTES: usize = 64 * 1024;

const FIRST_BUFFER_BYTES: usize = 32 * 1024;

/// Bytes that are read at once: what comes of them is done while the next ones are written.
const MOST_AT_ONCE: usize = 64 * 1024;

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload in bytes.
    pub length: u32,
    /// What kind of message this is.
    pub kind: u8,
    /// Bits whose meaning depends on the kind.
    pub flags: u8,
    /// The channel it is about.
    pub channel: ChannelId,
}

/// A whole frame; the payload lies in the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The fixed part.
    pub header: Header,
    /// The payload, `header.length` bytes.
    pub payload: &'a [u8],
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// The peer announced more than a frame may hold.
    #[error("frame of {length} bytes is larger than the maximum of {MAX_FRAME_BYTES}")]
    TooLarge {
        /// The length in the header.
        length: u32,
    },
    /// A reserved field of the header is in use: this is no peer of ours.
    #[error("header `{header:02x?}` is not one of this protocol")]
    NotOurs {
        /// The header.
        header: [u8; HEADER_BYTES],
    },
    /// What carries the stream is not as its peer must leave it.
    #[error("{0}")]
    Spoiled(io::Error),
    /// The stream ended inside a frame.
    #[error("connection ended inside a frame, {got} bytes after its start")]
    Truncated {
        /// Bytes of the frame that had arrived.
        got: usize,
    },
}

impl Header {
    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.flags;
        bytes[8..16].copy_from_slice(&self.channel.0.to_le_bytes());
        bytes
    }

    /// Gives the header at the beginning of `frame` the length of what is behind it.
    pub(crate) fn set_length(frame: &mut [u8]) {
        if let Some((header, payload)) = frame.split_first_chunk_mut::<HEADER_BYTES>() {
            let length = u32::try_from(payload.len()).expect("a frame is at most MAX_FRAME_BYTES long");
            header[..4].copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Reads a header and checks its length.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] and [`FrameError::NotOurs`].
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let [l0, l1, l2, l3, kind, flags, zero0, zero1, channel @ ..] = bytes;
        if zero0 != 0 || zero1 != 0 {
            return Err(FrameError::NotOurs { header: bytes });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge { length });
        }
        Ok(Header { length, kind, flags, channel: ChannelId(u64::from_le_bytes(channel)) })
    }
}

/// Reads frames from the receiving half of a transport.
///
/// The buffer grows to the largest frame seen and never beyond [`MAX_FRAME_BYTES`] and a header.
#[derive(Debug)]
pub struct FrameReader {
    source: Box<dyn ReceiveHalf>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all that it was given.
    took_all: bool,
    /// Memory for the payload of the frame that comes next, whose header is read.
    lent: Option<Lent>,
    /// What was lent for the frame that was taken last.
    given: Vec<u8>,
    /// No more than a header is to be read next.
    header_next: bool,
    spin: Spin,
}

/// What reading without waiting brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// Bytes, and whether there may well be more of them.
    Bytes {
        /// Reading again would probably bring more.
        more: bool,
    },
    /// Nothing is here.
    Nothing,
    /// The stream has ended, between two frames.
    End,
}

impl FrameReader {
    /// A reader over `source`.
    pub fn new(source: Box<dyn ReceiveHalf>) -> FrameReader {
        FrameReader {
            source,
            buffer: vec![0; FIRST_BUFFER_BYTES],
            start: 0,
            end: 0,
            took_all: false,
            lent: None,
            given: Vec::new(),
            header_next: false,
            spin: Spin::default(),
        }
    }

    /// The next frame, or `None` when the stream ended between two frames. Blocks until one is there.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn read_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if self.wait_for_frame()? { self.next_here() } else { Ok(None) }
    }

    /// Waits until a whole frame is here; false when the stream ended between two frames.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn wait_for_frame(&mut self) -> Result<bool, FrameError> {
        while self.next_header()?.is_none() {
            if self.fill(true)? == Some(0) {
                return self.ended().map(|()| false);
            }
        }
        Ok(true)
    }

    /// The next frame if all of it is here. Never blocks, and asks nobody.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn next_here(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        self.next_if(|_| true)
    }

    /// The next frame if all of it is here and its header is wanted. Never blocks, and asks nobody.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn next_if(&mut self, is_wanted: impl FnOnce(&Header) -> bool) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(header) = self.next_header()?.filter(is_wanted) else { return Ok(None) };
        if self.lent.is_some()
            && let Some((bytes, start)) = self.take_whole()
        {
            self.given = bytes;
            return Ok(Some(Frame { header, payload: &self.given[start..] }));
        }
        let payload = self.start + HEADER_BYTES;
        self.start = payload + header.length as usize;
        Ok(Some(Frame { header, payload: &self.buffer[payload..self.start] }))
    }

    /// The header of the next frame if all of the frame is here. Never blocks, and asks nobody.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn next_header(&self) -> Result<Option<Header>, FrameError> {
        if let Some(lent) = &self.lent {
            return Ok((lent.left == 0).then_some(lent.header));
        }
        let here = self.end - self.start;
        Ok(self.front()?.filter(|header| here >= HEADER_BYTES + header.length as usize))
    }

    /// The header of the next frame, if that much of it is here.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn front(&self) -> Result<Option<Header>, FrameError> {
        if let Some(lent) = &self.lent {
            return Ok(Some(lent.header));
        }
        self.buffer[self.start..self.end].first_chunk().map(|header| Header::decode(*header)).transpose()
    }

    /// Reads once, without waiting.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn read_here(&mut self) -> Result<Arrived, FrameError> {
        match self.fill(false)? {
            None => Ok(Arrived::Nothing),
            Some(0) => self.ended().map(|()| Arrived::End),
            Some(_) => Ok(Arrived::Bytes { more: self.took_all || self.source.look() == Some(true) }),
        }
    }

    /// What becomes readable when there is something to read, once [`about_to_wait`](Self::about_to_wait) has returned
    /// true; `None` if the stream has no such thing.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.source.bell()
    }

    /// Has the bell rung from here on, until the next read. False if there may be something already.
    pub fn about_to_wait(&mut self) -> bool {
        self.source.about_to_wait()
    }

    /// Has [`own_bell`](Self::own_bell) rung from here on for what cannot wait, until [`has_dozed`](Self::has_dozed), while another
    /// thread reads now and then. False if there may be something already; `None` if the stream has no such thing.
    pub fn about_to_doze(&mut self) -> Option<bool> {
        self.source.about_to_doze()
    }

    /// Has the bell rung for anything, since the thread that read now and then, and calls this, does not any more. False if there
    /// is something already, for which nobody may be woken.
    pub fn sleeps_from_here(&mut self) -> bool {
        self.source.sleeps_from_here()
    }

    /// After a sleep that began with [`about_to_doze`](Self::about_to_doze).
    ///
    /// # Errors
    /// [`FrameError::Io`].
    pub fn has_dozed(&mut self) -> Result<(), FrameError> {
        self.source.has_dozed().map_err(FrameError::Io)
    }

    /// What rings, to be waited for without this reader.
    pub fn own_bell(&self) -> Option<Arc<OwnedFd>> {
        self.source.own_bell()
    }

    /// Whether there may be something to read, as far as that can be seen without asking the system.
    pub fn may_have_something(&self) -> bool {
        self.source.look() != Some(false)
    }

    /// Waits until there may be something to read, `alarm` is raised, or `deadline` has come. Returns early at will.
    ///
    /// # Errors
    /// The system's; and that the stream has no bell.
    pub fn wait(&mut self, alarm: &Alarm, ringer: &Arc<Ringer>, deadline: Option<Instant>) -> io::Result<()> {
        let source = &mut self.source;
        let ready = || alarm.is_raised() || source.look() == Some(true);
        if (source.look().is_some() && self.spin.until(deadline, ready)) || alarm.is_raised() || !source.about_to_wait()
        {
            return Ok(());
        }
        let bell = source.bell().ok_or(io::ErrorKind::Unsupported)?;
        let slept = alarm.sleep(bell, ringer, deadline);
        self.spin.slept();
        slept
    }

    /// Takes what the stream has, without waiting, for a caller that may not wait for ever: false if it has ended or
    /// failed. Meant to be called when the stream is readable, until [`has_frame`](Self::has_frame).
    pub fn fill_now(&mut self) -> bool {
        !matches!(self.fill(false), Ok(Some(0)) | Err(_))
    }

    /// Whether [`read_frame`](Self::read_frame) would return a frame at once without asking the stream.
    pub fn has_frame(&self) -> bool {
        matches!(self.next_header(), Ok(Some(_)) | Err(_))
    }

    /// The next descriptor that came with the stream, for the message that announces one.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.source.take_descriptor()
    }

    /// Size of the buffer.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// The stream has ended.
    fn ended(&self) -> Result<(), FrameError> {
        match self.lent.as_ref().map_or(self.end - self.start, Lent::arrived) {
            0 => Ok(()),
            got => Err(FrameError::Truncated { got }),
        }
    }

    /// Reads more bytes; `None` when `wait` is false and there are none yet.
    fn fill(&mut self, wait: bool) -> Result<Option<usize>, FrameError> {
        if let Some(filled) = self.fill_lent(wait) {
            return filled;
        }
        self.given = Vec::new();
        let needed = HEADER_BYTES + self.front()?.map_or(0, |header| header.length as usize);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start + needed > self.buffer.len() || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if needed > self.buffer.len() {
            self.buffer.resize(HEADER_BYTES + MAX_FRAME_BYTES, 0);
        }
        let is_between = self.start == self.end;
        let at_once = if std::mem::take(&mut self.header_next) && is_between { HEADER_BYTES } else { MOST_AT_ONCE };
        let most = self.buffer.len().min(self.end + at_once);
        let read = reading(|| self.source.read(&mut self.buffer[self.end..most], wait))?;
        if let Some(count) = read {
            self.end += count;
            self.took_all = self.end == most;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testing::Scripted;

    fn reader(parts: &[&[u8]]) -> FrameReader {
        FrameReader::new(Box::new(Scripted::new(parts)))
    }

    fn frame(kind: u8, channel: u64, payload: &[u8]) -> Vec<u8> {
        let header = Header { length: payload.len().try_into().unwrap(), kind, flags: 3, channel: ChannelId(channel) };
        [&header.encode()[..], payload].concat()
    }

    #[test]
    fn golden_header() {
        let header = Header { length: 0x01_02_03, kind: 4, flags: 5, channel: ChannelId(0x0a0b) };
        assert_eq!(header.encode(), [3, 2, 1, 0, 4, 5, 0, 0, 0x0b, 0x0a, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::decode(header.encode()).unwrap(), header);
    }

    #[test]
    fn frames_arrive_whole_however_the_stream_is_cut() {
        let big = vec![7; MAX_FRAME_BYTES];
        let stream = [frame(1, 1, b""), frame(2, 2, b"hello"), frame(3, 3, &big), frame(4, 4, b"x")].concat();
        for cut in [1, 2, 15, 16, 17, 1000, 65536, stream.len()] {
            let parts: Vec<&[u8]> = stream.chunks(cut).collect();
            let mut reader = reader(&parts);
            for (kind, payload) in [(1, &b""[..]), (2, b"hello"), (3, &big), (4, b"x")] {
                let frame = reader.read_frame().unwrap().unwrap();
                assert_eq!((frame.header.kind, frame.header.channel.0), (kind, u64::from(kind)));
                assert_eq!(frame.payload, payload);
            }
            assert!(reader.read_frame().unwrap().is_none());
        }
    }

    #[test]
    fn a_length_above_the_maximum_is_refused_before_memory_is_set_aside() {
        let mut header = Header { length: 0, kind: 1, flags: 0, channel: ChannelId(0) }.encode();
        header[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut reader = reader(&[&header]);
        assert!(matches!(reader.read_frame(), Err(FrameError::TooLarge { length: u32::MAX })));
        assert_eq!(reader.buffer.len(), FIRST_BUFFER_BYTES);
    }

    #[test]
    fn text_is_not_taken_for_a_frame() {
        let error = reader(&[b"bash: no such command, sorry"]).read_frame().unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { .. } | FrameError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn the_end_inside_a_frame_is_an_error() {
        let whole = frame(1, 1, b"hello");
        for cut in 1..whole.len() {
            let error = reader(&[&whole[..cut]]).read_frame().unwrap_err();
            assert!(matches!(error, FrameError::Truncated { got } if got == cut), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_neither_panic_nor_grow_the_buffer(bytes: Vec<u8>) {
            let mut reader = reader(&[&bytes]);
            while let Ok(Some(_)) = reader.read_frame() {}
            proptest::prop_assert!(reader.buffer.len() <= HEADER_BYTES + MAX_FRAME_BYTES);
        }
    }
}
