//! Writes the messages of many channels over one transport: in order within a channel, fairly between channels, and
//! without ever making the sender of a message wait for the transport.
//!
//! ```text
//!  push ──► urgent ────────────┐
//!  push ──► lane of channel 1 ─┼─► batch ─► try_write ─► transport
//!  push ──► lane of channel 3 ─┘     ▲          │ no room
//!                                    └─ writer ─┘ thread waits
//! ```
//!
//! 1. A message is queued: control messages that overtake data (kills, credits) in `urgent`, all else in the lane of its
//!    channel, so that a channel's data comes before its end.
//! 2. Whoever finds nobody writing writes, without blocking, until the queues are empty: a message to an idle connection
//!    needs no other thread.
//! 3. If the transport has no room, or the writing goes on for long, the writer thread takes over and waits.
//! 4. Small messages in quick succession are *gathered*: they stay in their lanes until there are 8 KiB of them, headers counted,
//!    something else is sent, a sender is [about to wait](Outbox::about_to_wait), or 100 µs are over, which the
//!    writer thread watches while there is such a stream. So a stream costs one system call for many messages, and one frame
//!    for those of a channel (see [`crate::messages`]), and a message that somebody waits for is not kept.
//! 5. While the outbox is [patient](Outbox::be_patient), all small messages are gathered, for up to 5 ms, and ends of executions
//!    are written at once, with what was gathered before them, but wake no peer that dozes: one that looks by itself within 6 ms.
//!    So it is with results of short tasks that follow each other, of which nobody awaits a single one. Before the last
//!    sender [waits](Outbox::about_to_wait) the peer is woken.
//!
//! Lanes take turns; a turn is one chunk of a large message or a few small messages. What may be queued of messages is
//! bounded by the credits of [`crate::flow`]. Control messages have no credits; a side that does not trust its peer sets
//! [bounds](Bounds), since a peer that never reads can still provoke answers. Those take little: credits of one channel that
//! wait become one, and [answers](Outbox::push_answer) are kept as a header.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::batch::Batch;
use self::queues::{Item, Small, State, small_bytes};
use crate::assembly::Message;
use crate::flow::Credit;
use crate::frame::HEADER_BYTES;
use crate::ids::ChannelId;
use crate::message::{Encoded, kind};
use crate::transport::SendHalf;

mod batch;
mod direct;
mod gathering;
mod queues;
mod serving;

pub use direct::{Direct, Written};
pub use serving::Served;
use serving::{Server, Starter};

/// Bytes of small messages that a lane may write in one turn.
const TURN_BYTES: usize = 16 * 1024;
/// Batches that a sender writes itself before it leaves the rest to the writer thread.
const MAX_INLINE_BATCHES: usize = 4;
/// Answers whose memory is kept when they are gone.
const FEW_ANSWERS: usize = 1024;
/// The connection no longer takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection is closed")]
pub struct OutboxClosed;

/// How much of what has no credits may wait for the peer to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Control messages.
    pub controls: usize,
    /// What [`push_answer`](Outbox::push_answer) sends.
    pub answers: usize,
}

/// What a credit of a host's is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CreditFor {
    /// Messages on a channel.
    Messages(ChannelId),
    /// Output of an execution.
    Output(ChannelId),
}

/// The queue of everything that one side sends. Shared by all senders; see the [module](self).
#[derive(Debug)]
pub struct Outbox {
    transport: Box<dyn SendHalf>,
    state: Mutex<State>,
    wake_writer: Condvar,
    /// Called instead of waking the writer thread, if there is none.
    server: OnceLock<Server>,
    /// Called before that thread is woken for the first time, if it is not there yet.
    starter: Mutex<Option<Starter>>,
    idle: Condvar,
    bounds: Bounds,
    /// Small messages in quick succession so far.
    streak: AtomicU32,
    /// Messages lie in their lanes and nobody writes them yet. Changed under the lock.
    gathering: AtomicBool,
    patient: AtomicBool,
    /// Something was said patiently since a sender was about to wait. Set under the lock.
    owes_waking: AtomicBool,
}

/// Where a control message goes.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before all that is queued.
    Urgent,
    /// Behind what its channel has said so far.
    Lane { lazy: bool },
}

enum Progress {
    Done,
    NoRoom,
    TurnsUp,
    Failed,
}

impl Outbox {
    /// An outbox over the sending half of a transport. Somebody must run [`run_writer`](Self::run_writer), be ready
    /// to [start](Self::start_writer_by) that, or [`serve`](Self::serve) it.
    pub fn new(transport: Box<dyn SendHalf>) -> Outbox {
        Outbox::bounded(transport, Bounds { controls: usize::MAX, answers: usize::MAX })
    }

