//! Messages that a guest takes while they arrive: what is here of one goes into the guest's memory, and makes room for the rest.
//!
//! A chunk that comes while the guest's thread reads the connection goes there at once, and so does a small message that is the
//! next one ([`straight`](crate::reading)). Only an
//! execution's own channel does that, and one guest at a time. If the guest does not wait until the message is whole, all
//! of it is put back, and nothing has happened.

use std::mem;
use std::sync::Arc;

use sandgate_wire::account::cost;
use sandgate_wire::assembly::AssemblyError;
use sandgate_wire::flow::{Credit, FlowError};
use sandgate_wire::{ChannelId, Message};

use super::{Arrived, Endpoint};
use crate::execution::Execution;

/// The part of it that an endpoint keeps.
#[derive(Debug, Default)]
pub(crate) struct Landing {
    /// Length of the message that a guest is taking.
    under_way: Option<u64>,
    /// A guest waits for parts of messages as well.
    wanted: bool,
    /// A message has gone to the memory of the guest that waits for it, which is still to be told.
    next: Option<Next>,
}

#[derive(Debug)]
struct Next {
    of: ChannelId,
    length: usize,
    credit: Option<Credit>,
}

/// What a guest gets that takes a message while it arrives.
#[derive(Debug)]
pub(crate) enum Landed {
    /// What comes next.
    Part(Vec<u8>),
    /// The last part, and what goes back to the host.
    Last(Message, Option<Credit>),
}

impl Endpoint {
    /// Whether a guest is taking a message that is not whole.
    pub(crate) fn is_landing(&self) -> bool {
        self.landing.under_way.is_some()
    }

    /// Whether what comes now is the next message for the guest that listens, which nobody else does.
    pub(crate) fn can_land_next(&self) -> bool {
        let is_first = self.messages.is_empty() && self.assembly.is_empty() && self.landing.next.is_none();
        is_first && !self.is_landing() && !self.broken && !self.close_sent && self.holders.len() == 1
    }

    /// A message of so many bytes is where the one that listens wants it: it is received, and takes nobody's memory.
    pub(crate) fn landed_next(&mut self, length: usize) -> Result<(), FlowError> {
        self.receive.arrive(length as u64)?;
        // What was taken before is received as well.
        self.settle();
        let credit = self.receive.take(length as u64);
        self.landing.next = self.holders.first().map(|holder| Next { of: holder.id, length, credit });
        Ok(())
    }

    /// For a guest that waits: how long the message is that it has by now, and what goes back to the host. Others may listen, too,
    /// since it landed.
    pub(crate) fn take_next(&mut self, of: ChannelId) -> Option<(usize, Option<Credit>)> {
        self.landing.next.take_if(|next| next.of == of).map(|next| (next.length, next.credit))
    }

    /// Whether a part that has arrived is of use to somebody.
    pub(super) fn wants_parts(&self) -> bool {
        self.landing.wanted
    }

    /// From here on whoever waits is woken for parts as well, or no more.
    pub(crate) fn want_parts(&mut self, wanted: bool) {
        self.landing.wanted = wanted;
    }

    /// Begins to take a message that is not whole, if there is one and it fits. Says how long it is.
    pub(crate) fn begin_landing(&mut self, capacity: u64) -> Option<u64> {
        let (length, here) = self.assembly.under_way()?;
        if length > capacity || here == 0 {
            return None;
        }
        self.landing.under_way = Some(length);
        Some(length)
    }

    /// The next part of the message that a guest is taking, in exchange for memory of an earlier one.
    pub(crate) fn land(&mut self, spare: &mut Vec<u8>) -> Option<Landed> {
        let length = self.landing.under_way?;
        if let Some(last) = self.messages.pop() {
            self.landing.under_way = None;
            self.received(cost(last.bytes.len() as u64));
            let credit = self.receive.take(length);
            return Some(Landed::Last(last, credit));
        }
        self.assembly.under_way().filter(|(_, here)| *here > 0)?;
        let part = self.assembly.hand_over(mem::take(spare));
        let counted = self.in_parts.min(part.len() as u64);
        self.in_parts -= counted;
        self.received(counted);
        Some(Landed::Part(part))
    }

    /// Whether a chunk of the message that a guest is taking can go where it belongs at once.
    pub(crate) fn can_land(&self, flags: u8, length: usize) -> bool {
        self.is_landing() && !self.broken && self.messages.is_empty() && self.assembly.can_land(flags, length)
    }

    /// A chunk is where it belongs. Says who is over its limit now.
    #[must_use = "it is to be stopped"]
    pub(crate) fn landed(&mut self, flags: u8, length: usize) -> Result<Option<Arc<Execution>>, AssemblyError> {
        let Some(last) = self.assembly.landed(flags, length)? else { return Ok(None) };
        let arrived =
            Arrived { more: cost(last.bytes.len() as u64), less: mem::take(&mut self.in_parts), ..Arrived::default() };
        self.put(last);
        Ok(self.count(arrived))
    }

    /// The guest does not go on: what it has taken is put back. Says whether that fits into its memory.
    #[must_use = "it is to be stopped"]
    pub(crate) fn put_back(&mut self, taken: Vec<u8>) -> bool {
        self.landing.under_way = None;
        let bytes = taken.len() as u64;
        match self.messages.pop() {
            Some(last) => {
                let bytes = [&taken[..], &last.bytes[..]].concat().into();
                self.messages.push_front(Message { bytes, ..last });
            }
            None => {
                self.in_parts += bytes;
                self.assembly.take_back(taken);
            }
        }
        self.unread += bytes;
        self.payer.as_ref().is_none_or(|payer| payer.account.arrived(bytes))
    }
}

#[cfg(test)]
mod tests {
    use sandgate_wire::Limits;

    use super::super::{Kind, Peer};
    use super::*;

    #[test]
    fn what_has_landed_is_the_message_of_the_guest_that_waited() {
        let limits = Limits::default();
        let [first, second] = [1, 3].map(|id| Arc::new(Execution::new(ChannelId(id), limits.clone(), &Arc::default())));
        let mut endpoint = Endpoint::new(Kind::Own, limits.message_bytes, (&limits).into(), Peer::Open);
        endpoint.holders.push(Arc::clone(&first));
        assert!(endpoint.can_land_next());
        endpoint.landed_next(5).unwrap();
        assert!(!endpoint.can_land_next(), "one after the other");
        endpoint.holders.push(Arc::clone(&second));
        assert_eq!(endpoint.take_next(second.id), None);
        assert_eq!(endpoint.take_next(first.id), Some((5, None)));
        assert_eq!(endpoint.take_next(first.id), None);
        assert!(!endpoint.can_land_next(), "two of them listen");
    }
}
