//! What whoever reads and the executors share: every channel, every execution, and the queue of those that wait.
//!
//! All of it stands behind one mutex, so that nothing has to be said about the order of locks. It is held for a few map
//! operations at a time; guest memory is copied, but for a small message that lands there, and messages are written
//! outside of it. What has to go out in the order in which it was decided is placed in the outbox under the lock, and
//! written after it ([`lock`]).

use std::sync::Arc;

use sandgate_wire::account::{Account, cost};
use sandgate_wire::assembly::{Assembly, AssemblyError, Chunk};
use sandgate_wire::flow::{Credit, FlowError, Window};
use sandgate_wire::limits::{LimitName, MAX_CONNECTION_CHANNELS, MAX_GUEST_CHANNELS, OUTPUT_WINDOW_BYTES};
use sandgate_wire::message::{Close, Execute, WorkerStatus};
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{ChannelId, ChannelMap, Limits, Message, Outbox, Outcome, Side, ToHost};

use crate::channel::{Endpoint, Kind, Peer};
use crate::execution::{Execution, Stop};
use crate::reading::{self, Waiters};

mod latest;
mod lock;
mod messages;
mod references;
mod seen;
mod waiting;

use latest::Latest;
pub(crate) use lock::{HubGuard, SharedHub};
use seen::Seen;
use waiting::{Queue, Waiting};

/// The host sent something that the rules do not allow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error("unexpected message: {0}")]
    Unexpected(&'static str),
    #[error("channel {0} was used before it was opened")]
    NeverSeen(ChannelId),
    #[error("channel {0} was opened twice, or by the wrong side")]
    Reused(ChannelId),
    #[error("more than {MAX_CONNECTION_CHANNELS} channels are open")]
    TooManyChannels,
    #[error("arguments of execution {0} are not what it announces")]
    Arguments(ChannelId),
    #[error("message on channel {channel}")]
    Message {
        channel: ChannelId,
        #[source]
        source: AssemblyError,
    },
    #[error("credit on channel {channel}")]
    Credit {
        channel: ChannelId,
        #[source]
        source: FlowError,
    },
}

/// An execution that begins.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) execution: Arc<Execution>,
    pub(crate) execute: Arc<Execute>,
    pub(crate) arguments: Option<Message>,
}

#[derive(Debug)]
pub(crate) struct Hub {
    outbox: Arc<Outbox>,
    /// Something is placed in the outbox, and is to be written once the lock is free.
    placed: bool,
    /// Largest message and window of channels that the host makes.
    given: (u64, Window),
    pub(crate) channels: ChannelMap<Endpoint>,
    seen: Seen,
    next_channel: ChannelId,
    /// Channels that guests made and that are not forgotten yet.
    made: usize,
    /// Those that are whole and came last, for the execution that mostly comes next.
    latest_arguments: Option<(ChannelId, Message)>,
    /// All others, some of them in parts.
    arguments: ChannelMap<Arguments>,
    early_kills: ChannelMap<KilledBy>,
    pub(crate) queue: Queue,
    pub(crate) latest: Latest,
    running: ChannelMap<Running>,
    /// Who reads the connection.
    pub(crate) reading: reading::State,
    pub(crate) waiters: Arc<Waiters>,
    finished: u64,
    /// Executions that have ended and whose outcome is not sent yet.
    ending: usize,
    /// Threads that run guests, and how many of them wait for work.
    pub(crate) executors: usize,
    pub(crate) idle_executors: usize,
    terminating: bool,
    /// The worker ends: executors return.
    pub(crate) closed: bool,
}

#[derive(Debug)]
struct Running {
    execution: Arc<Execution>,
    output_credit: u64,
}

#[derive(Debug)]
enum Arguments {
    InParts(Assembly),
    Whole(Message),
}

impl Hub {
    /// A hub of a gateway with these limits.
    pub(crate) fn new(outbox: Arc<Outbox>, limits: &Limits) -> Hub {
        Hub {
            outbox,
            placed: false,
            given: (limits.message_bytes, limits.into()),
            channels: ChannelMap::default(),
            seen: Seen::default(),
            next_channel: ChannelId::first(Side::Worker),
            made: 0,
            latest_arguments: None,
            arguments: ChannelMap::default(),
            early_kills: ChannelMap::default(),
            queue: Queue::default(),
            latest: Latest::default(),
            running: ChannelMap::default(),
            reading: reading::State::default(),
            waiters: Arc::default(),
            finished: 0,
            ending: 0,
            executors: 0,
            idle_executors: 0,
            terminating: false,
            closed: false,
        }
    }