    /// An outbox that ends the connection rather than let more than that wait.
    pub fn bounded(transport: Box<dyn SendHalf>, bounds: Bounds) -> Outbox {
        Outbox {
            transport,
            state: Mutex::default(),
            wake_writer: Condvar::new(),
            server: OnceLock::new(),
            starter: Mutex::default(),
            idle: Condvar::new(),
            bounds,
            streak: AtomicU32::new(0),
            gathering: AtomicBool::new(false),
            patient: AtomicBool::new(false),
            owes_waking: AtomicBool::new(false),
        }
    }

    /// Whether the connection was ended because more waited than the bound allows.
    pub fn overflowed(&self) -> bool {
        self.state.lock().overflowed
    }

    /// The messages of a channel that have not been given to the transport at all, or not to their last chunk. A peer
    /// cannot rightly have taken them.
    pub fn unsent(&self, channel: ChannelId) -> Credit {
        let state = self.state.lock();
        let begun = state.direct.iter().chain(&state.stalled).find(|(of, _)| *of == channel);
        let mut unsent = begun.map_or(Credit::default(), |(_, message)| *message);
        for item in state.lanes.get(&channel).into_iter().flatten() {
            let waits = match item {
                Item::Message { kind: kind::DATA, message, .. } => {
                    Credit { bytes: message.bytes.len() as u64, messages: 1 }
                }
                Item::Small(Small { messages, .. }) | Item::Rest { message: messages, .. } => *messages,
                Item::Message { .. } | Item::Control { .. } | Item::Runs(_) => continue,
            };
            unsent.bytes += waits.bytes;
            unsent.messages += waits.messages;
        }
        unsent
    }

    /// Whether anything of a channel was not given to the transport yet. May say so of one whose execution was given to it just before
    /// others'.
    pub fn has_unsent(&self, channel: ChannelId) -> bool {
        let state = self.state.lock();
        state.has_waiting(channel) || state.direct.iter().chain(&state.stalled).any(|(of, _)| *of == channel)
    }

