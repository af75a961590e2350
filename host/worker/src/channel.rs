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
use std::sync::Arc;

use sandgate_wire::assembly::Assembly;
use sandgate_wire::flow::{ReceiveWindow, SendWindow};
use sandgate_wire::message::Close;
use sandgate_wire::{ChannelId, Message};

use crate::execution::Execution;

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
    /// Largest message that the host may send.
    pub(crate) message_bytes: u64,
    pub(crate) messages: VecDeque<Message>,
    pub(crate) peer: Peer,
    pub(crate) error: Option<String>,
    pub(crate) close_sent: bool,
    /// What arrives is dropped: its sender broke a limit, and whoever listened is being stopped.
    pub(crate) broken: bool,
    /// Guests that have taken credits and not yet queued their message; a close waits for them.
    pub(crate) sending: usize,
    pub(crate) close_waiting: Option<Close>,
    /// Handles and waiting messages that name this channel.
    pub(crate) references: usize,
    /// One for each handle, to be woken when something happens.
    pub(crate) holders: Vec<Arc<Execution>>,
}

/// How a channel stands for a guest that wants to receive and finds no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Closed,
    WithError,
}

impl Endpoint {
    pub(crate) fn new(kind: Kind, message_bytes: u64, peer: Peer) -> Endpoint {
        Endpoint {
            kind,
            send: SendWindow::new(),
            receive: ReceiveWindow::new(),
            assembly: Assembly::default(),
            message_bytes,
            messages: VecDeque::new(),
            peer,
            error: None,
            close_sent: false,
            broken: false,
            sending: 0,
            close_waiting: None,
            references: 0,
            holders: Vec::new(),
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

    pub(crate) fn wake(&self) {
        for holder in &self.holders {
            holder.waker.notify_all();
        }
    }

    /// The channels that what has arrived refers to, when it will not be received any more.
    pub(crate) fn abandon(&mut self) -> Vec<ChannelId> {
        let mut channels = std::mem::take(&mut self.assembly).into_channels();
        for message in self.messages.drain(..) {
            channels.extend(message.channels);
        }
        channels
    }
}
