//! What users do with an endpoint, and the threads that run their callbacks. All that waits has a deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::MutexGuard;
use sandgate_wire::account::cost;
use sandgate_wire::assembly::Assembly;
use sandgate_wire::flow::Credit;
use sandgate_wire::message::Close;
use sandgate_wire::messages::Messages;
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{Message, Outbox, Outcome, ToWorker};

use super::{Consumer, Delivery, Endpoint, PoolConsumer, Role, State};
use crate::callback::{self, Callback};
use crate::channel::Handle;
use crate::deadline::Deadline;
use crate::error::{ConsumerError, ReceiveError, SendError, WaitError};
use crate::output::{CapturedOutput, Origin};
use crate::pool::Packed;
use crate::queue::Tokens;

/// Longest text that a close carries.
const MAX_ERROR_BYTES: usize = 16 * 1024;

impl Endpoint {
    /// Sends a message; waits for credit until `deadline`.
    pub(crate) fn send(&self, message: Message, deadline: Deadline) -> Result<(), SendError> {
        let state = self.take_credit(message.bytes.len(), deadline)?;
        let outbox = &self.connection.outbox;
        let direct = message.channels.is_empty().then(|| outbox.begin(self.id, message.bytes.len())).flatten();
        match direct {
            Some(direct) => {
                drop(state);
                direct.write(&message.bytes, || true, |from| Some(message.bytes.slice(from..)));
            }
            // If the connection is gone, its end is about to reach this channel and says why; the message is lost with it.
            None => drop(outbox.push_message(self.id, message)),
        }
        Ok(())
    }

    /// As [`send`](Self::send), of bytes that stay where they are.
    pub(crate) fn send_bytes(&self, bytes: &[u8], deadline: Deadline) -> Result<(), SendError> {
        let outbox = &self.connection.outbox;
        if Outbox::is_small(bytes) {
            let _state = self.take_credit(bytes.len(), deadline)?;
            let _ = outbox.push_bytes(self.id, bytes);
            return Ok(());
        }
        if outbox.is_busy() {
            // They have to wait, and are copied without the lock.
            return self.send(Message { bytes: Bytes::copy_from_slice(bytes), channels: Vec::new() }, deadline);
        }
        let state = self.take_credit(bytes.len(), deadline)?;
        match outbox.begin(self.id, bytes.len()) {
            Some(direct) => {
                drop(state);
                direct.write(bytes, || true, |from| Some(Bytes::copy_from_slice(&bytes[from..])));
            }
            None => drop(outbox.push_bytes(self.id, bytes)),
        }
        Ok(())
    }

    /// Sends these messages without waiting, those that are small under one lock. Says how many were sent, and why not the
    /// next one.
    pub(crate) fn send_now(&self, messages: &[&Packed]) -> (usize, Option<SendError>) {
        let mut sent = 0;
        while let Some(next) = messages.get(sent) {
            let result = if Outbox::is_small(next.as_ref()) {
                let (count, result) = self.send_small(&messages[sent..]);
                sent += count;
                result
            } else {
                let message = Message { bytes: Packed::clone(next).into_bytes(), channels: Vec::new() };
                let result = self.send(message, Deadline::after(Duration::ZERO));
                sent += usize::from(result.is_ok());
                result
            };
            if let Err(error) = result {
                return (sent, Some(error));
            }
        }
        (sent, None)
    }

    /// Sends the small messages at the beginning of these, as far as there is credit.
    fn send_small(&self, messages: &[&Packed]) -> (usize, Result<(), SendError>) {
        let mut state = self.state.lock();
        let mut result = self.can_send(&state);
        let mut count = 0;
        while let (Ok(()), Some(next)) = (&result, messages.get(count).filter(|next| Outbox::is_small(next.as_ref()))) {
            let length = next.as_ref().len();
            if length as u64 > self.limits.message_bytes {
                result = Err(SendError::too_large(length, &self.limits));
            } else if state.send_window.try_start(length as u64) {
                count += 1;
            } else {
                result = Err(SendError::Timeout(Duration::ZERO));
            }
        }
        // If the connection is gone, its end is about to reach this channel and says why.
        let _ = self.connection.outbox.push_small(self.id, &messages[..count]);
        (count, result)
    }

    fn can_send(&self, state: &State) -> Result<(), SendError> {
        match &state.outcome {
            // This side's own close is not told as if the peer had closed it.
            Some(Outcome::Closed) if state.closed => Err(SendError::Closed),
            Some(outcome) => Err(SendError::Ended(outcome.clone())),
            None if state.send_closed => Err(SendError::Closed),
            None => Ok(()),
        }
    }

