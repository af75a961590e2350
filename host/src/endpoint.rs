//! The host's end of one channel: its queue, its credits, and how it ended.
//!
//! ```text
//!           arrive ──► queue ──► receive │ receive queue │ callback
//!  open ──┬── peer ends it: outcome ─────────────────────► ended (sticky)
//!         └── closed here: nothing more is kept or sent ─► ended when the worker says so
//! ```
//!
//! Whoever reads the connection puts messages in and never waits ([`arriving`]); users take them out ([`using`]). What the user takes
//! goes back to the worker as credit. Invariant: a message is handed to the outbox while the endpoint is locked, so that
//! nothing is sent after the channel's close.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use sandgate_wire::account::Account;
use sandgate_wire::assembly::Assembly;
use sandgate_wire::flow::{Credit, ReceiveWindow, SendWindow, Window};
use sandgate_wire::message::Close;
use sandgate_wire::messages::Messages;
use sandgate_wire::outbox::CreditFor;
use sandgate_wire::{ChannelId, ChannelMap, Limits, Message, Outcome, ToWorker};

use crate::callback::Callback;
use crate::channel::Handle;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::output::{CapturedOutput, Origin};
use crate::pool::{Note, Told};
use crate::queue::Tokens;
use crate::watch;

mod arriving;
mod using;

pub(crate) use arriving::Refused;

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
    pub(crate) limits: Arc<Limits>,
    /// Whether an execution can be interrupted, or only killed with its worker.
    interruptible: bool,
    /// What this side holds for the execution that the channel belongs to; none for a channel that the host made, where
    /// the window alone is the bound.
    account: Option<Arc<Account>>,
    /// Whether the execution has begun, as the host can tell.
    begun: AtomicBool,
    /// Whether it has printed something for the sink of its group.
    had_output: AtomicBool,
    /// It is a run of a pool, which has it without a handle.
    pub(crate) is_run: bool,
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
    queue: Messages,
    /// Callers that read the connection for what happens here, or have just ceased to.
    leading: usize,
    /// The consumer is told instead of waiting, so that the connection is to be attended.
    beside: bool,
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
    /// How much of what is counted was taken, and is counted until the worker has credit for it, as it is there.
    taken: u64,
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
    /// Output bytes that were handed on, and whether what the limit does not allow was dropped.
    output_bytes: u64,
    output_cut: bool,
    output_truncated: bool,
    /// What was printed, if it is kept for the caller.
    captured: Option<Box<CapturedOutput>>,
    /// What it is of, for one of a pool.
    origin: Option<Origin>,
    /// The user's handle, so that a channel that comes back is the same one.
    handle: Weak<Handle>,
    /// Whether a user ever had a handle.
    claimed: bool,
    /// The peer closed it before anybody claimed it; our close is due when that happens.
    owes_close: bool,
    /// Channels that this execution made and nobody has claimed yet.
    children: ChannelMap<Arc<Endpoint>>,
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
#[derive(Debug, Clone)]
pub(crate) struct PoolConsumer {
    pub(crate) told: Arc<Told>,
    pub(crate) lane: usize,
    pub(crate) number: u64,
    /// Whether the first message is not told of, since the end follows it.
    pub(crate) at_end: bool,
}

/// What an endpoint that this side makes has from its beginning, before anything can happen to it.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) role: Role,
    pub(crate) limits: Arc<Limits>,
    pub(crate) interruptible: bool,
    /// The pool whose run it is. Its connection was told of [one more](crate::reading::Reading::add_one_beside) that is told.
    pub(crate) run_of: Option<PoolConsumer>,
    /// What its output is told to be of.
    pub(crate) origin: Option<Origin>,
    /// Its output is kept.
    pub(crate) captures: bool,
}

/// What a consumer gets.
#[derive(Debug)]
pub(crate) enum Delivery {
    Message(Message),
    End(Outcome),
}

impl Start {
    /// A channel that belongs to no execution, or that a guest made.
    pub(crate) fn plain(limits: impl Into<Arc<Limits>>) -> Start {
        let limits = limits.into();
        Start { role: Role::Plain, limits, interruptible: true, run_of: None, origin: None, captures: false }
    }

    /// What is held for an execution, in the place of an account that is used up.
    fn account(&self, used_up: Option<Arc<Account>>) -> Option<Arc<Account>> {
        if self.role == Role::Plain {
            return None;
        }
        let account = Account::new(self.limits.memory_bytes);
        let mut used_up = used_up;
        match used_up.as_mut().and_then(Arc::get_mut) {
            Some(place) => *place = account,
            None => used_up = Some(Arc::new(account)),
        }
        used_up
    }
}

impl Endpoint {
    /// The end of a channel that this side made. It takes the place of one that is used up, if nobody else has that. The
    /// table is locked: what is dropped by it is a run without children, which looks into no table and closes nothing.
    pub(crate) fn new(
        id: ChannelId,
        connection: Arc<Connection>,
        start: Start,
        used_up: Option<Arc<Endpoint>>,
    ) -> Arc<Endpoint> {
        if let Some(mut used_up) = used_up
            && let Some(place) = Arc::get_mut(&mut used_up)
        {
            let account = start.account(place.account.take());
            *place = Endpoint::with_parent(id, connection, start, account, Weak::new());
            return used_up;
        }
        let account = start.account(None);
        Arc::new(Endpoint::with_parent(id, connection, start, account, Weak::new()))
    }

