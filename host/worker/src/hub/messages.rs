//! Messages on their way through the hub: what the host sends, chunk by chunk, and what guests send.

use std::sync::Arc;

use sandgate_wire::assembly::{self, AssemblyError, Chunk, SEVERAL};
use sandgate_wire::frame::{FrameReader, Header};
use sandgate_wire::limits::LimitName;
use sandgate_wire::message::kind;
use sandgate_wire::{ChannelId, Message, ToHost};

use super::{Hub, Violation};
use crate::channel::{Arrived, Endpoint, Sending};
use crate::execution::{Execution, Stop};
use crate::worker::WorkerError;

/// The largest message that goes straight to a guest's memory with the hub locked: two pages of it may have to be made for that.
const MOST_LANDED: usize = 4096;
/// So many bytes of small messages in one frame count as one more chunk.
const BYTES_AS_ONE: usize = 1024;

impl Hub {
    /// Takes the chunk that is here, which is of `channel`, and those that follow it on the same channel, while there are some left
    /// of the chunks that may be taken under one lock. The executions it returns went over a limit by it, and are to be stopped: those that listened for a message which is too
    /// large, or the one whose memory it does not fit into.
    #[must_use = "the executions are to be stopped"]
    pub(crate) fn data(
        &mut self,
        channel: ChannelId,
        frames: &mut FrameReader,
        left: &mut usize,
    ) -> Result<Vec<(Arc<Execution>, LimitName)>, WorkerError> {
        let Some(endpoint) = self.channels.get_mut(&channel) else {
            if self.give_channel(channel) {
                return self.data(channel, frames, left);
            }
            self.late(channel)?;
            // Nobody will receive the channels in it, and their other ends are to learn that.
            let Some(chunk) = next_chunk(frames, channel)? else { return Ok(Vec::new()) };
            *left -= 1;
            let attached = assembly::attached(chunk).map_err(|source| Violation::Message { channel, source })?;
            return Ok(self.forward_to_nobody(attached).map(|()| Vec::new())?);
        };
        let mut arrived = Arrived::default();
        let taken = take_chunks(endpoint, channel, frames, left, &mut arrived);
        let over = endpoint.count(arrived);
        match taken? {
            Taken::Messages => {}
            Taken::Attached(message) => self.put_attached(channel, message)?,
            Taken::TooLarge => {
                return Ok(endpoint.holders.iter().map(|holder| (Arc::clone(holder), LimitName::Message)).collect());
            }
        }
        Ok(over.and_then(|execution| self.over_memory(execution)).into_iter().collect())
    }

    /// Copies the message that is here to the memory of the guest that waits for it, if it is the next one for that guest, has no
    /// channels, and fits. The guest finds it at its [endpoint](Endpoint::take_next).
    pub(crate) fn land_next(
        &mut self,
        channel: ChannelId,
        frames: &mut FrameReader,
        memory: &mut [u8],
    ) -> Result<bool, WorkerError> {
        let Some(endpoint) = self.channels.get_mut(&channel).filter(|it| it.can_land_next()) else { return Ok(false) };
        let most = endpoint.message_bytes.min(memory.len().min(MOST_LANDED) as u64);
        let fits = |header: &Header| header.flags == 0 && u64::from(header.length) <= most;
        let Some(frame) = frames.next_if(fits)? else { return Ok(false) };
        memory[..frame.payload.len()].copy_from_slice(frame.payload);
        endpoint
            .landed_next(frame.payload.len())
            .map_err(|source| Violation::Message { channel, source: source.into() })?;
        Ok(true)
    }

    /// A chunk has gone where it belongs in a guest's memory. The execution it returns is to be stopped, as by [`data`](Self::data).
    #[must_use = "the execution is to be stopped"]
    pub(crate) fn landed(
        &mut self,
        channel: ChannelId,
        flags: u8,
        length: usize,
    ) -> Result<Option<(Arc<Execution>, LimitName)>, Violation> {
        let Some(endpoint) = self.channels.get_mut(&channel) else { return Ok(None) };
        let over = endpoint.landed(flags, length).map_err(|source| Violation::Message { channel, source })?;
        Ok(over.and_then(|execution| self.over_memory(execution)))
    }

    fn put_attached(&mut self, channel: ChannelId, message: Message) -> Result<(), Violation> {
        let abandoned = self.channels.get(&channel).is_none_or(|endpoint| endpoint.close_sent);
        if abandoned {
            return self.forward_to_nobody(message.channels);
        }
        for attached in message.channels.clone() {
            self.refer(attached)?;
        }
        if let Some(endpoint) = self.channels.get_mut(&channel) {
            endpoint.put(message);
        }
        Ok(())
    }

