//! The worker's end of one channel: credits both ways, what has arrived, and how far it has ended.
//!
//! ```text
//!  peer:   Open ──sending only──► Quiet ──full close──► Closed        what the host said
//!  self:   Open ────────────────────────full close────► close_sent    what we said
//! ```
//!
//! A channel that is not an execution's own is forgotten once both sides said a full close and nothing refers to it. What
//! refers to it are handles of instances and messages that wait to be received.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use sandgate_wire::account::{MESSAGE_OVERHEAD_BYTES, cost};
use sandgate_wire::assembly::{Assembly, AssemblyError, Chunk, SEVERAL};
use sandgate_wire::flow::{Credit, FlowError, ReceiveWindow, SendWindow, Window};
use sandgate_wire::message::Close;
use sandgate_wire::messages::{MAX_SMALL_BYTES, Messages, Together};
use sandgate_wire::{ChannelId, Message};
use smallvec::SmallVec;

use crate::execution::Execution;

mod landing;
mod pocket;

pub(crate) use landing::{Landed, Landing};
pub(crate) use pocket::Pocket;

/// What the host still does on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// It sends and receives.
    Open,
    /// It sends nothing more.
    Quiet,
    /// It neither sends nor receives.
    Closed,
}

/// What kind of channel an endpoint belongs to.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An execution's own: it ends with the execution, never with a close of ours.
    Own,
    /// Made by a guest, and counted against the limit of its execution.
    Made(Arc<Execution>),
    /// Made by the host.
    Given,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) kind: Kind,
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
    pub(crate) assembly: Assembly,
    /// Largest message that either side may send.
    pub(crate) message_bytes: u64,
    /// What was sent and not taken, messages alike together.
    sent: VecDeque<Sent>,
    /// The host was asked to give credits back at once.
    pub(crate) credit_wanted: bool,
    /// Who pays for what has arrived: the first who could receive it.
    payer: Option<Arc<Execution>>,
    /// What has arrived and was not received, the message in parts included.
    unread: u64,
    in_parts: u64,
    /// How much of it was received all the same, and is not counted as that yet.
    taken: u64,
    pub(crate) messages: Messages,
    landing: Landing,
    pub(crate) peer: Peer,
    pub(crate) error: Option<String>,
    pub(crate) close_sent: bool,
    /// Whether a guest ever sent a message.
    has_sent: bool,
    /// It was closed before a guest sent anything, so that the host answers at once.
    pub(crate) closed_unused: bool,
    /// What arrives is dropped: its sender broke a limit, and whoever listened is being stopped.
    pub(crate) broken: bool,
    /// Guests that have taken credits and not yet queued their message; a close waits for them.
    pub(crate) sending: usize,
    pub(crate) close_waiting: Option<Close>,
    /// Handles and waiting messages that name this channel.
    pub(crate) references: usize,
    /// One for each handle, to be woken when something happens.
    pub(crate) holders: SmallVec<[Arc<Execution>; 1]>,
}

/// What a few chunks take of somebody's memory, and what is not taken any more.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    more: u64,
    less: u64,
    /// There are parts of a message among them.
    parts: bool,
    /// There is something before the next chunk.
    follows: bool,
    /// Those that follow it.
    small: Together,
}

/// Messages that follow each other.
#[derive(Debug)]
struct Sent {
    by: Arc<Execution>,
    /// What each costs.
    cost: u64,
    count: usize,
}

/// How a channel stands for a guest that wants to receive and finds no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Closed,
    WithError,
}

/// What became of the wish to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// All that is needed was taken.
    Started,
    /// Nobody can send any more.
    Closed,
    /// The channel takes so many bytes.
    TooLarge(u64),
    /// The window is full.
    NoCredit,
    /// The sender's memory is full of what it sent before.
    NoRoom,
    /// It would be full even without that.
    Never,
}

impl Endpoint {
    pub(crate) fn new(kind: Kind, message_bytes: u64, window: Window, peer: Peer) -> Endpoint {
        Endpoint {
            kind,
            send: SendWindow::new(window),
            receive: ReceiveWindow::new(window),
            assembly: Assembly::default(),
            message_bytes,
            sent: VecDeque::new(),
            credit_wanted: false,
            payer: None,
            unread: 0,
            in_parts: 0,
            taken: 0,
            messages: Messages::default(),
            landing: Landing::default(),
            peer,
            error: None,
            close_sent: false,
            has_sent: false,
            closed_unused: false,
            broken: false,
            sending: 0,
            close_waiting: None,
            references: 0,
            holders: SmallVec::new(),
        }
    }

