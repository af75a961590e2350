//! What is written next: frames, as bytes in the order in which they leave.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;

use super::Item;
use super::queues::add_small;
use crate::assembly::write_prefix;
use crate::frame::{CHUNK_BYTES, HEADER_BYTES, Header, MAX_FRAME_BYTES};
use crate::ids::ChannelId;
use crate::message::{Encoded, kind};
use crate::transport::SendHalf;

/// Bytes up to which a body is copied into the batch instead of being written from where it is.
pub(super) const COPY_BYTES: usize = 8 * 1024;
/// Bytes at which a batch is full.
const BATCH_BYTES: usize = 64 * 1024;

/// Bytes on their way: copied ones first, then at most one large body.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) copied: Vec<u8>,
    large: Bytes,
    descriptors: VecDeque<OwnedFd>,
    written: usize,
    /// Something in it cannot wait until the peer has nothing else to do.
    is_urgent: bool,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.copied.len() + self.large.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written == self.len()
    }

    pub(super) fn clear(&mut self) {
        self.copied.clear();
        self.large = Bytes::new();
        self.written = 0;
        self.is_urgent = false;
    }

    /// Bytes can follow: the batch is not full, has no large body at its end, and has no descriptors of its own.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.descriptors.is_empty() && self.copied.len() < BATCH_BYTES
    }

    /// Adds an item, or its next chunk, and returns what is left of it.
    pub(super) fn add(&mut self, item: Item) -> Option<Item> {
        match item {
            Item::Control { encoded, descriptors, lazy } => {
                if !descriptors.is_empty() && !self.copied.is_empty() {
                    // Descriptors travel with the first byte of a write.
                    return Some(Item::Control { encoded, descriptors, lazy });
                }
                self.descriptors = descriptors;
                let Encoded { kind, flags, channel, body } = encoded;
                debug_assert!(body.len() <= MAX_FRAME_BYTES, "bodies are capped by those who make them");
                let was_urgent = self.is_urgent;
                self.add_frame(kind, flags, channel, &[], Bytes::from(body));
                self.is_urgent = was_urgent || !lazy;
                None
            }
            Item::Message { kind, channel, message, sent } => {
                let end = message.bytes.len().min(sent + CHUNK_BYTES);
                let more = end < message.bytes.len();
                let chunk = message.bytes.slice(sent..end);
                let mut prefix = Vec::new();
                let flags = if sent == 0 { write_prefix(&mut prefix, &message, more) } else { u8::from(more) };
                self.add_frame(kind, flags, channel, &prefix, chunk);
                more.then_some(Item::Message { kind, channel, message, sent: end })
            }
            Item::Rest { channel, mut bytes, message } => {
                let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                self.add_frame(kind::DATA, u8::from(!bytes.is_empty()), channel, &[], chunk);
                (!bytes.is_empty()).then_some(Item::Rest { channel, bytes, message })
            }
            Item::Small(small) => {
                self.add_frames(small.into_frame(), false);
                None
            }
            Item::Runs(runs) => {
                self.add_frames(runs.frames, true);
                None
            }
        }
    }

    /// Fills an empty batch with a frame of which so many bytes are written already.
    pub(super) fn set_rest(&mut self, head: Vec<u8>, body: Bytes, written: usize) {
        debug_assert!(self.is_empty(), "who writes a message writes nothing else");
        self.is_urgent = true;
        self.copied = head;
        self.large = body;
        self.written = written;
    }

    /// Adds the frame of a small message, which can wait or cannot.
    pub(super) fn add_small(&mut self, channel: ChannelId, bytes: &[u8], lazy: bool) {
        self.is_urgent |= !lazy;
        add_small(&mut self.copied, channel, bytes);
    }

    /// Adds frames as they are, which can wait or cannot, and returns memory for others.
    pub(super) fn add_frames(&mut self, mut frames: Vec<u8>, lazy: bool) -> Vec<u8> {
        self.is_urgent |= !lazy;
        if self.copied.is_empty() {
            std::mem::swap(&mut self.copied, &mut frames);
        } else {
            self.copied.extend_from_slice(&frames);
        }
        frames.clear();
        frames
    }

    pub(super) fn add_frame(&mut self, kind: u8, flags: u8, channel: ChannelId, prefix: &[u8], body: Bytes) {
        let length = u32::try_from(prefix.len() + body.len()).expect("a frame is at most MAX_FRAME_BYTES long");
        // Arguments are of no use before what follows them.
        self.is_urgent |= kind != self::kind::ARGUMENTS;
        self.copied.reserve(HEADER_BYTES + prefix.len() + body.len().min(COPY_BYTES));
        self.copied.extend_from_slice(&Header { length, kind, flags, channel }.encode());
        self.copied.extend_from_slice(prefix);
        if body.len() <= COPY_BYTES {
            self.copied.extend_from_slice(&body);
        } else {
            self.large = body;
        }
    }

    /// Writes what is left, as far as the transport has room.
    pub(super) fn write_to(&mut self, transport: &dyn SendHalf) -> io::Result<()> {
        while !self.is_empty() {
            let copied = &self.copied[self.written.min(self.copied.len())..];
            let large = &self.large[self.written.saturating_sub(self.copied.len())..];
            // One descriptor for each write; the reader queues them in this order.
            let (descriptor, copied) = match self.descriptors.len() {
                0 | 1 => (self.descriptors.front(), copied),
                _ => (self.descriptors.front(), &copied[..1]),
            };
            let large = if self.descriptors.len() > 1 { &[][..] } else { large };
            let descriptor = descriptor.map(AsFd::as_fd);
            let buffers = [IoSlice::new(copied), IoSlice::new(large)];
            let written = match self.is_urgent {
                true => transport.try_write(&buffers, descriptor),
                false => transport.try_write_lazily(&buffers, descriptor),
            };
            let count = match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if count > 0 {
                self.descriptors.pop_front();
            }
            self.written += count;
        }
        Ok(())
    }
}