    /// Sends a control message in the lane of its channel: after the channel's data so far. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push(&self, encoded: Encoded) -> Result<(), OutboxClosed> {
        self.queue_control(encoded, VecDeque::new(), false)
    }

    /// Sends a control message before all that is queued. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_urgent(&self, encoded: Encoded) -> Result<(), OutboxClosed> {
        self.queue_control(encoded, VecDeque::new(), true)
    }

    /// Queues what [`push`](Self::push) would send, for callers that hold a lock which writing must not prolong: once they
    /// have let it go they call [`write_placed`](Self::write_placed). Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn place(&self, encoded: Encoded) -> Result<(), OutboxClosed> {
        self.enqueue_control(encoded, VecDeque::new(), Place::Lane { lazy: false }).map(drop)
    }

    /// Queues what [`push_urgent`](Self::push_urgent) would send, as [`place`](Self::place) does.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn place_urgent(&self, encoded: Encoded) -> Result<(), OutboxClosed> {
        self.enqueue_control(encoded, VecDeque::new(), Place::Urgent).map(drop)
    }

    /// Queues what runs something on a channel of its own, on which nothing was said before: the body of an EXECUTE. The peer has
    /// other things to do before it perhaps, and is not woken for it then. Its arguments go before it. As [`place`](Self::place).
    /// Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn place_lazily(
        &self,
        channel: ChannelId,
        arguments: Option<Message>,
        execute: &[u8],
    ) -> Result<(), OutboxClosed> {
        let mut state = self.open()?;
        if state.controls >= self.bounds.controls {
            return Err(self.overflow(state));
        }
        let is_small = |message: &Message| message.channels.is_empty() && Outbox::is_small(&message.bytes);
        if Outbox::is_small(execute) && arguments.as_ref().is_none_or(is_small) {
            state.push_run(channel, arguments.as_ref().map(|message| &message.bytes[..]), execute);
            return Ok(());
        }
        // What follows stays behind it.
        state.last_runs = None;
        state.controls += 1;
        let encoded = Encoded { kind: kind::EXECUTE, flags: 0, channel, body: execute.to_vec() };
        if let Some(message) = arguments {
            state.push_lane(channel, Item::Message { kind: kind::ARGUMENTS, channel, message, sent: 0 });
        }
        state.push_lane(channel, Item::Control { encoded, descriptors: VecDeque::new(), lazy: true });
        Ok(())
    }

    /// Sends what was placed, unless that has happened already. Never blocks.
    pub fn write_placed(&self) {
        let state = self.state.lock();
        if !state.closed && state.has_work() {
            self.start(state);
        }
    }

    /// Sends a message without a body that the peer has provoked, and that is the last one on its channel: after the channel's
    /// data so far. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_answer(&self, encoded: Encoded) -> Result<(), OutboxClosed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(OutboxClosed);
        }
        let Encoded { kind, flags, channel, body } = &encoded;
        if !body.is_empty() || state.lanes.contains_key(channel) {
            drop(state);
            return self.push(encoded);
        }
        if state.answers.len() >= self.bounds.answers {
            return Err(self.overflow(state));
        }
        state.answers.push_back((*kind, *flags, *channel));
        self.start(state);
        Ok(())
    }

    /// Sends a credit before all that is queued. It is added to one that waits for the same. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_credit(&self, to: CreditFor, credit: Credit) -> Result<(), OutboxClosed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(OutboxClosed);
        }
        state.credits.entry(to).or_default().add(credit);
        self.start(state);
        Ok(())
    }

    /// Sends a control message together with descriptors. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_with_descriptors(&self, encoded: Encoded, descriptors: Vec<OwnedFd>) -> Result<(), OutboxClosed> {
        self.queue_control(encoded, descriptors.into(), true)
    }

    /// Sends a message on a channel, in chunks if it is large. The caller has taken the credits for it. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_message(&self, channel: ChannelId, message: Message) -> Result<(), OutboxClosed> {
        if message.channels.is_empty() && Outbox::is_small(&message.bytes) {
            return self.push_bytes(channel, &message.bytes);
        }
        self.queue_message(kind::DATA, channel, message)
    }

    /// Sends a message of these bytes, which are copied, and no channels. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_bytes(&self, channel: ChannelId, bytes: &[u8]) -> Result<(), OutboxClosed> {
        if !Outbox::is_small(bytes) {
            let message = Message { bytes: Bytes::copy_from_slice(bytes), channels: Vec::new() };
            return self.queue_message(kind::DATA, channel, message);
        }
        let mut state = self.open()?;
        if self.put_small(&mut state, channel, bytes) {
            self.start(state);
        }
        Ok(())
    }

    /// Sends [small](Self::is_small) messages without channels, at once and together. Their bytes are copied. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_small(&self, channel: ChannelId, messages: &[impl AsRef<[u8]>]) -> Result<(), OutboxClosed> {
        let mut state = self.open()?;
        for message in messages {
            state.push_small(channel, message.as_ref());
        }
        if !messages.is_empty() {
            self.start(state);
        }
        Ok(())
    }

    /// Queues a small message without channels, as [`place`](Self::place) does, and copies its bytes. Says whether they are to be
    /// [written](Self::write_placed) at once; if not they are gathered. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn place_small(&self, channel: ChannelId, bytes: &[u8]) -> Result<bool, OutboxClosed> {
        debug_assert!(Outbox::is_small(bytes), "there is another way for large messages");
        let mut state = self.open()?;
        Ok(self.put_small(&mut state, channel, bytes))
    }

    /// Whether a message of these bytes is small enough to be gathered.
    pub fn is_small(bytes: &[u8]) -> bool {
        small_bytes(bytes).is_some()
    }

    /// Sends the arguments of a call, in chunks if they are large. Never blocks.
    ///
    /// # Errors
    /// [`OutboxClosed`] once the connection is gone.
    pub fn push_arguments(&self, channel: ChannelId, message: Message) -> Result<(), OutboxClosed> {
        self.queue_message(kind::ARGUMENTS, channel, message)
    }

    /// Drops what is queued and ends the transport, so that both halves of it wake up. Never blocks.
    pub fn shutdown(&self) {
        self.close(&mut self.state.lock());
        self.transport.shutdown();
    }

    /// Waits until everything that was queued is handed to the transport or the connection is gone.
    pub fn flush(&self) {
        self.about_to_wait();
        let mut state = self.state.lock();
        while !state.closed && (state.writing || state.has_work()) {
            self.idle.wait(&mut state);
        }
    }

    /// Writes what senders leave; returns when the connection is gone. Meant for a thread of its own.
    pub fn run_writer(&self) {
        let mut state = self.state.lock();
        loop {
            while !state.closed && !state.writer_wanted && !self.watch(&mut state) {}
            if state.closed {
                return;
            }
            state.writer_wanted = false;
            if state.writing {
                continue;
            }
            // What was gathered has waited for long enough.
            state.wakes_peer = true;
            if !state.has_work() {
                // The sender wrote all of it in its last turn, and left it to this thread to say so.
                self.idle.notify_all();
                continue;
            }
            state.writing = true;
            drop(state);
            self.write_and_wait();
            state = self.state.lock();
        }
    }

    /// Writes all there is, and waits for room. The caller has set `writing`.
    fn write_and_wait(&self) {
        while let Progress::NoRoom | Progress::TurnsUp = self.write(self.state.lock(), usize::MAX) {
            if self.transport.wait_writable().is_err() {
                self.shutdown();
            }
        }
    }

    fn queue_control(
        &self,
        encoded: Encoded,
        descriptors: VecDeque<OwnedFd>,
        urgent: bool,
    ) -> Result<(), OutboxClosed> {
        let place = if urgent { Place::Urgent } else { Place::Lane { lazy: false } };
        self.start(self.enqueue_control(encoded, descriptors, place)?);
        Ok(())
    }

    fn queue_message(&self, kind: u8, channel: ChannelId, message: Message) -> Result<(), OutboxClosed> {
        let small = small_bytes(&message.bytes);
        let mut state = self.open()?;
        state.push_lane(channel, Item::Message { kind, channel, message, sent: 0 });
        if !small.is_some_and(|bytes| self.gather(&mut state, bytes)) {
            self.start(state);
        }
        Ok(())
    }

    /// Queues a small message, and says whether it is to be written at once.
    fn put_small(&self, state: &mut State, channel: ChannelId, bytes: &[u8]) -> bool {
        let gathered = self.gather(state, HEADER_BYTES + bytes.len());
        if !gathered && !state.writing && !state.writer_wanted && !state.has_work() {
            state.batch.clear();
            state.batch.add_small(channel, bytes, self.patient.load(Ordering::Relaxed));
        } else {
            state.push_small(channel, bytes);
        }
        !gathered
    }

    fn enqueue_control(
        &self,
        encoded: Encoded,
        descriptors: VecDeque<OwnedFd>,
        place: Place,
    ) -> Result<MutexGuard<'_, State>, OutboxClosed> {
        let mut state = self.open()?;
        if state.controls >= self.bounds.controls {
            return Err(self.overflow(state));
        }
        state.controls += 1;
        let channel = encoded.channel;
        match place {
            Place::Urgent => state.urgent.push_back(Item::Control { encoded, descriptors, lazy: false }),
            Place::Lane { lazy } => {
                if encoded.kind == kind::EXECUTE {
                    // No run that follows goes before it.
                    state.last_runs = None;
                }
                state.push_lane(channel, Item::Control { encoded, descriptors, lazy });
            }
        }
        Ok(state)
    }

    /// The state, while something can be sent.
    fn open(&self) -> Result<MutexGuard<'_, State>, OutboxClosed> {
        let state = self.state.lock();
        if state.closed { Err(OutboxClosed) } else { Ok(state) }
    }

    /// Writes what is queued, unless somebody else does.
    fn start(&self, mut state: MutexGuard<'_, State>) {
        if state.writing || state.writer_wanted {
            return;
        }
        state.writing = true;
        self.write_inline(state);
    }

    /// Ends the connection, for its peer does not read.
    fn overflow(&self, mut state: MutexGuard<'_, State>) -> OutboxClosed {
        state.overflowed = true;
        self.close(&mut state);
        drop(state);
        self.transport.shutdown();
        OutboxClosed
    }

    /// Writes what can be written without waiting, and leaves the rest to the writer thread. The caller has set `writing`.
    fn write_inline(&self, state: MutexGuard<'_, State>) {
        if let Progress::NoRoom | Progress::TurnsUp = self.write(state, MAX_INLINE_BATCHES) {
            let mut state = self.state.lock();
            state.writing = false;
            state.writer_wanted = true;
            self.call_writer();
        }
    }

    /// Writes batch after batch. The caller has set `writing`; on `Done` it is cleared under the same lock that saw the
    /// queues empty, so that no message is left lying.
    fn write(&self, mut state: MutexGuard<'_, State>, max_batches: usize) -> Progress {
        let mut batches = 0;
        loop {
            if state.closed {
                return Progress::Failed;
            }
            if state.batch.is_empty() {
                state.fill_batch(self.patient.load(Ordering::Relaxed));
                if state.gathered_since.take().is_some() {
                    self.gathering.store(false, Ordering::Release);
                }
                state.gathered_bytes = 0;
            }
            if state.batch.is_empty() {
                state.writing = false;
                self.idle.notify_all();
                if std::mem::take(&mut state.wakes_peer) {
                    drop(state);
                    // That it is gone is for those to find who read.
                    let _ = self.transport.wake_peer();
                }
                return Progress::Done;
            }
            if batches == max_batches {
                return Progress::TurnsUp;
            }
            batches += 1;
            let mut batch = std::mem::take(&mut state.batch);
            let result = MutexGuard::unlocked(&mut state, || batch.write_to(&*self.transport));
            state.batch = batch;
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::NoRoom,
                Err(_) => {
                    self.close(&mut state);
                    drop(state);
                    self.transport.shutdown();
                    return Progress::Failed;
                }
            }
        }
    }

    fn close(&self, state: &mut State) {
        state.closed = true;
        state.direct = None;
        state.urgent.clear();
        state.credits.clear();
        state.answers = VecDeque::new();
        state.lanes.clear();
        state.turns.clear();
        state.batch = Batch::default();
        // There is nothing left for a thread that was not needed so far.
        drop(self.starter.lock().take());
        self.call_writer();
        self.wake_writer.notify_all();
        self.idle.notify_all();
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
