//! Payloads that go straight to where they are wanted, instead of through the reader's buffer.
//!
//! ```text
//!  buffer:  header │ beginning of the payload         the stream:  the rest │ next header
//!               └── lend, or open ──┴─────────► memory of the receiver ◄─┘
//! ```
//!
//! The receiver decides when it has seen the header. It *lends* a vector, to the end of which every read goes from then on, until
//! the frame is whole; or it *opens* the frame, takes the bytes itself as they come, and puts them back if it cannot go on. What
//! follows such a frame is read header first, for there may be another one.

use std::io;

use super::{FrameError, FrameReader, HEADER_BYTES, Header, MAX_FRAME_BYTES, MOST_AT_ONCE};

/// A frame for whose payload memory was lent.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) header: Header,
    /// Bytes of the payload that are still to come.
    pub(super) left: usize,
    bytes: Vec<u8>,
    /// Where the payload begins in them.
    start: usize,
}

impl Lent {
    /// Bytes of the frame that are here.
    pub(super) fn arrived(&self) -> usize {
        HEADER_BYTES + self.bytes.len() - self.start
    }
}

/// A frame whose payload its receiver takes as it comes. The reader is of no use if that is given up in any other way than by
/// [putting it back](Self::put_back).
#[derive(Debug)]
#[must_use = "what is left of the payload would be taken for a frame"]
pub struct Payload<'a> {
    reader: &'a mut FrameReader,
    header: Header,
    left: usize,
}

impl FrameReader {
    /// The header of the frame that comes next, if it is here and not all of its payload is.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn announced(&self) -> Result<Option<Header>, FrameError> {
        let here = self.end - self.start;
        let header = if self.lent.is_none() { self.front()? } else { None };
        Ok(header.filter(|header| here < HEADER_BYTES + header.length as usize))
    }

    /// Reads the payload of the frame that is [announced](Self::announced) to the end of `bytes`; nothing happens if none is. When the
    /// frame is whole, [`take_lent`](Self::take_lent) returns them; if the frame is taken like any other, they are dropped.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn lend(&mut self, mut bytes: Vec<u8>) -> Result<(), FrameError> {
        let Some(header) = self.announced()? else { return Ok(()) };
        let length = header.length as usize;
        let start = bytes.len();
        // The caller has set it aside; without room for all of it the stream would seem to end.
        bytes.reserve(length);
        let here = &self.buffer[self.start + HEADER_BYTES..self.end];
        bytes.extend_from_slice(here);
        let left = length - here.len();
        (self.start, self.end) = (0, 0);
        self.lent = Some(Lent { header, left, bytes, start });
        Ok(())
    }

    /// The frame that comes next, if memory was lent for it, it is whole, and its header is wanted: with its payload at the end of
    /// those bytes.
    pub fn take_lent(&mut self, is_wanted: impl FnOnce(&Header) -> bool) -> Option<(Header, Vec<u8>)> {
        let header = self.lent.as_ref()?.header;
        if !is_wanted(&header) {
            return None;
        }
        self.take_whole().map(|(bytes, _)| (header, bytes))
    }

    /// The bytes that were lent for the frame that comes next, if it is whole, and where the payload begins.
    pub(super) fn take_whole(&mut self) -> Option<(Vec<u8>, usize)> {
        let Lent { bytes, start, .. } = self.lent.take_if(|lent| lent.left == 0)?;
        self.header_next = true;
        Some((bytes, start))
    }

    /// Reads more of the payload for which memory was lent; `None` when `wait` is false and there is none yet.
    pub(super) fn fill_lent(&mut self, wait: bool) -> Option<Result<Option<usize>, FrameError>> {
        let Lent { left, bytes, .. } = self.lent.as_mut().filter(|lent| lent.left > 0)?;
        let most = (*left).min(MOST_AT_ONCE);
        let read = reading(|| self.source.append(bytes, most, wait));
        if let Ok(Some(count)) = read {
            *left -= count;
            self.took_all = count == most;
        }
        Some(read)
    }

    /// Opens the frame that comes next, whose header is here.
    ///
    /// # Errors
    /// See [`FrameError`]. The reader is of no use after an error.
    pub fn open(&mut self) -> Result<Option<Payload<'_>>, FrameError> {
        if self.lent.is_some() {
            return Ok(None);
        }
        let Some(header) = self.front()? else { return Ok(None) };
        self.start += HEADER_BYTES;
        self.header_next = true;
        Ok(Some(Payload { reader: self, header, left: header.length as usize }))
    }
}