    /// The end of a channel that a guest made. It is the parent's until somebody claims it.
    pub(crate) fn of_guest(id: ChannelId, parent: &Arc<Endpoint>) -> Arc<Endpoint> {
        let (connection, limits) = (Arc::clone(&parent.connection), Arc::clone(&parent.limits));
        let account = parent.account.clone();
        let start = Start::plain(limits);
        let child = Arc::new(Endpoint::with_parent(id, connection, start, account, Arc::downgrade(parent)));
        parent.state.lock().children.insert(id, Arc::clone(&child));
        child
    }

    fn with_parent(
        id: ChannelId,
        connection: Arc<Connection>,
        start: Start,
        account: Option<Arc<Account>>,
        parent: Weak<Endpoint>,
    ) -> Endpoint {
        let Start { role, limits, interruptible, run_of, origin, captures } = start;
        let window = Window::from(&*limits);
        let is_run = run_of.is_some();
        let state = State {
            receive_window: ReceiveWindow::new(window),
            send_window: SendWindow::new(window),
            beside: is_run,
            consumer: run_of.map_or(Consumer::Receive, Consumer::Pool),
            origin,
            captured: captures.then(Box::default),
            ..State::default()
        };
        Endpoint {
            id,
            connection,
            role,
            limits,
            interruptible,
            account,
            begun: AtomicBool::new(false),
            had_output: AtomicBool::new(false),
            is_run,
            parent,
            state: Mutex::new(state),
            readable: Condvar::new(),
            writable: Condvar::new(),
            ended: Condvar::new(),
        }
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
        self.wake_leader(&state);
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
            if self.wait(&self.ended, &mut state, deadline).is_err() {
                return false;
            }
        }
        true
    }

    /// Waits once for something that only the worker can bring; an error is the timeout that has passed. The caller reads
    /// the connection itself if nobody else does.
    fn wait(&self, condition: &Condvar, state: &mut MutexGuard<'_, State>, deadline: Deadline) -> Result<(), Duration> {
        self.connection.outbox.about_to_wait();
        let reading = &self.connection.reading;
        if !deadline.is_over()
            && let Some(lead) = reading.try_lead(&self.connection)
        {
            state.leading += 1;
            MutexGuard::unlocked(state, || lead.run(deadline));
            state.leading -= 1;
            return Ok(());
        }
        let _beside = reading.beside();
        deadline.wait(condition, state)
    }

    /// Something has changed that a caller may wait for.
    fn wake_leader(&self, state: &State) {
        if state.leading > 0 {
            self.connection.reading.raise();
        }
    }

    /// The consumer is told instead of waiting, or no more.
    fn set_beside(&self, state: &mut State, beside: bool) {
        match (std::mem::replace(&mut state.beside, beside), beside) {
            (false, true) => self.connection.reading.add_one_beside(),
            (true, false) => self.connection.reading.end_beside(),
            _ => {}
        }
    }

    fn end_locked(self: &Arc<Self>, state: &mut State, outcome: Outcome) {
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome);
        state.send_closed = true;
        state.assembly = Assembly::default();
        self.count_no_more(state);
        self.notify(state, 1);
        self.set_beside(state, false);
        self.wake_leader(state);
        self.readable.notify_all();
        self.writable.notify_all();
        self.ended.notify_all();
    }

    /// Tells the consumer about `count` more messages or the end.
    fn notify(self: &Arc<Self>, state: &State, count: usize) {
        self.wake_leader(state);
        match &state.consumer {
            Consumer::Receive if count > 1 => {
                self.readable.notify_all();
            }
            Consumer::Receive => {
                self.readable.notify_one();
            }
            Consumer::Queue { tokens, index } => tokens.push(*index, count),
            Consumer::Callback(callback) => callback.schedule(self),
            Consumer::Pool(pool) if pool.at_end && state.first_can_wait() => {}
            Consumer::Pool(PoolConsumer { told, lane, number, .. }) => {
                told.tell(Note::Moved { lane: *lane, number: *number });
            }
        }
    }

    fn send_credit(&self, state: &mut State, credit: Option<Credit>) {
        if credit.is_some() {
            let taken = std::mem::take(&mut state.taken);
            self.uncount(state, taken);
        }
        if let (Some(credit), None, false) = (credit, &state.outcome, state.closed) {
            let _ = self.connection.outbox.push_credit(CreditFor::Messages(self.id), credit);
        }
    }

    fn send_close(&self, close: Close) {
        let _ = self.connection.outbox.push(ToWorker::Close(self.id, close).encode());
    }

    /// Takes a channel out of those that nobody has claimed.
    fn release_child(&self, id: ChannelId) {
        let child = self.state.lock().children.remove(&id);
        drop(child);
    }
}

impl State {
    /// Whether there is nothing but a first message, without which the peer can go on: it has half of the window left, which is
    /// enough for any other.
    fn first_can_wait(&self) -> bool {
        let bytes = || self.queue.lengths().map(|length| length as u64).sum();
        let is_one = self.outcome.is_none() && self.queue.len() == 1;
        is_one && !self.receive_window.is_enough(Credit { bytes: bytes(), messages: 1 })
    }
}

#[cfg(any(test, fuzzing))]
impl Endpoint {
    /// Messages that wait here and their bytes.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.queue.len(), state.queue.lengths().map(|length| length as u64).sum())
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
        if state.beside {
            self.connection.reading.end_beside();
        }
        if !self.is_run {
            self.connection.dropped(self.id);
        }
        for (_, child) in self.state.get_mut().children.drain() {
            child.close(None, false);
        }
    }
}
