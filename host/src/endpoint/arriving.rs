//! What whoever reads the connection does with an endpoint. Nothing here waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sandgate_wire::account::{MESSAGE_OVERHEAD_BYTES, cost};
use sandgate_wire::assembly::{AssemblyError, Chunk, SEVERAL};
use sandgate_wire::flow::{Credit, FlowError};
use sandgate_wire::frame::{FrameError, FrameReader, Header};
use sandgate_wire::limits::OUTPUT_WINDOW_BYTES;
use sandgate_wire::message::{Close, Output, Stream, kind};
use sandgate_wire::messages::{MAX_SMALL_BYTES, Together};
use sandgate_wire::outbox::CreditFor;
use sandgate_wire::{Message, Outcome, Side, ToWorker};

use super::{Endpoint, State};

/// Messages of one channel after which the lock is let go and their consumer is told, which may wake a thread. A frame of several is
/// taken as one, as far as there is credit.
const MAX_MESSAGES: usize = 64;
/// Bytes after which the lock is let go.
const MAX_BYTES: usize = 64 * 1024;
/// A chunk from this size on, of a message that has begun, is read straight to the end of the message.
const LEND_BYTES: u32 = 16 * 1024;

/// Why what has arrived is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    Stream(FrameError),
    AfterClose,
    Message(AssemblyError),
}

impl From<FrameError> for Refused {
    fn from(error: FrameError) -> Refused {
        Refused::Stream(error)
    }
}

/// What a few frames have changed.
#[derive(Debug, Default)]
struct Arrivals {
    messages: usize,
    bytes: usize,
    /// Counted anew, and not any more.
    more: u64,
    less: u64,
    /// Those that follow another one.
    small: Together,
}

impl Arrivals {
    fn share_if_enough(&mut self, state: &mut State) {
        if self.small.are_enough() {
            self.small.share(&mut state.queue);
        }
    }

    /// A chunk of so many bytes has a place in the message that is not whole, or that is whole by it.
    fn take(&mut self, state: &mut State, length: usize, message: Option<Message>) {
        let Some(message) = message else {
            state.in_parts += length as u64;
            self.more += length as u64;
            return;
        };
        self.less += std::mem::take(&mut state.in_parts);
        self.more += cost(message.bytes.len() as u64);
        self.messages += 1;
        state.queue.push(message);
    }
}

impl Endpoint {
    /// Takes the frame that is here, which is of this channel, and a few of those that follow it, and tells the consumer of the
    /// messages that are whole by that.
    pub(crate) fn arrive(self: &Arc<Self>, frames: &mut FrameReader) -> Result<(), Refused> {
        let mut state = self.state.lock();
        let mut arrivals = Arrivals::default();
        let taken = self.take_frames(&mut state, frames, &mut arrivals);
        // Also what came before something that is refused: it can be taken until the connection ends by that.
        arrivals.small.share(&mut state.queue);
        let counted = self.count(&mut state, &arrivals);
        taken?;
        counted.map_err(Refused::Message)?;
        if arrivals.messages > 0 {
            self.notify(&state, arrivals.messages);
        }
        Ok(())
    }

    /// Has what is still to come of the frame that is announced, which is of this channel, read straight to the end of the message
    /// that it is a part of, if it is the next part of one.
    pub(crate) fn lend(&self, frames: &mut FrameReader, header: Header) -> Result<(), FrameError> {
        let mut state = self.state.lock();
        if header.length < LEND_BYTES || state.closed || state.over || state.outcome.is_some() {
            return Ok(());
        }
        if let Some(bytes) = state.assembly.lend(header.flags, header.length as usize) {
            frames.lend(bytes)?;
        }
        Ok(())
    }