    pub(crate) fn status(&self) -> WorkerStatus {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        WorkerStatus {
            running: count(self.running.len()),
            queued: count(self.queue.len()),
            channels: count(self.channels.len() + self.queue.bare()),
            finished: self.finished,
        }
    }

    /// Whether the host asked for the end.
    pub(crate) fn is_terminating(&self) -> bool {
        self.terminating
    }

    /// Whether it did and all is done.
    pub(crate) fn is_done(&self) -> bool {
        self.terminating && self.queue.is_empty() && self.running.is_empty() && self.ending == 0
    }

    // ---- what the host sends -------------------------------------------------------------------------------------

    pub(crate) fn open(&mut self, channel: ChannelId) -> Result<(), Violation> {
        self.first_use(channel)?;
        let endpoint = Endpoint::new(Kind::Given, self.given.0, self.given.1, self.first_peer());
        self.channels.insert(channel, endpoint);
        Ok(())
    }

    pub(crate) fn arguments(&mut self, channel: ChannelId, chunk: Chunk<'_>) -> Result<(), Violation> {
        if channel.side() != Side::Host || self.seen.contains(channel) {
            return Err(Violation::Reused(channel));
        }
        if self.arguments.len() >= MAX_CONNECTION_CHANNELS {
            return Err(Violation::TooManyChannels);
        }
        let are_here = self.latest_arguments.as_ref().is_some_and(|(latest, _)| *latest == channel);
        let mut assembly = match self.arguments.remove(&channel) {
            None if !are_here => Assembly::default(),
            Some(Arguments::InParts(assembly)) => assembly,
            Some(Arguments::Whole(_)) | None => return Err(Violation::Arguments(channel)),
        };
        // Its limits come with the execution; the host has checked them.
        let message = assembly.push(chunk, u64::MAX, None).map_err(|source| Violation::Message { channel, source })?;
        let Some(message) = message else {
            self.arguments.insert(channel, Arguments::InParts(assembly));
            return Ok(());
        };
        for attached in &message.channels {
            self.refer(*attached)?;
        }
        if let Some((before, message)) = self.latest_arguments.replace((channel, message)) {
            self.arguments.insert(before, Arguments::Whole(message));
        }
        Ok(())
    }

    /// What has arrived for an execution that comes now.
    fn take_arguments(&mut self, channel: ChannelId) -> Option<Arguments> {
        match self.latest_arguments.take_if(|(latest, _)| *latest == channel) {
            Some((_, message)) => Some(Arguments::Whole(message)),
            None => self.arguments.remove(&channel),
        }
    }

    /// Queues an execution. False if it has already ended.
    pub(crate) fn execute(&mut self, channel: ChannelId, execute: Arc<Execute>) -> Result<bool, Violation> {
        self.first_use(channel)?;
        let arguments = match (execute.has_arguments, self.take_arguments(channel)) {
            (true, Some(Arguments::Whole(message))) => Some(message),
            (false, None) => None,
            _ => return Err(Violation::Arguments(channel)),
        };
        let early_kill = self.early_kills.remove(&channel);
        let (message_bytes, memory_bytes) = (execute.limits.message_bytes, execute.limits.memory_bytes);
        let too_large = arguments.as_ref().is_some_and(|message| message.bytes.len() as u64 > message_bytes);
        let fits = Account::new(memory_bytes).arrived(held(arguments.as_ref()));
        let waiting = Waiting { id: channel, execute, arguments, execution: None };
        let outcome = if let Some(by) = early_kill {
            Outcome::Killed { by, started: false }
        } else if self.terminating {
            killed_by_termination()
        } else if too_large {
            Outcome::LimitExceeded { limit: LimitName::Message, value: message_bytes }
        } else if !fits {
            Outcome::LimitExceeded { limit: LimitName::Memory, value: memory_bytes }
        } else {
            self.queue.push(waiting);
            return Ok(true);
        };
        self.finish_unstarted(waiting, &outcome);
        Ok(false)
    }