impl Payload<'_> {
    /// How many bytes of it were not taken yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Takes what is here, without waiting, as much as `to` has room for: how many bytes that are. `None` if nothing is here.
    ///
    /// # Errors
    /// See [`FrameError`]; the end of the stream is one. The reader is of no use after an error.
    pub fn take(&mut self, to: &mut [u8]) -> Result<Option<usize>, FrameError> {
        let most = to.len().min(self.left).min(MOST_AT_ONCE);
        let to = &mut to[..most];
        let FrameReader { source, buffer, start, end, .. } = &mut *self.reader;
        let here = &buffer[*start..*end];
        let count = match here.len().min(most) {
            0 => match reading(|| source.read(to, false))? {
                None => return Ok(None),
                Some(0) if most > 0 => {
                    return Err(FrameError::Truncated { got: HEADER_BYTES + self.header.length as usize - self.left });
                }
                Some(count) => count,
            },
            count => {
                to[..count].copy_from_slice(&here[..count]);
                *start += count;
                count
            }
        };
        self.left -= count;
        Ok(Some(count))
    }

    /// The reader, to be waited with.
    pub fn reader(&mut self) -> &mut FrameReader {
        self.reader
    }

    /// The frame is one like any other again. `taken` is all that was taken of it.
    pub fn put_back(self, taken: &[u8]) {
        debug_assert!(taken.len() + self.left == self.header.length as usize, "all that was taken");
        let size = HEADER_BYTES + taken.len();
        let FrameReader { buffer, start, end, .. } = self.reader;
        if *start < size {
            // What was not taken out of the buffer was read after all that was in it.
            debug_assert!(start == end, "the buffer is empty");
            if buffer.len() < size {
                buffer.resize(HEADER_BYTES + MAX_FRAME_BYTES, 0);
            }
            (*start, *end) = (size, size);
        }
        *start -= size;
        let (header, rest) = buffer[*start..].split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&self.header.encode());
        rest[..taken.len()].copy_from_slice(taken);
    }
}

