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

use super::queues::{Item, State};
use super::{Outbox, small_bytes};
use crate::assembly::{GIVEN_UP, MORE};
use crate::flow::Credit;
use crate::frame::{CHUNK_BYTES, HEADER_BYTES, Header};
use crate::ids::ChannelId;
use crate::message::{Encoded, kind};

/// Size of the first of several chunks: once its receiver knows what comes, it has the rest read straight to where it belongs.
const FIRST_CHUNK_BYTES: usize = 8 * 1024;

/// What a copy takes, most of it for memory that is new: so long may be waited for room, for each MiB.
const PATIENCE_FOR_MIB: Duration = Duration::from_micros(500);

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
        if state.closed || state.writing || state.writer_wanted || state.has_work() || state.is_stalled(channel) {
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
            let chunk = if sent == 0 && bytes.len() > CHUNK_BYTES { FIRST_CHUNK_BYTES } else { CHUNK_BYTES };
            let end = bytes.len().min(sent + chunk);
            if end == bytes.len() {
                self.ends();
            }
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
        let mut state = self.outbox.state.lock();
        if state.closed {
            return Written::All;
        }
        state.batch.set_rest(head, chunk, written);
        if end == self.length {
            state.direct = None;
            self.outbox.write_inline(state);
            return Written::All;
        }
        // Others go on while the rest is copied, which takes milliseconds.
        state.stall(self.channel);
        self.outbox.write_inline(state);
        let rest = keep(end);
        let mut state = self.outbox.state.lock();
        let message = Credit { bytes: self.length as u64, messages: 1 };
        if state.closed {
            return Written::All;
        }
        let (item, became) = match rest {
            Some(bytes) => (Item::Rest { channel: self.channel, bytes, message }, Written::All),
            None => (given_up(&mut state, self.channel), Written::GivenUp),
        };
        state.push_lane_front(self.channel, item);
        state.go_on(self.channel);
        self.outbox.start(state);
        became
    }

    /// Says that the rest does not come.
    fn give_up(&self) -> Written {
        let mut state = self.outbox.state.lock();
        if state.closed {
            return Written::GivenUp;
        }
        let item = given_up(&mut state, self.channel);
        state.push_lane_front(self.channel, item);
        drop(state);
        self.finish();
        Written::GivenUp
    }

    /// What is written next is the end of the message: the peer may take all of it, and say so, before this thread goes on.
    fn ends(&self) {
        self.outbox.state.lock().direct = Some((self.channel, Credit::default()));
    }

    fn finish(&self) {
        let mut state = self.outbox.state.lock();
        state.direct = None;
        // There may be something of others by now.
        self.outbox.write_inline(state);
    }

    /// The connection is gone, and the message with it.
    fn fail(&self) -> Written {
        self.outbox.shutdown();
        Written::All
    }
}

/// What says that the rest of a message does not come.
fn given_up(state: &mut State, channel: ChannelId) -> Item {
    state.controls += 1;
    let encoded = Encoded { kind: kind::DATA, flags: GIVEN_UP, channel, body: Vec::new() };
    Item::Control { encoded, descriptors: VecDeque::new(), lazy: false }
}