    /// What it was sent does not fit into its memory. One that has not begun sees the stop when it does.
    fn over_memory(&self, execution: Arc<Execution>) -> Option<(Arc<Execution>, LimitName)> {
        execution.set_stop(Stop::Limit(LimitName::Memory));
        self.running.contains_key(&execution.id).then_some((execution, LimitName::Memory))
    }

    /// Sends a small message of a guest's, if all that it takes is there.
    pub(crate) fn send_small(&mut self, channel: ChannelId, sender: &Arc<Execution>, bytes: &[u8]) -> Sending {
        let started = self.take_for(channel, sender, bytes.len() as u64).err();
        if started.is_none() {
            // If the connection is gone the worker ends in a moment.
            self.placed |= self.outbox.place_small(channel, bytes).unwrap_or(false);
        }
        started.unwrap_or(Sending::Started)
    }

    /// Takes what a message of a guest's takes, if it is there. The message is to be [sent](Self::sent) then, or
    /// [not](Self::not_sent).
    pub(crate) fn start_sending(&mut self, channel: ChannelId, sender: &Arc<Execution>, length: u64) -> Sending {
        match self.take_for(channel, sender, length) {
            Ok(endpoint) => {
                endpoint.sending += 1;
                Sending::Started
            }
            Err(not) => not,
        }
    }

    fn take_for(&mut self, channel: ChannelId, sender: &Arc<Execution>, length: u64) -> Result<&mut Endpoint, Sending> {
        let endpoint = self.channels.get_mut(&channel).filter(|it| it.can_send()).ok_or(Sending::Closed)?;
        if length > endpoint.message_bytes {
            return Err(Sending::TooLarge(endpoint.message_bytes));
        }
        match endpoint.try_send(sender, length) {
            Sending::Started => Ok(endpoint),
            not => Err(not),
        }
    }

    /// A guest has queued the message it took credits for, or does not send it after all.
    pub(crate) fn sent(&mut self, channel: ChannelId) {
        let Some(endpoint) = self.channels.get_mut(&channel) else {
            return;
        };
        endpoint.sending -= 1;
        if endpoint.sending == 0
            && let Some(close) = endpoint.close_waiting.take()
        {
            self.place(&ToHost::Close(channel, close));
        }
    }
}

/// What chunks have brought that were taken together.
enum Taken {
    /// Messages, all of which are in the queue.
    Messages,
    /// The last is a message with channels, which is to be there once all of these are.
    Attached(Message),
    /// The last is of a message that is too large.
    TooLarge,
}

/// Takes the chunks of this channel that are here, as long as one after the other can be.
fn take_chunks(
    endpoint: &mut Endpoint,
    channel: ChannelId,
    frames: &mut FrameReader,
    left: &mut usize,
    arrived: &mut Arrived,
) -> Result<Taken, WorkerError> {
    let abandoned = endpoint.close_sent;
    while *left > 0
        && let Some(chunk) = next_chunk(frames, channel)?
    {
        *left = left.saturating_sub(1 + if chunk.flags == SEVERAL { chunk.payload.len() / BYTES_AS_ONE } else { 0 });
        match endpoint.arrive(chunk, arrived) {
            Ok(None) => {}
            Ok(Some(message)) if message.channels.is_empty() && abandoned => {}
            Ok(Some(message)) if message.channels.is_empty() => endpoint.put(message),
            Ok(Some(message)) => return Ok(Taken::Attached(message)),
            Err(AssemblyError::TooLarge { .. }) => {
                endpoint.broken = true;
                return Ok(Taken::TooLarge);
            }
            Err(source) => return Err(Violation::Message { channel, source }.into()),
        }
    }
    Ok(Taken::Messages)
}

/// The chunk that is here, if it is of this channel.
fn next_chunk(frames: &mut FrameReader, channel: ChannelId) -> Result<Option<Chunk<'_>>, WorkerError> {
    let is_next = |header: &Header| header.kind == kind::DATA && header.channel == channel;
    let Some(frame) = frames.next_if(is_next)? else { return Ok(None) };
    if frame.header.flags == assembly::GIVEN_UP {
        return Err(Violation::Unexpected("a message that is given up").into());
    }
    Ok(Some(Chunk { flags: frame.header.flags, payload: frame.payload }))
}
