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

use std::mem;

use sandgate_wire::account::{Account, cost};
use sandgate_wire::flow::Credit;
use sandgate_wire::messages::{Front, Messages};

use super::Endpoint;

/// Most messages of a pocket, and the largest.
const MAX_MESSAGES: usize = 64;
const MAX_BYTES: usize = 512;

/// The messages, and what was taken of them. Its lock is taken after the hub's.
#[derive(Debug, Default)]
pub(crate) struct Pocket {
    messages: Messages,
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
    pub(crate) fn next(&self) -> Option<Front<'_>> {
        self.messages.front()
    }

    /// Drops it: its bytes were taken. With the last one all of them are counted as received.
    pub(crate) fn skip(&mut self, account: &Account) {
        let Some(length) = self.next().map(|next| next.bytes.len()) else { return };
        self.messages.skip();
        self.taken.add(Credit { bytes: length as u64, messages: 1 });
        if self.messages.is_empty() {
            account.received(mem::take(&mut self.counted));
        }
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
        let (mut all, mut left, mut counted) = (Credit::default(), MAX_MESSAGES, 0);
        self.messages.move_small(&mut pocket.messages, |length| {
            all.add(Credit { bytes: length as u64, messages: 1 });
            let is_put_in = left > 0 && length <= MAX_BYTES && !self.receive.is_enough(all);
            if is_put_in {
                left -= 1;
                counted += cost(length as u64);
            }
            is_put_in
        });
        pocket.counted += counted;
        self.unread -= counted;
    }

    /// Puts back what is in the pocket of this channel's execution, for others listen, too.
    pub(crate) fn empty(&mut self, pocket: &mut Pocket, account: &Account) {
        self.settle_pocket(pocket);
        let left: u64 = pocket.messages.lengths().map(|length| cost(length as u64)).sum();
        account.received(mem::take(&mut pocket.counted) - left);
        self.unread += left;
        self.messages.put_back(&mut pocket.messages);
    }
}
