//! How long a channel lives: while a guest has a handle of it, a message that waits names it, or its peer has not closed it.

use sandgate_wire::message::Close;
use sandgate_wire::{ChannelId, ToHost};

use super::{Hub, Violation};
use crate::channel::{Kind, Peer};

impl Hub {
    /// A message that waits names `channel`.
    pub(super) fn refer(&mut self, channel: ChannelId) -> Result<(), Violation> {
        let Some(endpoint) = self.channels.get_mut(&channel) else {
            return if self.give_channel(channel) { self.refer(channel) } else { self.late(channel) };
        };
        endpoint.references += 1;
        Ok(())
    }

    /// One reference less. The last one closes the channel, and gives up what waits in it.
    pub(super) fn unrefer(&mut self, channel: ChannelId) {
        // A list instead of recursion: channels can be nested as deep as their peers like.
        let mut todo = vec![channel];
        while let Some(channel) = todo.pop() {
            let Some(endpoint) = self.channels.get_mut(&channel) else {
                continue;
            };
            endpoint.references = endpoint.references.saturating_sub(1);
            if endpoint.references > 0 || endpoint.is_own() {
                continue;
            }
            todo.extend(endpoint.abandon());
            self.send_close(channel, Close::default());
            self.tidy_up(channel);
        }
    }

    pub(crate) fn unrefer_all(&mut self, channels: Vec<ChannelId>) {
        for channel in channels {
            self.unrefer(channel);
        }
    }

    pub(super) fn forward_to_nobody(&mut self, channels: Vec<ChannelId>) -> Result<(), Violation> {
        for channel in channels {
            self.refer(channel)?;
            self.unrefer(channel);
        }
        Ok(())
    }

    pub(super) fn send_close(&mut self, channel: ChannelId, close: Close) {
        let Some(endpoint) = self.channels.get_mut(&channel) else {
            return;
        };
        if endpoint.close_sent || endpoint.is_own() {
            return;
        }
        endpoint.close(&close);
        if endpoint.sending > 0 {
            endpoint.close_waiting = Some(close);
            return;
        }
        self.place(&ToHost::Close(channel, close));
    }

    /// Forgets a channel that both sides have closed and nothing refers to.
    pub(super) fn tidy_up(&mut self, channel: ChannelId) {
        let Some(endpoint) = self.channels.get(&channel) else {
            return;
        };
        if endpoint.is_own() || endpoint.peer < Peer::Closed || endpoint.references > 0 {
            return;
        }
        self.send_close(channel, Close::default());
        if let Some(mut endpoint) = self.channels.remove(&channel) {
            if let Kind::Made(maker) = &endpoint.kind {
                maker.made(-1);
                if endpoint.closed_unused {
                    maker.closed_unused(-1);
                }
                self.made -= 1;
                if maker.has_few_unanswered() {
                    // It may wait for room to make another.
                    maker.waker.wake();
                }
            }
            endpoint.nobody_takes();
            let attached = endpoint.abandon();
            self.unrefer_all(attached);
        }
    }
}
