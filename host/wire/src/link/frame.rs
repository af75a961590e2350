//! Cuts a link into frames, and notices when what arrives is not what was sent.
//!
//! ```text
//!  0        4      5       8          16            20            24
//!  ┌────────┬──────┬───────┬──────────┬─────────────┬─────────────┬───────────┐
//!  │ length │ kind │ zero  │ stream   │ checksum of │ checksum of │ payload … │   all little-endian
//!  │ u32    │ u8   │ 3     │ u64      │ the payload │ the header  │           │
//!  └────────┴──────┴───────┴──────────┴─────────────┴─────────────┴───────────┘
//! ```
//!
//! The header's checksum includes the frame's number, so that a frame that is lost or comes twice is noticed like one that
//! has changed; and it stands apart from the payload's, so that a length is believed only once it was checked. The checksums
//! are against accidents: whoever can write into the link on purpose can compute them. ssh sees to that.

use std::io;

use crate::transport::ReceiveHalf;

/// What an agent writes before its first frame. What comes before it is the noise of launchers and login scripts.
pub const PREAMBLE: [u8; 16] = *b"\0SANDGATE LINK\0\n";

/// Size of a frame's header.
pub const HEADER_BYTES: usize = 24;

/// Largest payload of a frame.
pub const MAX_PAYLOAD_BYTES: usize = 512 * 1024;

/// Largest payload of a frame of a stream: a turn between others.
pub const MAX_DATA_BYTES: usize = 32 * 1024;

const FIRST_BUFFER_BYTES: usize = 64 * 1024;

/// One frame; the payload lies in the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFrame<'a> {
    /// What kind of message it is.
    pub kind: u8,
    /// The stream, or the request, that it is about; 0 for the link itself.
    pub stream: u64,
    /// Its body.
    pub payload: &'a [u8],
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The link failed.
    #[error("link failed: {0}")]
    Io(#[source] io::Error),
    /// What arrived is not what was sent.
    #[error("{0}")]
    Corrupt(&'static str),
}

/// Writes frames one after the other; counts them.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    number: u64,
}

impl FrameEncoder {
    /// Appends a frame to `to`.
    ///
    /// # Panics
    /// If the payload is larger than [`MAX_PAYLOAD_BYTES`].
    pub fn append(&mut self, frame: LinkFrame<'_>, to: &mut Vec<u8>) {
        assert!(frame.payload.len() <= MAX_PAYLOAD_BYTES, "whoever makes a frame sees to its size");
        let length = u32::try_from(frame.payload.len()).expect("it was compared with a smaller number");
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&length.to_le_bytes());
        header[4] = frame.kind;
        header[8..16].copy_from_slice(&frame.stream.to_le_bytes());
        header[16..20].copy_from_slice(&crc32fast::hash(frame.payload).to_le_bytes());
        let checksum = header_checksum(self.number, &header);
        header[20..24].copy_from_slice(&checksum.to_le_bytes());
        self.number += 1;
        to.extend_from_slice(&header);
        to.extend_from_slice(frame.payload);
    }
}

fn header_checksum(number: u64, header: &[u8; HEADER_BYTES]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&number.to_le_bytes());
    checksum.update(&header[..20]);
    checksum.finalize()
}

/// Reads frames. Its buffer grows to the largest frame seen and never beyond [`MAX_PAYLOAD_BYTES`] and a header.
#[derive(Debug)]
pub struct LinkReader {
    source: Box<dyn ReceiveHalf>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    number: u64,
}

struct Checked {
    kind: u8,
    stream: u64,
    payload_checksum: u32,
    length: usize,
}

impl LinkReader {
    /// A reader over `source`, of which `before` was read already.
    pub fn new(source: Box<dyn ReceiveHalf>, before: &[u8]) -> LinkReader {
        let mut buffer = vec![0; FIRST_BUFFER_BYTES.max(before.len())];
        buffer[..before.len()].copy_from_slice(before);
        LinkReader { source, buffer, start: 0, end: before.len(), number: 0 }
    }

    /// The next frame that is here, or `None` if there is no whole one.
    ///
    /// # Errors
    /// [`LinkError::Corrupt`]; the reader is of no use afterwards.
    pub fn next_frame(&mut self) -> Result<Option<LinkFrame<'_>>, LinkError> {
        let waiting = &self.buffer[self.start..self.end];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let checked = self.check(header)?;
        if rest.len() < checked.length {
            return Ok(None);
        }
        self.number += 1;
        let from = self.start + HEADER_BYTES;
        self.start = from + checked.length;
        let payload = &self.buffer[from..self.start];
        if crc32fast::hash(payload) != checked.payload_checksum {
            return Err(LinkError::Corrupt("the checksum of a frame's payload is wrong"));
        }
        Ok(Some(LinkFrame { kind: checked.kind, stream: checked.stream, payload }))
    }

    /// Reads more; false at the end of the link. Blocks until there is something if `wait`.
    ///
    /// # Errors
    /// [`LinkError`]. [`io::ErrorKind::WouldBlock`] without `wait` is no error and reads nothing.
    pub fn fill(&mut self, wait: bool) -> Result<bool, LinkError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if let Some(header) = self.buffer[..self.end].first_chunk::<HEADER_BYTES>() {
            let needed = HEADER_BYTES + self.check(header)?.length;
            if needed > self.buffer.len() {
                self.buffer.resize(HEADER_BYTES + MAX_PAYLOAD_BYTES, 0);
            }
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..], wait) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
    }

    /// Reads what is here and forgets it; false at the end of the link. Never blocks.
    ///
    /// # Errors
    /// The transport's. [`io::ErrorKind::WouldBlock`] is none.
    pub fn discard(&mut self) -> io::Result<bool> {
        (self.start, self.end) = (0, 0);
        match self.source.read(&mut self.buffer, false) {
            Ok(count) => Ok(count > 0),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the link ended in the middle of a frame.
    pub fn is_inside_frame(&self) -> bool {
        self.end > self.start
    }

    /// Size of the buffer.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    fn check(&self, header: &[u8; HEADER_BYTES]) -> Result<Checked, LinkError> {
        let [l0, l1, l2, l3, kind, z0, z1, z2, s0, s1, s2, s3, s4, s5, s6, s7, p0, p1, p2, p3, h @ ..] = *header;
        if u32::from_le_bytes(h) != header_checksum(self.number, header) {
            return Err(LinkError::Corrupt("the checksum of a frame's header is wrong"));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return Err(LinkError::Corrupt("a frame is larger than frames may be"));
        }
        if [z0, z1, z2] != [0; 3] {
            return Err(LinkError::Corrupt("a reserved field of a frame is in use"));
        }
        let stream = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        Ok(Checked { kind, stream, payload_checksum: u32::from_le_bytes([p0, p1, p2, p3]), length })
    }
}