/// Reads once, or again if that was interrupted; `None` if there is nothing yet.
pub(super) fn reading(mut read: impl FnMut() -> io::Result<usize>) -> Result<Option<usize>, FrameError> {
    loop {
        match read() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // A peer that dies with unread data makes the kernel answer so; for us it is the end of the stream.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Some(0)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(FrameError::Spoiled(error)),
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Arrived;
    use super::*;
    use crate::ids::ChannelId;
    use crate::transport::testing::Scripted;

    fn reader(parts: &[&[u8]]) -> FrameReader {
        FrameReader::new(Box::new(Scripted::new(parts)))
    }

    fn payload(number: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 241).unwrap() ^ number).collect()
    }

    fn frame(number: u8, length: usize) -> Vec<u8> {
        let header =
            Header { length: length.try_into().unwrap(), kind: number, flags: 0, channel: ChannelId(number.into()) };
        [&header.encode()[..], &payload(number, length)].concat()
    }

    /// Takes the next frame's payload as it comes, up to so many reads, and puts it back if that was not all. Says whether it was.
    fn open(reader: &mut FrameReader, reads: u8) -> Option<(Header, Vec<u8>)> {
        let header = reader.front().unwrap()?;
        let mut payload = reader.open().unwrap().expect("nothing is lent");
        let mut taken = vec![0; header.length as usize];
        let mut at = 0;
        for _ in 0..reads {
            if let Some(count) = payload.take(&mut taken[at..]).unwrap() {
                at += count;
            }
            if payload.left() == 0 {
                return Some((header, taken));
            }
        }
        assert_eq!(payload.left(), taken.len() - at);
        payload.put_back(&taken[..at]);
        None
    }

    proptest! {
        #[test]
        fn the_same_frames_come_in_any_way(
            lengths in vec(prop_oneof![0_usize..40, 1000_usize..MAX_FRAME_BYTES], 1..6),
            cuts in vec(prop_oneof![1_usize..40, 1000_usize..100_000], 1..8),
            ways in vec((0_u8..4, 0_u8..5), 1..40),
        ) {
            let numbers = 0_u8..;
            let stream: Vec<u8> =
                numbers.zip(&lengths).flat_map(|(number, length)| frame(number, *length)).collect();
            let mut rest = &stream[..];
            let mut parts = Vec::new();
            // Not only small ones: what is put back is copied each time.
            for cut in cuts.iter().chain([&50_000]).cycle() {
                let (part, later) = rest.split_at((*cut).min(rest.len()));
                parts.push(part);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let mut reader = reader(&parts);
            let mut came = Vec::new();
            for (way, reads) in ways.iter().cycle() {
                // Only what is not whole is certain to be followed by more of the stream.
                if reader.announced().unwrap().is_some() {
                    match way {
                        0 => reader.lend(vec![7; 3]).unwrap(),
                        1 => came.extend(open(&mut reader, *reads)),
                        _ => {}
                    }
                } else if *way == 2 && reader.next_header().unwrap().is_some() && reader.lent.is_none() {
                    came.extend(open(&mut reader, 1));
                }
                while let Some(header) = reader.next_header().unwrap() {
                    if let Some((_, bytes)) = if *way == 3 { None } else { reader.take_lent(|_| true) } {
                        prop_assert_eq!(&bytes[..3], &[7; 3]);
                        came.push((header, bytes[3..].to_vec()));
                        continue;
                    }
                    let frame = reader.next_here().unwrap().expect("its header is here");
                    came.push((frame.header, frame.payload.to_vec()));
                }
                prop_assert!(reader.capacity() <= HEADER_BYTES + MAX_FRAME_BYTES);
                if reader.read_here().unwrap() == Arrived::End {
                    break;
                }
            }
            prop_assert_eq!(came.len(), lengths.len());
            for ((number, length), (header, bytes)) in (0_u8..).zip(&lengths).zip(came) {
                prop_assert_eq!((header.kind, header.length as usize), (number, *length));
                prop_assert_eq!(bytes, payload(number, *length));
            }
        }
    }

    #[test]
    fn the_end_inside_a_frame_is_an_error_wherever_it_is_read_to() {
        let whole = frame(1, 1000);
        for cut in [HEADER_BYTES, HEADER_BYTES + 1, 500, whole.len() - 1] {
            let truncated = |error: FrameError| matches!(error, FrameError::Truncated { got } if got == cut);
            let mut lending = reader(&[&whole[..HEADER_BYTES], &whole[HEADER_BYTES..cut]]);
            lending.read_here().unwrap();
            lending.lend(Vec::new()).unwrap();
            assert!(truncated(lending.read_frame().unwrap_err()));
            let mut opening = reader(&[&whole[..cut]]);
            opening.read_here().unwrap();
            let mut payload = opening.open().unwrap().expect("its header is here");
            let (mut taken, mut at) = ([0; 1000], 0);
            let error = loop {
                match payload.take(&mut taken[at..]) {
                    Ok(count) => at += count.unwrap_or_default(),
                    Err(error) => break error,
                }
            };
            assert!(truncated(error));
        }
    }

    #[test]
    fn what_follows_is_read_header_first() {
        let stream = [frame(1, 1000), frame(2, 1000), frame(3, 1000)].concat();
        let mut reader = reader(&[&stream[..100], &stream[100..]]);
        for number in 1..=2 {
            reader.read_here().unwrap();
            assert_eq!(reader.announced().unwrap().map(|header| header.kind), Some(number));
            reader.lend(Vec::new()).unwrap();
            reader.read_here().unwrap();
            assert_eq!(reader.take_lent(|_| false), None);
            let (header, bytes) = reader.take_lent(|_| true).expect("it is whole");
            assert_eq!((header.kind, bytes), (number, payload(number, 1000)));
        }
        assert_eq!(reader.read_frame().unwrap().map(|frame| frame.header.kind), Some(3));
    }
}
