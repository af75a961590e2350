//! What the scripts of both ends of a link share: frames that the input describes, what the checked end writes, and a source
//! that plays the script on the thread that reads.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

use arbitrary::{Result, Unstructured};
use parking_lot::Mutex;
use sandgate_wire::link::frame::{FrameEncoder, HEADER_BYTES, LinkFrame, LinkReader, MAX_PAYLOAD_BYTES};
use sandgate_wire::link::message::{LinkEncoded, kind};
use sandgate_wire::transport::{ReceiveHalf, SendHalf};

/// Most that a frame of data repeats itself: with the longest, about half of a window.
const MAX_REPEATS: u16 = 128;
/// Streams and requests have small numbers, so that they meet.
const NUMBERS: u8 = 12;
/// Where a frame's header has these.
const KIND_AT: usize = 4;
const STREAM_AT: usize = 8;
/// Bytes written by the checked end that are looked at.
const MAX_WRITTEN_BYTES: usize = 4 << 20;

/// The frames of one end, counted.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    encoder: FrameEncoder,
}

impl Frames {
    pub(crate) fn message(&mut self, message: &LinkEncoded) -> Vec<u8> {
        self.frame(message.kind, message.stream, &message.body)
    }

    pub(crate) fn data(&mut self, stream: u64, payload: &[u8]) -> Vec<u8> {
        self.frame(kind::DATA, stream, payload)
    }

    pub(crate) fn end(&mut self, stream: u64) -> Vec<u8> {
        self.frame(kind::END, stream, &[])
    }

    /// A frame, cut to what frames may have.
    fn frame(&mut self, kind: u8, stream: u64, payload: &[u8]) -> Vec<u8> {
        let payload = &payload[..payload.len().min(MAX_PAYLOAD_BYTES)];
        let mut bytes = Vec::new();
        self.encoder.append(LinkFrame { kind, stream, payload }, &mut bytes);
        bytes
    }

    /// Stream and payload of bytes that are one frame of data.
    pub(crate) fn data_of(bytes: &[u8]) -> Option<(u64, &[u8])> {
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
        let stream = u64::from_le_bytes(header[STREAM_AT..STREAM_AT + 8].try_into().ok()?);
        (header[KIND_AT] == kind::DATA).then_some((stream, payload))
    }

    /// What either end may say: by the first byte of what the input has left.
    ///
    /// | byte | what |
    /// |---|---|
    /// | 0 | any bytes |
    /// | 1, 2, 3 | data, credit, an end of a stream |
    /// | 4 | a beat, an echo |
    /// | 5 | a frame of any kind |
    pub(crate) fn common(&mut self, step: u8, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        Ok(match step {
            0 => bytes(input)?,
            1 => {
                let (stream, repeats) = (number(input)?, input.arbitrary::<u16>()? % MAX_REPEATS + 1);
                let payload = bytes(input)?.repeat(repeats.into());
                self.frame(kind::DATA, stream, &payload)
            }
            2 => {
                let stream = number(input)?;
                self.frame(kind::CREDIT, stream, &input.arbitrary::<u64>()?.to_le_bytes())
            }
            3 => {
                let stream = number(input)?;
                self.frame(kind::END, stream, &[])
            }
            4 => {
                let kind = if input.arbitrary()? { kind::BEAT } else { kind::ECHO };
                self.frame(kind, 0, &input.arbitrary::<u64>()?.to_le_bytes())
            }
            _ => {
                let kind = input.arbitrary::<u8>()? % (kind::ECHO + 3);
                let stream = if input.arbitrary()? { number(input)? } else { input.arbitrary()? };
                let payload = bytes(input)?;
                self.frame(kind, stream, &payload)
            }
        })
    }
}

/// The number of a stream or request.
pub(crate) fn number(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok((input.arbitrary::<u8>()? % NUMBERS).into())
}

/// Up to 255 bytes.
pub(crate) fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length = usize::from(input.arbitrary::<u8>()?);
    Ok(input.bytes(length.min(input.len()))?.to_vec())
}

/// Some text, with whatever is in it.
pub(crate) fn text(input: &mut Unstructured<'_>) -> Result<String> {
    let repeats = usize::from(input.arbitrary::<u8>()?) + 1;
    Ok(String::from_utf8_lossy(&bytes(input)?).repeat(repeats))
}

/// What the checked end has written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    state: Mutex<(bool, Vec<u8>)>,
}

impl Written {
    /// Whatever the other end does, this one writes frames, and messages of its direction.
    pub(crate) fn check(&self, mut is_message: impl FnMut(LinkFrame<'_>) -> bool) {
        self.check_with(|frame| frame.kind == kind::DATA || is_message(frame));
    }

    /// The same, and a look at the data.
    pub(crate) fn check_with(&self, mut is_message: impl FnMut(LinkFrame<'_>) -> bool) {
        let (_, bytes) = std::mem::take(&mut *self.state.lock());
        let is_whole = bytes.len() < MAX_WRITTEN_BYTES;
        let mut reader = LinkReader::new(Box::new(Nothing), &bytes);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    let is_link =
                        matches!(frame.kind, kind::BEAT | kind::ECHO | kind::CREDIT | kind::ATTACH | kind::END);
                    assert!(is_link || is_message(frame), "what was written is no message: kind {}", frame.kind);
                }
                Ok(None) => break,
                Err(error) => panic!("what was written is no frame: {error}"),
            }
        }
        assert!(!is_whole || !reader.is_inside_frame() || bytes.is_empty(), "half a frame was written");
    }
}

/// The half that writes into it.
#[derive(Debug)]
pub(crate) struct Writes(pub(crate) std::sync::Arc<Written>);

impl SendHalf for Writes {
    fn try_write(&self, buffers: &[IoSlice<'_>], _descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if state.0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut count = 0;
        for buffer in buffers {
            let room = MAX_WRITTEN_BYTES - state.1.len();
            state.1.extend_from_slice(&buffer[..room.min(buffer.len())]);
            count += buffer.len();
        }
        Ok(count)
    }

    fn wait_writable(&self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self) {
        self.state().0 = true;
    }
}

impl Writes {
    fn state(&self) -> parking_lot::MutexGuard<'_, (bool, Vec<u8>)> {
        self.0.state.lock()
    }
}

#[derive(Debug)]
struct Nothing;

impl ReceiveHalf for Nothing {
    fn read(&mut self, _buffer: &mut [u8], _wait: bool) -> io::Result<usize> {
        Ok(0)
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}

/// What plays a script: its next bytes, or nothing more.
pub(crate) trait Play: Send + std::fmt::Debug {
    fn play(&mut self) -> Option<Vec<u8>>;
}

/// A source that plays: the receiving half of a link, or of a worker's connection.
#[derive(Debug)]
pub(crate) struct Plays<P> {
    pub(crate) script: P,
    pub(crate) left: Vec<u8>,
}

impl<P: Play> ReceiveHalf for Plays<P> {
    fn read(&mut self, buffer: &mut [u8], _wait: bool) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.script.play() {
                Some(bytes) => self.left = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.left.len());
        buffer[..count].copy_from_slice(&self.left[..count]);
        self.left.drain(..count);
        Ok(count)
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}