    /// Our close is decided. The host answers it at once if there is nothing to be received before.
    pub(crate) fn close(&mut self, close: &Close) {
        self.close_sent = true;
        self.wake();
        if let Kind::Made(maker) = &self.kind
            && !self.has_sent
            && close.error.is_none()
            && self.peer < Peer::Closed
        {
            self.closed_unused = true;
            maker.closed_unused(1);
        }
    }

    pub(crate) fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Own)
    }

    /// Whether a guest can still send.
    pub(crate) fn can_send(&self) -> bool {
        self.peer < Peer::Closed && !self.close_sent
    }

    /// What a guest gets instead of a message once all were taken; `None` while more may come.
    pub(crate) fn ended(&self) -> Option<Ended> {
        if self.error.is_some() {
            return Some(Ended::WithError);
        }
        (self.peer > Peer::Open || self.close_sent).then_some(Ended::Closed)
    }

    /// Whether a guest that receives would not wait.
    pub(crate) fn is_ready(&self) -> bool {
        !self.messages.is_empty() || self.ended().is_some()
    }

    /// A message to be received. Who waits for one is woken, unless that has happened for one that nobody has taken yet.
    pub(crate) fn put(&mut self, message: Message) {
        self.messages.push(message);
        if self.messages.len() == 1 {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        for holder in &self.holders {
            holder.waker.wake();
        }
    }

    /// The channels that what has arrived refers to, when it will not be received any more.
    pub(crate) fn abandon(&mut self) -> Vec<ChannelId> {
        let mut channels = std::mem::take(&mut self.assembly).into_channels();
        channels.extend(self.messages.take_channels());
        (self.in_parts, self.taken) = (0, 0);
        self.received(self.unread);
        channels
    }

    // ---- memory --------------------------------------------------------------------------------------------------

    /// Takes a chunk, and returns the message that is whole by it, unless that has a place already. What it takes is added to
    /// `arrived`, and is to be [counted](Self::count).
    pub(crate) fn arrive(&mut self, chunk: Chunk<'_>, arrived: &mut Arrived) -> Result<Option<Message>, AssemblyError> {
        if self.broken {
            return Ok(None);
        }
        if chunk.flags == SEVERAL {
            let (count, bytes) = self.assembly.several(chunk.payload, self.message_bytes, &mut self.receive)?;
            if !self.close_sent {
                arrived.more += bytes + MESSAGE_OVERHEAD_BYTES * count as u64;
                if arrived.small.are_enough() {
                    self.share(arrived);
                }
                arrived.small.extend(chunk.payload, count);
            }
            return Ok(None);
        }
        if arrived.follows
            && chunk.payload.len() <= MAX_SMALL_BYTES
            && let Some(bytes) = self.assembly.whole(chunk, self.message_bytes, &mut self.receive)?
        {
            if !self.close_sent {
                arrived.more += cost(bytes.len() as u64);
                if arrived.small.are_enough() {
                    self.share(arrived);
                }
                arrived.small.push(bytes);
            }
            return Ok(None);
        }
        self.share(arrived);
        arrived.follows = true;
        let message = self.assembly.push(chunk, self.message_bytes, Some(&mut self.receive))?;
        match &message {
            None => {
                self.in_parts += chunk.payload.len() as u64;
                arrived.more += chunk.payload.len() as u64;
                arrived.parts = true;
            }
            Some(message) => {
                arrived.less += mem::take(&mut self.in_parts);
                // Nobody receives what comes after our own close.
                arrived.more += if self.close_sent { 0 } else { cost(message.bytes.len() as u64) };
            }
        }
        Ok(message)
    }

    /// Puts what has arrived together to be received, as [`put`](Self::put) does.
    fn share(&mut self, arrived: &mut Arrived) {
        let is_first = self.messages.is_empty() && !arrived.small.is_empty();
        arrived.small.share(&mut self.messages);
        if is_first {
            self.wake();
        }
    }

    /// Counts what has arrived, and says who is over its limit now. Who takes messages as they come is woken for parts of them.
    #[must_use = "it is to be stopped"]
    pub(crate) fn count(&mut self, mut arrived: Arrived) -> Option<Arc<Execution>> {
        self.share(&mut arrived);
        if arrived.parts && self.wants_parts() {
            self.wake();
        }
        let more = arrived.more.saturating_sub(arrived.less);
        self.unread += more;
        self.received(arrived.less.saturating_sub(arrived.more));
        self.payer.as_ref().filter(|payer| more > 0 && !payer.account.arrived(more)).cloned()
    }

    /// So much of what had arrived was received, or will not be.
    fn received(&mut self, bytes: u64) {
        self.unread -= bytes;
        if let Some(payer) = &self.payer {
            payer.account.received(bytes);
        }
    }

    /// The next message, for a guest.
    pub(crate) fn pop(&mut self) -> Option<(Message, Option<Credit>)> {
        let message = self.messages.pop()?;
        let length = message.bytes.len() as u64;
        self.taken += cost(length);
        let credit = self.receive.take(length);
        // Until then the host has no right to send anything in its place, so that no more than a window is counted.
        if credit.is_some() || self.messages.is_empty() {
            self.settle();
        }
        Some((message, credit))
    }

    /// Counts as received what was taken.
    fn settle(&mut self) {
        let taken = mem::take(&mut self.taken);
        if taken > 0 {
            self.received(taken);
        }
    }

    pub(crate) fn has_payer(&self) -> bool {
        self.payer.is_some()
    }

    pub(crate) fn is_paid_by(&self, execution: &Arc<Execution>) -> bool {
        self.payer.as_ref().is_some_and(|payer| Arc::ptr_eq(payer, execution))
    }

    /// Somebody else pays for what has arrived. Says whether that is over its limit now.
    #[must_use = "the payer is to be stopped"]
    pub(crate) fn pay(&mut self, payer: Option<Arc<Execution>>) -> bool {
        self.settle();
        if let Some(former) = mem::replace(&mut self.payer, payer) {
            former.account.received(self.unread);
        }
        self.payer.as_ref().is_some_and(|payer| !payer.account.arrived(self.unread))
    }

    /// Takes what `sender` needs for a message of this length: window and memory.
    pub(crate) fn try_send(&mut self, sender: &Arc<Execution>, length: u64) -> Sending {
        if !self.send.may_start(length) {
            return Sending::NoCredit;
        }
        let cost = cost(length);
        if !sender.account.try_send(cost) {
            return if sender.account.could_send(cost) { Sending::NoRoom } else { Sending::Never };
        }
        self.send.try_start(length);
        match self.sent.back_mut() {
            Some(last) if last.cost == cost && Arc::ptr_eq(&last.by, sender) => last.count += 1,
            _ => self.sent.push_back(Sent { by: Arc::clone(sender), cost, count: 1 }),
        }
        self.has_sent = true;
        Sending::Started
    }

    /// What was taken for a message that is not sent after all comes back.
    pub(crate) fn not_sent(&mut self, sender: &Arc<Execution>, length: u64) {
        let cost = cost(length);
        let found = self.sent.iter().rposition(|sent| sent.cost == cost && Arc::ptr_eq(&sent.by, sender));
        if let Some(position) = found {
            self.sent[position].count -= 1;
            if self.sent[position].count == 0 {
                self.sent.remove(position);
            }
            sender.account.taken(cost);
            // It was taken off the window before, so that is no surplus.
            let _ = self.send.give_back(Credit { bytes: length, messages: 1 });
        }
    }

    /// The host took messages.
    pub(crate) fn credit(&mut self, credit: Credit) -> Result<(), FlowError> {
        self.send.give_back(credit)?;
        self.taken(usize::try_from(credit.messages).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Nobody will take what was sent.
    pub(crate) fn nobody_takes(&mut self) {
        self.taken(usize::MAX);
    }

    /// As many of those that were sent first, or all there are.
    fn taken(&mut self, mut count: usize) {
        while count > 0
            && let Some(first) = self.sent.front_mut()
        {
            let taken = first.count.min(count);
            first.by.account.taken(first.cost.saturating_mul(taken as u64));
            first.by.waker.wake();
            count -= taken;
            first.count -= taken;
            if first.count == 0 {
                self.sent.pop_front();
            }
        }
    }

    /// Whether memory of `sender`'s would come free if the host took what was sent here.
    pub(crate) fn holds_of(&self, sender: &Arc<Execution>) -> bool {
        self.sent.iter().any(|sent| Arc::ptr_eq(&sent.by, sender))
    }
}
