//! Messages that a guest has at hand: the next ones of its own channel, which its thread takes without the hub.
//!
//! ```text
//!  host ──► endpoint: messages ──a few at once, under the hub's lock──► pocket ──one by one──► guest
//!                 ▲                                                        │
//!                 └─────────── put back, if another guest listens ◄────────┘
//! ```
//!
//! Nothing of what is promised changes by that. A message in a pocket counts as one that was not received: it is in the
//! execution's [account](sandgate_wire::account), and no credit goes back for it. The message by which credits become due is
//! never put into one, so that they go back when that is taken. Only small messages without channels are put in, and only
//! while the execution is the one that listens.

use std::collections::VecDeque;
use std::mem;

use sandgate_wire::Message;
use sandgate_wire::account::{Account, cost};
use sandgate_wire::flow::Credit;

use super::Endpoint;

/// Most messages of a pocket, and the largest.
const MAX_MESSAGES: usize = 64;
const MAX_BYTES: usize = 512;

/// The messages, and what was taken of them. Its lock is taken after the hub's.
#[derive(Debug, Default)]
pub(crate) struct Pocket {
    messages: VecDeque<Message>,
    /// What the account still counts of those that were put in together.
    counted: u64,
    /// What was taken and the window does not know of yet.
    taken: Credit,
}

impl Pocket {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The next message.
    pub(crate) fn next(&self) -> Option<&Message> {
        self.messages.front()
    }

    /// Takes it. With the last one all of them are counted as received.
    pub(crate) fn pop(&mut self, account: &Account) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.taken.add(Credit { bytes: message.bytes.len() as u64, messages: 1 });
        if self.messages.is_empty() {
            account.received(mem::take(&mut self.counted));
        }
        Some(message)
    }
}

impl Endpoint {
    /// Tells the window what was taken out of the pocket of this channel's execution.
    pub(crate) fn settle_pocket(&mut self, pocket: &mut Pocket) {
        self.receive.took(mem::take(&mut pocket.taken));
    }

    /// Moves the next messages to the pocket of this channel's execution, which is empty.
    pub(crate) fn fill(&mut self, pocket: &mut Pocket) {
        debug_assert!(pocket.is_empty() && pocket.taken == Credit::default(), "the pocket was settled");
        if self.holders.len() != 1 || self.is_landing() {
            return;
        }
        let mut all = Credit::default();
        while pocket.messages.len() < MAX_MESSAGES
            && let Some(next) = self.messages.front()
        {
            let length = next.bytes.len();
            all.add(Credit { bytes: length as u64, messages: 1 });
            if length > MAX_BYTES || !next.channels.is_empty() || self.receive.is_enough(all) {
                break;
            }
            let cost = cost(length as u64);
            self.unread -= cost;
            pocket.counted += cost;
            if let Some(next) = self.messages.pop_front() {
                pocket.messages.push_back(next);
            }
        }
    }

    /// Puts back what is in the pocket of this channel's execution, for others listen, too.
    pub(crate) fn empty(&mut self, pocket: &mut Pocket, account: &Account) {
        self.settle_pocket(pocket);
        let left: u64 = pocket.messages.iter().map(|message| cost(message.bytes.len() as u64)).sum();
        account.received(mem::take(&mut pocket.counted) - left);
        self.unread += left;
        while let Some(last) = pocket.messages.pop_back() {
            self.messages.push_front(last);
        }
    }
}