    /// Makes the channel of an execution that waits, since something has arrived for it. False if it has one, or does not wait.
    fn give_channel(&mut self, channel: ChannelId) -> bool {
        let waiters = &self.waiters;
        let Some(execution) = self.queue.give_channel(channel, |waiting| new_execution(waiting, waiters)) else {
            return false;
        };
        let endpoint = self.own_channel(&execution);
        self.channels.insert(channel, endpoint);
        true
    }

    /// The channel of an execution.
    fn own_channel(&self, execution: &Arc<Execution>) -> Endpoint {
        let limits = &execution.limits;
        let mut endpoint = Endpoint::new(Kind::Own, limits.message_bytes, limits.into(), self.first_peer());
        endpoint.references = 1;
        // There is nothing to pay for yet.
        let _ = endpoint.pay(Some(Arc::clone(execution)));
        endpoint
    }

    pub(crate) fn credit(&mut self, channel: ChannelId, credit: Credit) -> Result<(), Violation> {
        let Some(endpoint) = self.channels.get_mut(&channel) else {
            return if self.give_channel(channel) { self.credit(channel, credit) } else { self.late(channel) };
        };
        endpoint.credit(credit).map_err(|source| Violation::Credit { channel, source })?;
        endpoint.wake();
        Ok(())
    }

    pub(crate) fn output_credit(&mut self, channel: ChannelId, bytes: u64) -> Result<(), Violation> {
        let Some(running) = self.running.get_mut(&channel) else {
            return self.late(channel);
        };
        let credit = running.output_credit.saturating_add(bytes);
        if credit > OUTPUT_WINDOW_BYTES {
            let source = FlowError::Surplus;
            return Err(Violation::Credit { channel, source });
        }
        running.output_credit = credit;
        running.execution.account.taken(bytes);
        running.execution.waker.wake();
        Ok(())
    }

    pub(crate) fn close(&mut self, channel: ChannelId, close: Close) -> Result<(), Violation> {
        let Some(endpoint) = self.channels.get_mut(&channel) else {
            return if self.give_channel(channel) { self.close(channel, close) } else { self.late(channel) };
        };
        let says = if close.sending_only { Peer::Quiet } else { Peer::Closed };
        if endpoint.peer < Peer::Closed && endpoint.error.is_none() {
            endpoint.error = close.error;
        }
        endpoint.peer = endpoint.peer.max(says);
        if endpoint.peer == Peer::Closed {
            endpoint.nobody_takes();
        }
        endpoint.wake();
        self.tidy_up(channel);
        Ok(())
    }

    /// Ends an execution that has not begun; one that runs is returned and is to be stopped, unless it was only to be
    /// taken back before it begins.
    pub(crate) fn kill(&mut self, channel: ChannelId, by: KilledBy) -> Result<Option<Arc<Execution>>, Violation> {
        if let Some(running) = self.running.get(&channel) {
            return Ok((by != KilledBy::Recall).then(|| Arc::clone(&running.execution)));
        }
        if let Some(waiting) = self.queue.remove(channel) {
            self.finish_unstarted(waiting, &Outcome::Killed { by, started: false });
        } else if channel.side() == Side::Host && !self.seen.contains(channel) {
            // Kills overtake what they kill.
            if self.early_kills.len() >= MAX_CONNECTION_CHANNELS {
                return Err(Violation::TooManyChannels);
            }
            self.early_kills.entry(channel).or_insert(by);
        }
        Ok(None)
    }

    /// Ends what the host sends, everywhere. With `kill`, also ends what has not begun and returns what runs.
    pub(crate) fn terminate(&mut self, kill: bool) -> Vec<Arc<Execution>> {
        self.terminating = true;
        for endpoint in self.channels.values_mut() {
            endpoint.peer = endpoint.peer.max(Peer::Quiet);
            endpoint.wake();
        }
        if !kill {
            return Vec::new();
        }
        while let Some(waiting) = self.queue.pop() {
            self.finish_unstarted(waiting, &killed_by_termination());
        }
        self.running_executions()
    }