    /// Takes what a message of this length takes, and keeps the lock, under which the message is to be begun.
    fn take_credit(&self, length: usize, deadline: Deadline) -> Result<MutexGuard<'_, State>, SendError> {
        if length as u64 > self.limits.message_bytes {
            return Err(SendError::too_large(length, &self.limits));
        }
        let mut state = self.state.lock();
        loop {
            self.can_send(&state)?;
            if state.send_window.try_start(length as u64) {
                return Ok(state);
            }
            if let Err(after) = self.wait(&self.writable, &mut state, deadline) {
                return Err(SendError::Timeout(after));
            }
        }
    }

    /// Takes the next message; waits for it until `deadline`.
    pub(crate) fn receive(&self, deadline: Deadline) -> Result<Message, ReceiveError> {
        let mut state = self.state.lock();
        loop {
            if !matches!(state.consumer, Consumer::Receive) {
                return Err(ReceiveError::HasConsumer);
            }
            if let Some(message) = state.queue.pop() {
                self.give_credit(&mut state, &message);
                return Ok(message);
            }
            if state.closed {
                return Err(ReceiveError::Closed);
            }
            if let Some(outcome) = &state.outcome {
                return Err(ReceiveError::Ended(outcome.clone()));
            }
            if let Err(after) = self.wait(&self.readable, &mut state, deadline) {
                return Err(ReceiveError::Timeout(after));
            }
        }
    }

    /// The next message or the end for a queue or callback, if there is one.
    pub(crate) fn next_delivery(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        if let Some(message) = state.queue.pop() {
            self.give_credit(&mut state, &message);
            return Some(Delivery::Message(message));
        }
        if state.end_delivered {
            return None;
        }
        let outcome = state.outcome.clone()?;
        // A queue has delivered the end by taking it; a callback says so when it returns.
        if let Consumer::Queue { .. } | Consumer::Pool(_) = state.consumer {
            self.end_was_delivered(state);
        }
        Some(Delivery::End(outcome))
    }

    /// Takes what a pool's run has brought: the last of its messages, and its end, which is returned once.
    pub(crate) fn take_run(&self, last: &mut Option<Message>) -> Option<Outcome> {
        let mut state = self.state.lock();
        while let Some(message) = state.queue.pop() {
            self.give_credit(&mut state, &message);
            *last = Some(message);
        }
        if state.end_delivered {
            return None;
        }
        let outcome = state.outcome.clone()?;
        self.end_was_delivered(state);
        Some(outcome)
    }

    /// Whether nothing is left of a run that has ended.
    pub(crate) fn is_used_up(&self) -> bool {
        let state = self.state.lock();
        state.over && state.end_delivered && state.children.is_empty() && state.captured.is_none()
    }

    /// Moves all messages that are here to the end of `messages`, which is empty, for a pool. Returns the end if that is next,
    /// once.
    pub(crate) fn take_deliveries(&self, messages: &mut Messages) -> Option<Outcome> {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.queue, messages);
        let mut credit = Credit::default();
        for length in messages.lengths() {
            let length = length as u64;
            state.taken += cost(length);
            credit.add(state.receive_window.take(length));
        }
        if state.credit_wanted {
            credit.add(state.receive_window.give_all());
        }
        self.send_credit(&mut state, (credit != Credit::default()).then_some(credit));
        if state.end_delivered {
            return None;
        }
        let outcome = state.outcome.clone()?;
        self.end_was_delivered(state);
        Some(outcome)
    }

    /// The consumer is done with the end.
    pub(crate) fn mark_end_delivered(&self) {
        self.end_was_delivered(self.state.lock());
    }

    fn end_was_delivered(&self, mut state: MutexGuard<'_, State>) {
        state.end_delivered = true;
        self.wake_leader(&state);
        drop(state);
        self.ended.notify_all();
    }

    fn give_credit(&self, state: &mut State, message: &Message) {
        let length = message.bytes.len() as u64;
        state.taken += cost(length);
        let mut credit = state.receive_window.take(length);
        if state.credit_wanted && credit.is_none() {
            credit = state.receive_window.give_all();
        }
        self.send_credit(state, credit);
    }

    /// Ends this side of the channel, or only its sending half. Closing again does nothing.
    pub(crate) fn close(self: &Arc<Self>, error: Option<&str>, sending_only: bool) {
        self.close_locked(&mut self.state.lock(), error, sending_only);
    }

    fn close_locked(self: &Arc<Self>, state: &mut State, error: Option<&str>, sending_only: bool) {
        if state.closed || (sending_only && state.send_closed) {
            return;
        }
        if state.outcome.is_none() {
            self.send_close(Close { error: error.map(cut), sending_only });
        } else if !sending_only {
            self.settle(state);
        }
        state.send_closed = true;
        if !sending_only {
            state.closed = true;
            state.assembly = Assembly::default();
            self.count_no_more(state);
            if self.role == Role::Plain {
                self.end_locked(state, Outcome::Closed);
            }
            self.readable.notify_all();
        }
        self.wake_leader(state);
        self.writable.notify_all();
    }

    /// Sends the close that is still due after the peer's.
    fn settle(&self, state: &mut State) {
        if std::mem::take(&mut state.owes_close) {
            self.send_close(Close::default());
            self.connection.forget(self.id);
        }
    }

    /// A callback failed: the channel ends here and there, for this reason.
    pub(crate) fn fail(self: &Arc<Self>, message: String) {
        let mut state = self.state.lock();
        if state.outcome.is_none() && !state.closed {
            self.send_close(Close { error: Some(cut(&format!("callback failed: {message}"))), sending_only: false });
        }
        state.closed = true;
        state.queue.clear();
        self.end_locked(&mut state, Outcome::CallbackFailed { message });
    }

    /// The last handle is gone, unless the channel came back in a message in the same moment and there is a new one.
    pub(crate) fn abandon(self: &Arc<Self>) {
        let state = self.state.lock();
        // A run is the pool's.
        if state.handle.strong_count() == 0 && !self.is_run {
            self.leave(state);
        }
    }

    /// The pool has no use any more for a run of its own.
    pub(crate) fn abandon_run(self: &Arc<Self>) {
        self.leave(self.state.lock());
    }

    fn leave(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let consumed = matches!(state.consumer, Consumer::Callback(_));
        // A callback goes on without a handle, so only the sending half has lost its user.
        self.close_locked(&mut state, None, consumed);
        if !consumed {
            let unread = std::mem::take(&mut state.queue);
            drop(state);
            drop(unread);
        }
    }

    pub(crate) fn kill(&self) {
        let _ = self.connection.outbox.push_urgent(ToWorker::Kill(self.id, KilledBy::Kill).encode());
    }

    /// Takes back an execution that has not begun; one that has goes on.
    pub(crate) fn recall(&self) {
        let _ = self.connection.outbox.push_urgent(ToWorker::Kill(self.id, KilledBy::Recall).encode());
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.state.lock().outcome.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        let state = self.state.lock();
        state.closed || state.outcome.is_some()
    }

    /// Waits until the channel has ended and its callback, if it has one, has seen the end.
    pub(crate) fn wait_end(&self, deadline: Deadline) -> Result<Outcome, WaitError> {
        if callback::is_running(self) {
            return Err(WaitError::InCallback);
        }
        let mut state = self.state.lock();
        loop {
            let delivered = state.end_delivered || !matches!(state.consumer, Consumer::Callback(_));
            if let (Some(outcome), true) = (&state.outcome, delivered) {
                return Ok(outcome.clone());
            }
            if let Err(after) = self.wait(&self.ended, &mut state, deadline) {
                return Err(WaitError::Timeout(after));
            }
        }
    }

    pub(crate) fn set_callback(self: &Arc<Self>, callback: Arc<Callback>) -> Result<(), ConsumerError> {
        self.set_consumer(Consumer::Callback(callback))
    }

    pub(crate) fn set_queue(self: &Arc<Self>, tokens: Arc<Tokens>, index: usize) -> Result<(), ConsumerError> {
        self.set_consumer(Consumer::Queue { tokens, index })
    }

    /// Tells a pool what happens to this session of it.
    pub(crate) fn set_pool(self: &Arc<Self>, pool: PoolConsumer) -> Result<(), ConsumerError> {
        self.set_consumer(Consumer::Pool(pool))
    }

    pub(crate) fn origin(&self) -> Option<Origin> {
        self.state.lock().origin.clone()
    }

    pub(crate) fn take_output(&self) -> Option<CapturedOutput> {
        self.state.lock().captured.as_deref_mut().map(std::mem::take)
    }

    /// Takes the channel out of a queue that was not made after all.
    pub(crate) fn unset_queue(&self) {
        let mut state = self.state.lock();
        state.consumer = Consumer::Receive;
        self.set_beside(&mut state, false);
        self.readable.notify_all();
    }

    fn set_consumer(self: &Arc<Self>, consumer: Consumer) -> Result<(), ConsumerError> {
        let mut state = self.state.lock();
        if !matches!(state.consumer, Consumer::Receive) {
            return Err(ConsumerError { channel: self.id.0 });
        }
        state.consumer = consumer;
        if state.outcome.is_none() {
            self.set_beside(&mut state, true);
        }
        let waiting = state.queue.len() + usize::from(state.outcome.is_some());
        if waiting > 0 {
            self.notify(&state, waiting);
        }
        self.wake_leader(&state);
        self.readable.notify_all();
        Ok(())
    }

    /// The user's handle: the one that exists, or a new one.
    pub(crate) fn handle(self: &Arc<Self>) -> Arc<Handle> {
        let mut state = self.state.lock();
        if let Some(handle) = state.handle.upgrade() {
            return handle;
        }
        let handle = Arc::new(Handle::new(Arc::clone(self)));
        state.handle = Arc::downgrade(&handle);
        state.claimed = true;
        self.settle(&mut state);
        drop(state);
        if let Some(parent) = self.parent.upgrade() {
            parent.release_child(self.id);
        }
        handle
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_ERROR_BYTES);
    text[..end].to_owned()
}
