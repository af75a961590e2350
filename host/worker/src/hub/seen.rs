//! Which ids the host has used, in little memory however many there were.

use std::collections::BTreeSet;

use sandgate_wire::limits::MAX_CONNECTION_CHANNELS;
use sandgate_wire::{ChannelId, Side};

/// Which of the host's ids were in use: nearly all below a mark, and a few above it that came out of order.
#[derive(Debug)]
pub(super) struct Seen {
    /// All of the host's ids below this one.
    below: u64,
    above: BTreeSet<u64>,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { below: ChannelId::first(Side::Host).0, above: BTreeSet::new() }
    }
}

impl Seen {
    pub(super) fn contains(&self, channel: ChannelId) -> bool {
        channel.0 < self.below || self.above.contains(&channel.0)
    }

    /// False if it was in already.
    pub(super) fn insert(&mut self, channel: ChannelId) -> bool {
        if self.contains(channel) {
            return false;
        }
        self.above.insert(channel.0);
        if self.above.len() > MAX_CONNECTION_CHANNELS {
            // An id that did not come for this long does not come.
            if let Some(first) = self.above.first() {
                self.below = *first;
            }
        }
        while self.above.remove(&self.below) {
            self.below = ChannelId(self.below).next().0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_ids_stay_few() {
        let mut seen = Seen::default();
        for id in [3, 1, 7, 5, 9] {
            assert!(!seen.contains(ChannelId(id)));
            assert!(seen.insert(ChannelId(id)));
            assert!(seen.contains(ChannelId(id)));
            assert!(!seen.insert(ChannelId(id)));
        }
        assert_eq!((seen.below, seen.above.len()), (11, 0));
        for id in (13..300_001).step_by(2) {
            seen.insert(ChannelId(id));
        }
        assert!(seen.above.len() <= MAX_CONNECTION_CHANNELS);
        assert!(seen.contains(ChannelId(299_999)) && !seen.contains(ChannelId(300_001)));
    }
}