    /// Whether no execution runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn running_executions(&self) -> Vec<Arc<Execution>> {
        self.running.values().map(|running| Arc::clone(&running.execution)).collect()
    }

    // ---- what executors do ---------------------------------------------------------------------------------------

    /// Takes the next execution from the queue.
    pub(crate) fn start(&mut self) -> Option<Job> {
        let mut waiting = self.queue.pop()?;
        let id = waiting.id;
        let execution = match waiting.execution.take() {
            Some(execution) => {
                self.hold(id, &execution);
                execution
            }
            None => {
                let execution = new_execution(&waiting, &self.waiters);
                let mut endpoint = self.own_channel(&execution);
                endpoint.holders.push(Arc::clone(&execution));
                self.channels.insert(id, endpoint);
                execution
            }
        };
        let Waiting { execute, arguments, .. } = waiting;
        let running = Running { execution: Arc::clone(&execution), output_credit: OUTPUT_WINDOW_BYTES };
        self.running.insert(id, running);
        Some(Job { execution, execute, arguments })
    }

    /// Takes an execution that has no channel and that nothing of the host's reaches.
    pub(crate) fn run_alone(&mut self, execution: &Arc<Execution>) {
        let running = Running { execution: Arc::clone(execution), output_credit: OUTPUT_WINDOW_BYTES };
        self.running.insert(execution.id, running);
    }

    /// An execution that ran has ended, and its own channel is gone from here on. Its outcome can be sent.
    pub(crate) fn end(&mut self, channel: ChannelId) {
        self.end_channel(channel);
        self.running.remove(&channel);
        self.finished += 1;
        self.ending += 1;
    }

    /// The outcome was sent.
    pub(crate) fn outcome_sent(&mut self) {
        self.ending -= 1;
    }

    fn end_channel(&mut self, channel: ChannelId) {
        if let Some(mut endpoint) = self.channels.remove(&channel) {
            endpoint.nobody_takes();
            for attached in endpoint.abandon() {
                self.unrefer(attached);
            }
        }
    }

    /// Takes credit for up to `wanted` bytes of output.
    pub(crate) fn take_output_credit(&mut self, channel: ChannelId, wanted: u64) -> Option<u64> {
        let running = self.running.get_mut(&channel)?;
        let taken = running.output_credit.min(wanted);
        running.output_credit -= taken;
        // The window bounds it, and the account leaves that much out: nobody waits for it here.
        let _ = running.execution.account.sent(taken);
        (taken > 0).then_some(taken)
    }

    /// A new channel of a guest's, with one handle; none if all guests together have as many as they may. The caller has
    /// checked the guest's own limit.
    pub(crate) fn make(&mut self, maker: &Arc<Execution>) -> Option<ChannelId> {
        if self.made >= MAX_GUEST_CHANNELS {
            return None;
        }
        self.made += 1;
        let channel = self.next_channel;
        self.next_channel = channel.next();
        maker.made(1);
        let kind = Kind::Made(Arc::clone(maker));
        let mut endpoint = Endpoint::new(kind, maker.limits.message_bytes, (&maker.limits).into(), self.first_peer());
        // There is nothing to pay for yet.
        let _ = endpoint.pay(Some(Arc::clone(maker)));
        endpoint.references = 1;
        endpoint.holders.push(Arc::clone(maker));
        self.channels.insert(channel, endpoint);
        // Under the lock, for the host is to see the ids rise; and before all that is queued, for the host is to know the
        // channel before anything names it.
        self.place_urgent(&ToHost::Open { channel, parent: maker.id });
        Some(channel)
    }

    /// A reference becomes a handle of `holder`.
    pub(crate) fn hold(&mut self, channel: ChannelId, holder: &Arc<Execution>) {
        if let Some(endpoint) = self.channels.get_mut(&channel) {
            if endpoint.broken {
                // Nobody was there to be stopped when the message came. The holder looks before it waits or runs on.
                holder.set_stop(Stop::Limit(LimitName::Message));
            }
            endpoint.holders.push(Arc::clone(holder));
            if let Some(Running { execution, .. }) = self.running.get(&channel).filter(|_| endpoint.is_own()) {
                endpoint.empty(&mut execution.pocket.lock(), &execution.account);
            }
            if !endpoint.has_payer() && endpoint.pay(Some(Arc::clone(holder))) {
                holder.set_stop(Stop::Limit(LimitName::Memory));
            }
        }
    }

    /// Asks the host for the credits of all that `execution` has sent, whose memory is full of it.
    pub(crate) fn want_credit(&mut self, execution: &Arc<Execution>) {
        let asked = self.channels.iter_mut().filter(|(_, it)| !it.credit_wanted && it.holds_of(execution));
        for (channel, endpoint) in asked {
            endpoint.credit_wanted = true;
            self.placed |= self.outbox.place_urgent(ToHost::CreditWanted(*channel).encode()).is_ok();
        }
    }

    /// A handle of `holder` is given back.
    pub(crate) fn drop_handle(&mut self, channel: ChannelId, holder: &Arc<Execution>) {
        if let Some(endpoint) = self.channels.get_mut(&channel) {
            let position = endpoint.holders.iter().position(|it| Arc::ptr_eq(it, holder));
            if let Some(position) = position {
                endpoint.holders.swap_remove(position);
            }
            let holds = endpoint.holders.iter().any(|it| Arc::ptr_eq(it, holder));
            if !holds && endpoint.is_paid_by(holder) {
                let next = endpoint.holders.first().cloned();
                if endpoint.pay(next.clone())
                    && let Some(next) = next
                {
                    // It sees that with its next step, or when the clock reminds it.
                    next.set_stop(Stop::Limit(LimitName::Memory));
                    next.waker.wake();
                }
            }
        }
        self.unrefer(channel);
    }

    /// A guest closes a channel for both sides.
    pub(crate) fn close_by_guest(&mut self, channel: ChannelId, close: Close) {
        self.send_close(channel, close);
        self.tidy_up(channel);
    }

    /// A guest does not send the message it took credits for.
    pub(crate) fn not_sent(&mut self, channel: ChannelId, sender: &Arc<Execution>, length: u64) {
        if let Some(endpoint) = self.channels.get_mut(&channel) {
            endpoint.not_sent(sender, length);
        }
    }

    // ---- ids -----------------------------------------------------------------------------------------------------

    fn first_peer(&self) -> Peer {
        if self.terminating { Peer::Quiet } else { Peer::Open }
    }

    fn first_use(&mut self, channel: ChannelId) -> Result<(), Violation> {
        if channel.side() != Side::Host || !self.seen.insert(channel) {
            return Err(Violation::Reused(channel));
        }
        if self.channels.len() + self.queue.bare() - self.made >= MAX_CONNECTION_CHANNELS {
            return Err(Violation::TooManyChannels);
        }
        Ok(())
    }

    /// A frame for a channel that is not here is normal if the channel was, and a violation if it never was.
    fn late(&self, channel: ChannelId) -> Result<(), Violation> {
        let was_here = match channel.side() {
            Side::Host => self.seen.contains(channel),
            Side::Worker => channel != ChannelId::CONNECTION && channel < self.next_channel,
        };
        if was_here { Ok(()) } else { Err(Violation::NeverSeen(channel)) }
    }

    fn finish_unstarted(&mut self, waiting: Waiting, outcome: &Outcome) {
        let channel = waiting.id;
        if let Some(arguments) = waiting.arguments {
            self.unrefer_all(arguments.channels);
        }
        self.end_channel(channel);
        self.finished += 1;
        self.place(&ToHost::Done(channel, outcome.clone()));
    }

    // ---- what is sent --------------------------------------------------------------------------------------------

    // The connection may be gone; then nobody waits for any of this.

    fn place(&mut self, message: &ToHost<'_>) {
        self.placed |= self.outbox.place(message.encode()).is_ok();
    }

    fn place_urgent(&mut self, message: &ToHost<'_>) {
        self.placed |= self.outbox.place_urgent(message.encode()).is_ok();
    }
}

/// What arguments take of a guest's memory.
fn held(arguments: Option<&Message>) -> u64 {
    arguments.map_or(0, |message| cost(message.bytes.len() as u64))
}

fn new_execution(waiting: &Waiting, waiters: &Arc<Waiters>) -> Arc<Execution> {
    let execution = Execution::new(waiting.id, waiting.execute.limits.clone(), waiters);
    // That they fit was found when they came.
    let _ = execution.account.arrived(held(waiting.arguments.as_ref()));
    Arc::new(execution)
}

fn killed_by_termination() -> Outcome {
    Outcome::Killed { by: KilledBy::Terminate, started: false }
}
