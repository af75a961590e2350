//! The host's end of one channel: its queue, its credits, and how it ended.
//!
//! ```text
//!           arrive ──► queue ──► receive │ receive queue │ callback
//!  open ──┬── peer ends it: outcome ─────────────────────► ended (sticky)
//!         └── closed here: nothing more is kept or sent ─► ended when the worker says so
//! ```
//!
//! The reader thread puts messages in and never waits; users take them out. What the user takes goes back to the worker
//! as credit. Invariant: a message is handed to the outbox while the endpoint is locked, so that nothing is sent after
//! the channel's close.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use sandgate_wire::account::{Account, cost};
use sandgate_wire::assembly::{Assembly, AssemblyError, Chunk};
use sandgate_wire::flow::{Credit, FlowError, ReceiveWindow, SendWindow, Window};
use sandgate_wire::limits::OUTPUT_WINDOW_BYTES;
use sandgate_wire::message::{Close, Output, Stream};
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{ChannelId, Limits, Message, Outcome, ToWorker};

use crate::callback::{self, Callback};
use crate::channel::Handle;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::error::{ConsumerError, ReceiveError, SendError, WaitError};
use crate::output::CapturedOutput;
use crate::pool::Note;
use crate::queue::Tokens;
use crate::watch;

/// Longest text that a close carries.
const MAX_ERROR_BYTES: usize = 16 * 1024;
/// What a worker is given to stop a guest that it cannot interrupt, which is enough if the guest waits.
const UNCHECKED_PATIENCE: Duration = Duration::from_millis(50);

/// What a channel belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is an execution's own; the worker ends it with its outcome.
    Execution,
    /// It was made by either side, and either side closes it.
    Plain,
}

/// One end of a channel. Shared by its handles, the connection's table while it is open, and its parent.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: ChannelId,
    pub(crate) connection: Arc<Connection>,
    pub(crate) role: Role,
    pub(crate) limits: Limits,
    /// Whether an execution can be interrupted, or only killed with its worker.
    interruptible: bool,
    /// What this side holds for the execution that the channel belongs to; none for a channel that the host made, where
    /// the window alone is the bound.
    account: Option<Arc<Account>>,
    /// Whether the execution has begun, as the host can tell.
    begun: AtomicBool,
    /// The execution that made it, for a channel that a guest made.
    parent: Weak<Endpoint>,
    state: Mutex<State>,
    /// A message came, or the end.
    readable: Condvar,
    /// Credit came, or the end.
    writable: Condvar,
    /// The end came, or was delivered.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Message>,
    /// Messages that the consumer was not told of yet. Less than in the queue, or the consumer took them untold.
    untold: usize,
    assembly: Assembly,
    receive_window: ReceiveWindow,
    send_window: SendWindow,
    /// The peer waits for credits: it gets them for each message.
    credit_wanted: bool,
    /// What has arrived and was not taken, and how much of that is a message in parts.
    unread: u64,
    in_parts: u64,
    /// Nothing is counted any more.
    uncounted: bool,
    /// When the host looks whether the execution has ended.
    watched: Option<watch::Key>,
    /// It has looked, and gave the execution more time since it had not been sent.
    was_unsent: bool,
    outcome: Option<Outcome>,
    /// This side sends nothing more.
    send_closed: bool,
    /// This side takes nothing more either.
    closed: bool,
    consumer: Consumer,
    /// Whether the consumer got the end.
    end_delivered: bool,
    /// The worker has nothing more to say about it. Its outcome can come earlier, from this side.
    over: bool,
    /// Output bytes that were not credited yet.
    output_under_way: u64,
    had_output: bool,
    output_truncated: bool,
    /// What was printed, if it is kept for the caller.
    captured: Option<Box<CapturedOutput>>,
    /// The user's handle, so that a channel that comes back is the same one.
    handle: Weak<Handle>,
    /// Whether a user ever had a handle.
    claimed: bool,
    /// The peer closed it before anybody claimed it; our close is due when that happens.
    owes_close: bool,
    /// Channels that this execution made and nobody has claimed yet.
    children: HashMap<ChannelId, Arc<Endpoint>>,
}

