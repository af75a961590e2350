//! Large messages that their sender writes from where they are, instead of having them copied first.
//!
//! ```text
//!  begin ──► chunk ─► chunk ─► chunk ─► all written
//!              │ no room, or others have something to send
//!              └──► what is left is kept in the lane, ahead of all that was queued meanwhile
//! ```
//!
//! That can be when nobody writes and nothing waits. From [`begin`](Outbox::begin) on this sender is the one that writes, so
//! nothing overtakes the message. When the peer is a little slower it waits for room, by looking, and in all no longer than a
//! copy of the message would take; what has no room then is copied after all, so that nobody waits for a peer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::queues::Item;
use super::{Outbox, small_bytes};
use crate::assembly::{GIVEN_UP, MORE};
use crate::flow::Credit;
use crate::frame::{CHUNK_BYTES, HEADER_BYTES, Header};
use crate::ids::ChannelId;
use crate::message::{Encoded, kind};

/// What a copy takes: so long may be waited for room, for each MiB.
const PATIENCE_FOR_MIB: Duration = Duration::from_micros(100);

/// The right to write one large message, which is to be written at once.
#[derive(Debug)]
#[must_use = "nothing else is written until the message is"]
pub struct Direct<'a> {
    outbox: &'a Outbox,
    channel: ChannelId,
    length: usize,
}

/// What became of a message that was written directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is written, or what is left of it will be.
    All,
    /// Its sender has given it up, and the peer knows.
    GivenUp,
}

impl Outbox {
    /// Begins a message of `length` bytes without channels, if it is large and nothing keeps it from being written now. What is
    /// sent on the channel from here on comes after it. Never blocks.
    pub fn begin(&self, channel: ChannelId, length: usize) -> Option<Direct<'_>> {
        if length <= super::batch::COPY_BYTES {
            return None;
        }
        let mut state = self.state.lock();
        if state.closed || state.writing || state.writer_wanted || state.has_work() {
            return None;
        }
        state.writing = true;
        state.direct = Some((channel, Credit { bytes: length as u64, messages: 1 }));
        Some(Direct { outbox: self, channel, length })
    }

    /// Whether [`begin`](Self::begin) would find that others are writing.
    pub fn is_busy(&self) -> bool {
        let state = self.state.lock();
        state.writing || state.writer_wanted || state.has_work()
    }
}

impl Direct<'_> {
    /// Writes the message. `go_on` is asked before each chunk; `keep` gives what is left from a position on when it has to wait.
    /// The message is given up if either says no.
    pub fn write(self, bytes: &[u8], go_on: impl Fn() -> bool, keep: impl FnOnce(usize) -> Option<Bytes>) -> Written {
        debug_assert!(bytes.len() == self.length && small_bytes(bytes).is_none(), "the message that was begun");
        let mut patience = patience(bytes.len());
        let mut sent = 0;
        while sent < bytes.len() {
            let end = bytes.len().min(sent + CHUNK_BYTES);
            let head = head(self.channel, bytes.len(), sent, end);
            let written = self.write_frame(&head, &bytes[sent..end], &mut patience);
            let is_whole = written.as_ref().is_ok_and(|count| *count == head.len() + end - sent);
            if !is_whole {
                return match written {
                    Ok(count) => self.leave((head, &bytes[sent..end], count), end, keep),
                    Err(_) => self.fail(),
                };
            }
            sent = end;
            if sent < bytes.len() {
                if !go_on() {
                    return self.give_up();
                }
                if self.others_wait() {
                    return self.leave((Vec::new(), &[], 0), sent, keep);
                }
            }
        }
        self.finish();
        Written::All
    }

    /// Writes as much of a frame as there is room for, and says how much that was.
    fn write_frame(&self, head: &[u8], body: &[u8], patience: &mut Duration) -> io::Result<usize> {
        let transport = &*self.outbox.transport;
        let mut written = 0;
        while written < head.len() + body.len() {
            let rest = [
                IoSlice::new(&head[written.min(head.len())..]),
                IoSlice::new(&body[written.saturating_sub(head.len())..]),
            ];
            match transport.try_write(&rest, None) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let start = Instant::now();
                    if !transport.look_for_room(*patience) {
                        break;
                    }
                    *patience = patience.saturating_sub(start.elapsed());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn others_wait(&self) -> bool {
        let state = self.outbox.state.lock();
        state.closed || state.has_work()
    }

    /// Leaves the rest to whoever writes next: of a frame, of which so many bytes are written, and what follows.
    fn leave(
        self,
        (head, chunk, written): (Vec<u8>, &[u8], usize),
        end: usize,
        keep: impl FnOnce(usize) -> Option<Bytes>,
    ) -> Written {
        let chunk = Bytes::copy_from_slice(chunk);
        let rest = if end < self.length { keep(end) } else { Some(Bytes::new()) };
        let mut state = self.outbox.state.lock();
        if state.closed {
            return Written::All;
        }
        state.batch.set_rest(head, chunk, written);
        let Some(rest) = rest else {
            drop(state);
            return self.give_up();
        };
        let message = state.direct.take().map_or(Credit::default(), |(_, message)| message);
        if !rest.is_empty() {
            state.push_lane_front(self.channel, Item::Rest { channel: self.channel, bytes: rest, message });
        }
        drop(state);
        self.outbox.write_inline();
        Written::All
    }

    /// Says that the rest does not come.
    fn give_up(&self) -> Written {
        let mut state = self.outbox.state.lock();
        if state.closed {
            return Written::GivenUp;
        }
        let encoded = Encoded { kind: kind::DATA, flags: GIVEN_UP, channel: self.channel, body: Vec::new() };
        state.controls += 1;
        state.push_lane_front(self.channel, Item::Control { encoded, descriptors: VecDeque::new() });
        drop(state);
        self.finish();
        Written::GivenUp
    }

    fn finish(&self) {
        self.outbox.state.lock().direct = None;
        // There may be something of others by now.
        self.outbox.write_inline();
    }

    /// The connection is gone, and the message with it.
    fn fail(&self) -> Written {
        self.outbox.shutdown();
        Written::All
    }
}

fn patience(length: usize) -> Duration {
    let nanos = PATIENCE_FOR_MIB.as_nanos() as u64;
    Duration::from_nanos((length as u64).saturating_mul(nanos) >> 20)
}

/// What stands before the bytes of a chunk.
fn head(channel: ChannelId, total: usize, sent: usize, end: usize) -> Vec<u8> {
    let more = end < total;
    let prefix = if sent == 0 && more { &(total as u64).to_le_bytes()[..] } else { &[] };
    let length = u32::try_from(prefix.len() + end - sent).expect("a chunk");
    let flags = if more { MORE } else { 0 };
    let mut head = Vec::with_capacity(HEADER_BYTES + prefix.len());
    head.extend_from_slice(&Header { length, kind: kind::DATA, flags, channel }.encode());
    head.extend_from_slice(prefix);
    head
}