fn patience(length: usize) -> Duration {
    PATIENCE_FOR_MIB.saturating_mul(u32::try_from(length >> 10).unwrap_or(u32::MAX)) / 1024
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

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock, Weak};

    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;
    use crate::assembly::{Assembly, Chunk, Message};
    use crate::frame::FrameReader;
    use crate::transport::SendHalf;
    use crate::transport::testing::Scripted;

    const CHANNEL: ChannelId = ChannelId(2);

    /// A transport with room for so many bytes.
    #[derive(Debug, Clone, Default)]
    struct Narrow {
        room: Arc<AtomicUsize>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl SendHalf for Narrow {
        fn try_write(&self, buffers: &[IoSlice<'_>], _descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
            let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
            let count = bytes.len().min(self.room.load(Ordering::SeqCst));
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room.fetch_sub(count, Ordering::SeqCst);
            self.written.lock().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn wait_writable(&self) -> io::Result<()> {
            Ok(())
        }

        fn shutdown(&self) {}
    }

    impl Narrow {
        fn with(room: usize) -> (Narrow, Outbox) {
            let narrow = Narrow::default();
            narrow.room.store(room, Ordering::SeqCst);
            let outbox = Outbox::new(Box::new(narrow.clone()));
            (narrow, outbox)
        }

        /// What has arrived at the far end by now, once there is room for all.
        fn arrived(&self, outbox: &Outbox) -> Vec<(ChannelId, Vec<u8>)> {
            self.room.store(usize::MAX / 2, Ordering::SeqCst);
            outbox.write_out();
            let written = self.written.lock().clone();
            let mut reader = FrameReader::new(Box::new(Scripted::new(&[&written])));
            let mut assemblies = std::collections::BTreeMap::<_, Assembly>::new();
            let mut arrived = Vec::new();
            while let Some(frame) = reader.read_frame().unwrap() {
                let channel = frame.header.channel;
                let chunk = Chunk { flags: frame.header.flags, payload: frame.payload };
                let message = assemblies.entry(channel).or_default().push(chunk, u64::MAX, None).unwrap();
                arrived.extend(message.map(|message| (channel, message.bytes.to_vec())));
            }
            arrived
        }
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn send(outbox: &Outbox, bytes: &[u8]) -> Written {
        let direct = outbox.begin(CHANNEL, bytes.len()).expect("nobody writes");
        direct.write(bytes, || true, |from| Some(Bytes::copy_from_slice(&bytes[from..])))
    }

    proptest! {
        #[test]
        fn a_message_arrives_whatever_room_there_is(
            length in 8193usize..400_000,
            room in 0usize..500_000,
        ) {
            let (narrow, outbox) = Narrow::with(room);
            let sent = bytes(length);
            prop_assert_eq!(send(&outbox, &sent), Written::All);
            outbox.push_bytes(CHANNEL, b"next").unwrap();
            prop_assert_eq!(narrow.arrived(&outbox), [(CHANNEL, sent), (CHANNEL, b"next".to_vec())]);
            prop_assert!(outbox.begin(CHANNEL, length).is_some(), "nobody writes any more");
        }
    }

    #[test]
    fn what_was_not_written_is_known() {
        let (narrow, outbox) = Narrow::with(100_000);
        let sent = bytes(300_000);
        send(&outbox, &sent);
        assert_eq!(outbox.unsent(CHANNEL), Credit { bytes: 300_000, messages: 1 });
        assert!(outbox.has_unsent(CHANNEL) && outbox.begin(CHANNEL, 300_000).is_none());
        assert_eq!(narrow.arrived(&outbox).len(), 1);
        assert_eq!(outbox.unsent(CHANNEL), Credit::default());
    }

    /// A transport that notes what counts as unsent whenever something is written.
    #[derive(Debug, Clone, Default)]
    struct Witness {
        outbox: Arc<OnceLock<Weak<Outbox>>>,
        unsent: Arc<Mutex<Vec<Credit>>>,
    }

    impl SendHalf for Witness {
        fn try_write(&self, buffers: &[IoSlice<'_>], _descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
            let outbox = self.outbox.get().and_then(Weak::upgrade).expect("an outbox that writes");
            self.unsent.lock().push(outbox.unsent(CHANNEL));
            Ok(buffers.iter().map(|buffer| buffer.len()).sum())
        }

        fn wait_writable(&self) -> io::Result<()> {
            Ok(())
        }

        fn shutdown(&self) {}
    }

    /// The peer can have taken a message as soon as its last byte is there, so by then it counts as sent; and no sooner.
    #[test]
    fn a_message_counts_as_sent_from_its_last_chunk_on() {
        for (length, chunks) in [(CHUNK_BYTES, 0), (CHUNK_BYTES + 1, 1), (FIRST_CHUNK_BYTES + 2 * CHUNK_BYTES + 1, 3)] {
            let witness = Witness::default();
            let outbox = Arc::new(Outbox::new(Box::new(witness.clone())));
            witness.outbox.set(Arc::downgrade(&outbox)).unwrap();
            send(&outbox, &bytes(length));
            let all = Credit { bytes: length as u64, messages: 1 };
            let expected = [vec![all; chunks], vec![Credit::default()]].concat();
            assert_eq!(*witness.unsent.lock(), expected, "{length} bytes");
            assert_eq!(outbox.unsent(CHANNEL), Credit::default());
        }
    }

    #[test]
    fn others_get_their_turn_within_a_message() {
        let (narrow, outbox) = Narrow::with(usize::MAX / 2);
        let (sent, other) = (bytes(10 * CHUNK_BYTES), ChannelId(4));
        let direct = outbox.begin(CHANNEL, sent.len()).unwrap();
        let go_on = || outbox.push_bytes(other, b"other").is_ok();
        let _ = direct.write(&sent, go_on, |from| Some(Bytes::copy_from_slice(&sent[from..])));
        let arrived = narrow.arrived(&outbox);
        assert_eq!(arrived[0], (other, b"other".to_vec()), "it does not wait for the end of a large message");
        assert_eq!(arrived.last(), Some(&(CHANNEL, sent)));
    }

    #[test]
    fn others_are_served_while_the_rest_is_copied() {
        let (narrow, outbox) = Narrow::with(100_000);
        let (sent, other) = (bytes(10 * CHUNK_BYTES), ChannelId(4));
        let direct = outbox.begin(CHANNEL, sent.len()).unwrap();
        let keep = |from: usize| {
            outbox.push_bytes(CHANNEL, b"behind").unwrap();
            outbox.push_bytes(other, b"other").unwrap();
            assert_eq!(narrow.arrived(&outbox), [(other, b"other".to_vec())], "before it is copied");
            assert!(
                outbox
                    .begin(other, 100_000)
                    .is_some_and(|direct| { direct.write(&[7; 100_000], || true, |_| None) == Written::All })
            );
            assert_eq!(outbox.unsent(CHANNEL), Credit { bytes: sent.len() as u64 + 6, messages: 2 });
            Some(Bytes::copy_from_slice(&sent[from..]))
        };
        assert_eq!(direct.write(&sent, || true, keep), Written::All);
        let arrived = narrow.arrived(&outbox);
        assert_eq!(arrived[1..], [(other, vec![7; 100_000]), (CHANNEL, sent), (CHANNEL, b"behind".to_vec())]);
        assert_eq!(outbox.unsent(CHANNEL), Credit::default());
    }

    #[test]
    fn a_message_that_is_given_up_is_none_and_its_channel_goes_on() {
        for room in [0, 10, 100, CHUNK_BYTES + 1, usize::MAX / 2] {
            for (says_no, keeps) in [(true, true), (false, false)] {
                let (narrow, outbox) = Narrow::with(room);
                let sent = bytes(5 * CHUNK_BYTES);
                let direct = outbox.begin(CHANNEL, sent.len()).unwrap();
                let keep = |from: usize| keeps.then(|| Bytes::copy_from_slice(&sent[from..]));
                let written = direct.write(&sent, || !says_no, keep);
                outbox.push_bytes(CHANNEL, b"next").unwrap();
                let arrived = narrow.arrived(&outbox);
                let next = (CHANNEL, b"next".to_vec());
                match written {
                    Written::All => assert_eq!(arrived, [(CHANNEL, sent), next], "{room}"),
                    Written::GivenUp => assert_eq!(arrived, [next], "{room}"),
                }
            }
        }
    }

    #[test]
    fn messages_with_channels_or_in_line_go_another_way() {
        let (_narrow, outbox) = Narrow::with(0);
        assert!(outbox.begin(CHANNEL, 100).is_none(), "small ones are gathered");
        let message = Message { bytes: bytes(100_000).into(), channels: Vec::new() };
        outbox.push_message(CHANNEL, message).unwrap();
        assert!(outbox.begin(CHANNEL, 100_000).is_none() && outbox.is_busy());
    }
}