/// Who takes the messages.
#[derive(Debug, Default)]
enum Consumer {
    #[default]
    Receive,
    Queue {
        tokens: Arc<Tokens>,
        index: usize,
    },
    Callback(Arc<Callback>),
    Pool(PoolConsumer),
}

/// A pool, which is told by a note.
#[derive(Debug)]
struct PoolConsumer {
    notes: crossbeam_channel::Sender<Note>,
    lane: usize,
    number: u64,
    /// Whether the first message is not told of, since the end follows it.
    at_end: bool,
}

/// What a consumer gets.
#[derive(Debug)]
pub(crate) enum Delivery {
    Message(Message),
    End(Outcome),
}

impl Endpoint {
    /// The end of a channel that this side made.
    pub(crate) fn new(
        id: ChannelId,
        connection: Arc<Connection>,
        role: Role,
        limits: Limits,
        interruptible: bool,
    ) -> Arc<Endpoint> {
        let account = (role == Role::Execution).then(|| Arc::new(Account::new(limits.memory_bytes)));
        Endpoint::with_parent(id, connection, role, limits, interruptible, account, Weak::new())
    }

    /// The end of a channel that a guest made. It is the parent's until somebody claims it.
    pub(crate) fn of_guest(id: ChannelId, parent: &Arc<Endpoint>) -> Arc<Endpoint> {
        let (connection, limits) = (Arc::clone(&parent.connection), parent.limits.clone());
        let account = parent.account.clone();
        let child = Endpoint::with_parent(id, connection, Role::Plain, limits, true, account, Arc::downgrade(parent));
        parent.state.lock().children.insert(id, Arc::clone(&child));
        child
    }

    fn with_parent(
        id: ChannelId,
        connection: Arc<Connection>,
        role: Role,
        limits: Limits,
        interruptible: bool,
        account: Option<Arc<Account>>,
        parent: Weak<Endpoint>,
    ) -> Arc<Endpoint> {
        let window = Window::from(&limits);
        let state = State {
            receive_window: ReceiveWindow::new(window),
            send_window: SendWindow::new(window),
            ..State::default()
        };
        Arc::new(Endpoint {
            id,
            connection,
            role,
            limits,
            interruptible,
            account,
            begun: AtomicBool::new(false),
            parent,
            state: Mutex::new(state),
            readable: Condvar::new(),
            writable: Condvar::new(),
            ended: Condvar::new(),
        })
    }

    // ---- the reader thread's side; nothing here waits ----

    /// A chunk of a message arrived. Says whether that makes a message, which the consumer is to be [told](Self::tell) of.
    pub(crate) fn arrive(&self, chunk: Chunk<'_>) -> Result<bool, AssemblyError> {
        let mut state = self.state.lock();
        if state.closed || state.outcome.is_some() {
            return Ok(false);
        }
        let State { assembly, receive_window, .. } = &mut *state;
        let message = assembly.push(chunk, self.limits.message_bytes, Some(receive_window))?;
        self.count(&mut state, chunk.payload.len() as u64, message.as_ref())?;
        let Some(message) = message else { return Ok(false) };
        state.queue.push_back(message);
        state.untold += 1;
        Ok(true)
    }

    /// Counts what has arrived: a part of a message, or the last part.
    fn count(&self, state: &mut State, bytes: u64, whole: Option<&Message>) -> Result<(), AssemblyError> {
        let Some(account) = self.account.as_ref().filter(|_| !state.uncounted) else { return Ok(()) };
        let bytes = match whole {
            Some(message) => {
                self.uncount(state, state.in_parts);
                state.in_parts = 0;
                cost(message.bytes.len() as u64)
            }
            None => {
                state.in_parts += bytes;
                bytes
            }
        };
        state.unread += bytes;
        // The worker counts the same and more, so that an honest one never gets here.
        let maximum = self.limits.memory_bytes;
        if account.sent(bytes) { Ok(()) } else { Err(AssemblyError::Memory { maximum }) }
    }

    /// So much of what has arrived was taken, or nobody will take it.
    fn uncount(&self, state: &mut State, bytes: u64) {
        if let Some(account) = self.account.as_ref().filter(|_| !state.uncounted) {
            state.unread -= bytes;
            account.taken(bytes);
        }
    }