    fn take_frames(&self, state: &mut State, frames: &mut FrameReader, arrivals: &mut Arrivals) -> Result<(), Refused> {
        while arrivals.messages < MAX_MESSAGES && arrivals.bytes < MAX_BYTES {
            let is_next = |header: &Header| header.kind == kind::DATA && header.channel == self.id;
            if let Some((header, bytes)) = frames.take_lent(is_next) {
                self.take_lent(state, header, bytes, arrivals).map_err(Refused::Message)?;
                continue;
            }
            let Some(frame) = frames.next_if(is_next)? else { break };
            if state.over {
                return Err(Refused::AfterClose);
            }
            let chunk = Chunk { flags: frame.header.flags, payload: frame.payload };
            self.take(state, chunk, arrivals).map_err(Refused::Message)?;
        }
        Ok(())
    }

    fn take(&self, state: &mut State, chunk: Chunk<'_>, arrivals: &mut Arrivals) -> Result<(), AssemblyError> {
        arrivals.bytes += chunk.payload.len();
        if state.closed || state.outcome.is_some() {
            return Ok(());
        }
        let State { assembly, receive_window, .. } = state;
        if chunk.flags == SEVERAL {
            let (count, bytes) = assembly.several(chunk.payload, self.limits.message_bytes, receive_window)?;
            arrivals.more += bytes + MESSAGE_OVERHEAD_BYTES * count as u64;
            arrivals.messages += count;
            arrivals.share_if_enough(state);
            arrivals.small.extend(chunk.payload, count);
            return Ok(());
        }
        if arrivals.messages > 0
            && chunk.payload.len() <= MAX_SMALL_BYTES
            && let Some(bytes) = assembly.whole(chunk, self.limits.message_bytes, receive_window)?
        {
            arrivals.more += cost(bytes.len() as u64);
            arrivals.messages += 1;
            arrivals.share_if_enough(state);
            arrivals.small.push(bytes);
            return Ok(());
        }
        arrivals.small.share(&mut state.queue);
        let State { assembly, receive_window, .. } = state;
        let message = assembly.push(chunk, self.limits.message_bytes, Some(receive_window))?;
        arrivals.take(state, chunk.payload.len(), message);
        Ok(())
    }

    /// Takes a message with the chunk at its end that was read to there.
    fn take_lent(
        &self,
        state: &mut State,
        header: Header,
        bytes: Vec<u8>,
        arrivals: &mut Arrivals,
    ) -> Result<(), AssemblyError> {
        arrivals.bytes += header.length as usize;
        if state.closed || state.outcome.is_some() {
            return Ok(());
        }
        arrivals.small.share(&mut state.queue);
        let message = state.assembly.came(header.flags, bytes)?;
        arrivals.take(state, header.length as usize, message);
        Ok(())
    }

    /// Counts what has arrived.
    fn count(&self, state: &mut State, arrivals: &Arrivals) -> Result<(), AssemblyError> {
        let Some(account) = self.account.as_ref().filter(|_| !state.uncounted) else { return Ok(()) };
        let more = arrivals.more.saturating_sub(arrivals.less);
        self.uncount(state, arrivals.less.saturating_sub(arrivals.more));
        state.unread += more;
        // The worker counts the same and more, so that an honest one never gets here.
        let maximum = self.limits.memory_bytes;
        if account.sent(more) { Ok(()) } else { Err(AssemblyError::Memory { maximum }) }
    }

    /// The peer waits for credits.
    pub(crate) fn credit_is_wanted(&self) {
        let mut state = self.state.lock();
        state.credit_wanted = true;
        let credit = state.receive_window.give_all();
        self.send_credit(&mut state, credit);
    }

    /// The peer took messages of ours.
    pub(crate) fn credit(&self, credit: Credit) -> Result<(), FlowError> {
        let mut state = self.state.lock();
        state.send_window.give_back(credit)?;
        // Credit for what still waits here would let a peer that does not read fill this side's memory.
        let (under_way, unsent) = (state.send_window.under_way(), self.connection.outbox.unsent(self.id));
        if under_way.bytes < unsent.bytes || under_way.messages < unsent.messages {
            return Err(FlowError::Surplus);
        }
        self.wake_leader(&state);
        drop(state);
        self.writable.notify_all();
        Ok(())
    }