    /// The worker counts nothing of this channel any more, so neither does this side.
    fn count_no_more(&self, state: &mut State) {
        self.uncount(state, state.unread);
        state.uncounted = true;
    }

    /// The peer waits for credits.
    pub(crate) fn credit_is_wanted(&self) {
        let mut state = self.state.lock();
        state.credit_wanted = true;
        let credit = state.receive_window.give_all();
        self.send_credit(&state, credit);
    }

    /// Tells the consumer about all that has arrived.
    pub(crate) fn tell(self: &Arc<Self>) {
        let mut state = self.state.lock();
        match std::mem::take(&mut state.untold) {
            0 => {}
            count => self.notify(&state, count),
        }
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
        drop(state);
        self.writable.notify_all();
        Ok(())
    }

    /// Takes note of output; an error is what is wrong with it. Each piece takes credit or is the last one, so that what
    /// waits is bounded.
    pub(crate) fn output_arrived(&self, output: Output<'_>) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        if state.output_truncated {
            return Err("sent output after the last of it");
        }
        if output.bytes.is_empty() && !output.truncated {
            return Err("sent output without bytes");
        }
        state.had_output = true;
        state.output_truncated = output.truncated;
        state.output_under_way += output.bytes.len() as u64;
        if state.output_under_way > OUTPUT_WINDOW_BYTES {
            return Err("sent output without credit");
        }
        Ok(())
    }

    /// From here on output is kept.
    pub(crate) fn capture_output(&self) {
        self.state.lock().captured = Some(Box::default());
    }

    /// Keeps output, if it is to be kept; an error is what is wrong with it. Credit for it goes back at once.
    pub(crate) fn keep_output(&self, output: Output<'_>) -> Result<bool, &'static str> {
        let most = self.limits.output_bytes;
        let mut state = self.state.lock();
        let Some(captured) = &mut state.captured else { return Ok(false) };
        let kept = captured.stdout.len() + captured.stderr.len() + output.bytes.len();
        if kept as u64 > most {
            return Err("sent more output than its limit");
        }
        captured.truncated |= output.truncated;
        match output.stream {
            Stream::Stdout => captured.stdout.extend_from_slice(output.bytes),
            Stream::Stderr => captured.stderr.extend_from_slice(output.bytes),
        }
        drop(state);
        self.output_delivered(output.bytes.len() as u64);
        Ok(true)
    }

    pub(crate) fn take_output(&self) -> Option<CapturedOutput> {
        self.state.lock().captured.as_deref_mut().map(std::mem::take)
    }

    /// Output was handed on.
    pub(crate) fn output_delivered(&self, bytes: u64) {
        self.state.lock().output_under_way -= bytes;
        let _ = self.connection.outbox.push_urgent(ToWorker::OutputCredit(self.id, bytes).encode());
    }

    /// Whether it has printed something for the sink of its group.
    pub(crate) fn had_output(&self) -> bool {
        let state = self.state.lock();
        state.had_output && state.captured.is_none()
    }

    /// The peer closed a channel that is not an execution's. Returns whether both sides have closed it now; if not, the
    /// close of this side is due when somebody claims what is left: messages, or an error to tell.
    pub(crate) fn peer_closed(self: &Arc<Self>, error: Option<String>) -> bool {
        let mut state = self.state.lock();
        let settled = state.closed || state.claimed || (state.queue.is_empty() && error.is_none());
        if settled && !state.closed {
            self.send_close(Close::default());
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

    /// Whether the peer has said its last.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().over
    }

    /// The channel is at its end, though the worker may not know. Only the first outcome counts.
    pub(crate) fn end(self: &Arc<Self>, outcome: Outcome) {
        self.end_locked(&mut self.state.lock(), outcome);
    }

    /// The worker says that the channel is at its end, or is gone.
    pub(crate) fn end_for_good(self: &Arc<Self>, outcome: Outcome) {
        let mut state = self.state.lock();
        state.over = true;
        if let Some(key) = state.watched.take() {
            watch::remove(key);
        }
        self.end_locked(&mut state, outcome);
        self.ended.notify_all();
    }

    /// Ends the channel unless the worker has said its last; false if it has. From here on that comes too late.
    pub(crate) fn end_unless_over(self: &Arc<Self>, outcome: Outcome) -> bool {
        let mut state = self.state.lock();
        if state.over {
            return false;
        }
        self.end_locked(&mut state, outcome);
        true
    }

    /// How long the worker has for what it was told to stop.
    pub(crate) fn patience(&self) -> Duration {
        let grace = self.connection.spec.grace();
        // It will not stop by itself, unless it waits.
        if self.interruptible { grace } else { grace.min(UNCHECKED_PATIENCE) }
    }

    /// The execution begins, as far as the host can tell; said by [`watch::Places`].
    pub(crate) fn set_begun(&self) {
        self.begun.store(true, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Has the host look whether the worker reports the end in time.
    pub(crate) fn watch(self: &Arc<Self>) {
        let Some(wall_time) = self.limits.wall_time else { return };
        let mut state = self.state.lock();
        if !state.over {
            state.watched = watch::add(self, wall_time.saturating_add(self.patience()));
        }
    }

    /// The worker has not reported the end of an execution that is past its wall time.
    pub(crate) fn wall_time_is_over(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.watched = None;
        let unsent = self.connection.outbox.has_unsent(self.id) && !state.was_unsent;
        state.was_unsent |= unsent;
        drop(state);
        if unsent {
            return self.watch();
        }
        let after = self.limits.wall_time.unwrap_or_default();
        if self.end_unless_over(Outcome::TimedOut { after }) {
            let patience = self.patience();
            self.connection.kill_unresponsive(format!(
                "execution {} did not end within {patience:?} after its wall time of {after:?}",
                self.id
            ));
        }
    }

    /// Waits until the worker has nothing more to say; false if that takes longer.
    pub(crate) fn wait_over(&self, deadline: Deadline) -> bool {
        let mut state = self.state.lock();
        while !state.over {
            self.connection.outbox.about_to_wait();
            if deadline.wait(&self.ended, &mut state).is_err() {
                return false;
            }
        }
        true
    }

    fn end_locked(self: &Arc<Self>, state: &mut State, outcome: Outcome) {
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome);
        state.send_closed = true;
        state.assembly = Assembly::default();
        self.count_no_more(state);
        let untold = std::mem::take(&mut state.untold);
        self.notify(state, untold + 1);
        self.readable.notify_all();
        self.writable.notify_all();
        self.ended.notify_all();
    }

    /// Tells the consumer about `count` more messages or the end.
    fn notify(self: &Arc<Self>, state: &State, count: usize) {
        match &state.consumer {
            Consumer::Receive if count > 1 => {
                self.readable.notify_all();
            }
            Consumer::Receive => {
                self.readable.notify_one();
            }
            Consumer::Queue { tokens, index } => tokens.push(*index, count),
            Consumer::Callback(callback) => callback.schedule(self),
            Consumer::Pool(pool) if pool.at_end && state.outcome.is_none() && state.queue.len() == 1 => {}
            Consumer::Pool(PoolConsumer { notes, lane, number, .. }) => {
                let _ = notes.send(Note::Moved { lane: *lane, number: *number });
            }
        }
    }

    // ---- the users' side ----

    /// Sends a message; waits for credit until `deadline`.
    pub(crate) fn send(&self, message: Message, deadline: Deadline) -> Result<(), SendError> {
        let length = message.bytes.len() as u64;
        if length > self.limits.message_bytes {
            return Err(SendError::too_large(message.bytes.len(), &self.limits));
        }
        let mut state = self.state.lock();
        loop {
            match &state.outcome {
                // This side's own close is not told as if the peer had closed it.
                Some(Outcome::Closed) if state.closed => return Err(SendError::Closed),
                Some(outcome) => return Err(SendError::Ended(outcome.clone())),
                None if state.send_closed => return Err(SendError::Closed),
                None => {}
            }
            if state.send_window.try_start(length) {
                break;
            }
            self.connection.outbox.about_to_wait();
            if let Err(after) = deadline.wait(&self.writable, &mut state) {
                return Err(SendError::Timeout(after));
            }
        }
        // If the connection is gone, its end is about to reach this channel and says why; the message is lost with it.
        let _ = self.connection.outbox.push_message(self.id, message);
        Ok(())
    }

    /// Takes the next message; waits for it until `deadline`.
    pub(crate) fn receive(&self, deadline: Deadline) -> Result<Message, ReceiveError> {
        let mut state = self.state.lock();
        loop {
            if !matches!(state.consumer, Consumer::Receive) {
                return Err(ReceiveError::HasConsumer);
            }
            if let Some(message) = state.queue.pop_front() {
                self.give_credit(&mut state, &message);
                return Ok(message);
            }
            if state.closed {
                return Err(ReceiveError::Closed);
            }
            if let Some(outcome) = &state.outcome {
                return Err(ReceiveError::Ended(outcome.clone()));
            }
            self.connection.outbox.about_to_wait();
            if let Err(after) = deadline.wait(&self.readable, &mut state) {
                return Err(ReceiveError::Timeout(after));
            }
        }
    }

    /// The next message or the end for a queue or callback, if there is one.
    pub(crate) fn next_delivery(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        if let Some(message) = state.queue.pop_front() {
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

    /// The consumer is done with the end.
    pub(crate) fn mark_end_delivered(&self) {
        self.end_was_delivered(self.state.lock());
    }

    fn end_was_delivered(&self, mut state: MutexGuard<'_, State>) {
        state.end_delivered = true;
        drop(state);
        self.ended.notify_all();
    }

    fn give_credit(&self, state: &mut State, message: &Message) {
        let length = message.bytes.len() as u64;
        self.uncount(state, cost(length));
        let mut credit = state.receive_window.take(length);
        if state.credit_wanted && credit.is_none() {
            credit = state.receive_window.give_all();
        }
        self.send_credit(state, credit);
    }

    fn send_credit(&self, state: &State, credit: Option<Credit>) {
        if let (Some(credit), None, false) = (credit, &state.outcome, state.closed) {
            let _ = self.connection.outbox.push_urgent(ToWorker::Credit(self.id, credit).encode());
        }
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
        self.writable.notify_all();
    }

    fn send_close(&self, close: Close) {
        let _ = self.connection.outbox.push(ToWorker::Close(self.id, close).encode());
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
        let mut state = self.state.lock();
        if state.handle.strong_count() > 0 {
            return;
        }
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
            self.connection.outbox.about_to_wait();
            if let Err(after) = deadline.wait(&self.ended, &mut state) {
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

    /// Tells a pool what happens to this run, or session, of it.
    pub(crate) fn set_pool(
        self: &Arc<Self>,
        notes: crossbeam_channel::Sender<Note>,
        lane: usize,
        number: u64,
        at_end: bool,
    ) -> Result<(), ConsumerError> {
        self.set_consumer(Consumer::Pool(PoolConsumer { notes, lane, number, at_end }))
    }

    /// Takes the channel out of a queue that was not made after all.
    pub(crate) fn unset_queue(&self) {
        self.state.lock().consumer = Consumer::Receive;
        self.readable.notify_all();
    }

    fn set_consumer(self: &Arc<Self>, consumer: Consumer) -> Result<(), ConsumerError> {
        let mut state = self.state.lock();
        if !matches!(state.consumer, Consumer::Receive) {
            return Err(ConsumerError { channel: self.id.0 });
        }
        state.consumer = consumer;
        state.untold = 0;
        let waiting = state.queue.len() + usize::from(state.outcome.is_some());
        if waiting > 0 {
            self.notify(&state, waiting);
        }
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

    /// Takes a channel out of those that nobody has claimed.
    fn release_child(&self, id: ChannelId) {
        let child = self.state.lock().children.remove(&id);
        drop(child);
    }
}

#[cfg(any(test, fuzzing))]
impl Endpoint {
    /// Messages that wait here and their bytes.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.queue.len(), state.queue.iter().map(|message| message.bytes.len() as u64).sum())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(account) = self.account.as_ref().filter(|_| !state.uncounted) {
            account.taken(state.unread);
        }
        if let Some(key) = state.watched.take() {
            watch::remove(key);
        }
        self.connection.dropped(self.id);
        for (_, child) in self.state.get_mut().children.drain() {
            child.close(None, false);
        }
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_ERROR_BYTES);
    text[..end].to_owned()
}