    /// Takes note of output and returns what of it is to be handed on; an error is what is wrong with it. Each piece takes
    /// credit or is the last one, so that what waits is bounded. What is over the limit is dropped as the worker would have
    /// done: it ends in a mark, and nothing after it gets credit.
    pub(crate) fn output_arrived<'a>(&self, output: Output<'a>) -> Result<Option<Output<'a>>, &'static str> {
        let mut state = self.state.lock();
        if state.output_truncated && !state.output_cut {
            return Err("sent output after the last of it");
        }
        if output.bytes.is_empty() && !output.truncated {
            return Err("sent output without bytes");
        }
        if state.captured.is_none() {
            self.had_output.store(true, Ordering::Relaxed);
        }
        let length = output.bytes.len() as u64;
        state.output_under_way += length;
        if state.output_under_way > OUTPUT_WINDOW_BYTES {
            return Err("sent output without credit");
        }
        if state.output_cut {
            return Ok(None);
        }
        let left = self.limits.output_bytes - state.output_bytes;
        let fits = length.min(left);
        state.output_bytes += fits;
        state.output_cut = fits < length;
        state.output_truncated = output.truncated || state.output_cut;
        let bytes = &output.bytes[..usize::try_from(fits).unwrap_or(usize::MAX).min(output.bytes.len())];
        Ok(Some(Output { bytes, truncated: state.output_truncated, ..output }))
    }

    /// Keeps output, if it is to be kept, and says whether it is. Credit for it goes back at once.
    pub(crate) fn keep_output(&self, output: Output<'_>) -> bool {
        let mut state = self.state.lock();
        let Some(captured) = &mut state.captured else { return false };
        captured.truncated |= output.truncated;
        match output.stream {
            Stream::Stdout => captured.stdout.extend_from_slice(output.bytes),
            Stream::Stderr => captured.stderr.extend_from_slice(output.bytes),
        }
        drop(state);
        self.output_delivered(output.bytes.len() as u64);
        true
    }

    /// Output was handed on.
    pub(crate) fn output_delivered(&self, bytes: u64) {
        self.state.lock().output_under_way -= bytes;
        let _ = self.connection.outbox.push_credit(CreditFor::Output(self.id), Credit { bytes, messages: 0 });
    }

    /// Whether it has printed something for the sink of its group.
    pub(crate) fn had_output(&self) -> bool {
        // Said by whoever reads the connection, who alone asks.
        self.had_output.load(Ordering::Relaxed)
    }

    /// Closes this side as the peer has closed the other. How often guests do that is for the worker to bound, and for the
    /// outbox to see to.
    fn answer_close(&self) {
        let close = ToWorker::Close(self.id, Close::default()).encode();
        let outbox = &self.connection.outbox;
        let _ = match self.id.side() {
            Side::Host => outbox.push(close),
            Side::Worker => outbox.push_answer(close),
        };
    }

    /// The peer closed a channel that is not an execution's. Returns whether both sides have closed it now; if not, the
    /// close of this side is due when somebody claims what is left: messages, or an error to tell.
    pub(crate) fn peer_closed(self: &Arc<Self>, error: Option<String>) -> bool {
        let mut state = self.state.lock();
        let settled = state.closed || state.claimed || (state.queue.is_empty() && error.is_none());
        if settled && !state.closed {
            self.answer_close();
        }
        state.owes_close = !settled;
        state.over = true;
        self.end_locked(
            &mut state,
            match error {
                None => Outcome::Closed,
                Some(message) => Outcome::ClosedWithError { message },
            },
        );
        drop(state);
        if settled && let Some(parent) = self.parent.upgrade() {
            parent.release_child(self.id);
        }
        settled
    }
}
