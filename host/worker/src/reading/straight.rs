//! A message on its way from the connection straight into the memory of the guest that waits for it, while the guest's thread
//! leads. Nothing of it is kept in between.
//!
//! 1. Whoever leads has the guest's memory along, as a [`Strip`]. What belongs to others is taken as ever.
//! 2. A chunk of the message is opened when all before it has landed, and read to where it belongs. The hub is not locked meanwhile.
//! 3. If the thread is to look up before the chunk is whole, all of the chunk is put back, and nothing has happened.
//!
//! A small message that is the next one for the guest goes there whole as soon as it is here, and ends the lead.

use std::sync::Arc;
use std::time::Instant;

use sandgate_wire::ChannelId;
use sandgate_wire::frame::{FrameReader, Header};
use sandgate_wire::message::kind;
use sandgate_wire::reading::{Alarm, Ringer};

use crate::execution::Stop;
use crate::main_loop;
use crate::worker::{Ended, Worker, WorkerError};

/// How often a chunk was put back in this process, for tests that are to see that.
#[cfg(test)]
pub(crate) static PUT_BACK: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Where a message lands: one of which a guest has taken the beginning, or the next one.
#[derive(Debug)]
pub(crate) struct Strip<'a> {
    channel: ChannelId,
    memory: &'a mut [u8],
    /// So much of it has landed.
    at: usize,
    lands: Lands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lands {
    /// What is still to come of a message.
    Rest,
    /// The next message, if that is a small one.
    Next,
    /// Nothing more: the next message has.
    Done,
}

/// Until when a leader goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until<'a> {
    pub(super) alarm: &'a Alarm,
    pub(super) ringer: &'a Arc<Ringer>,
    pub(super) deadline: Option<Instant>,
}

impl Until<'_> {
    pub(super) fn is_over(self) -> bool {
        self.alarm.is_raised() || self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    /// Waits until there may be something to read, or it is over.
    pub(super) fn wait(self, frames: &mut FrameReader) -> Result<(), WorkerError> {
        let waited = frames.wait(self.alarm, self.ringer, self.deadline);
        waited.map_err(|source| WorkerError::System { what: "wait for its connection", source })
    }
}

impl<'a> Strip<'a> {
    /// For a message of this channel, which is as long as the memory.
    pub(crate) fn new(channel: ChannelId, memory: &'a mut [u8]) -> Strip<'a> {
        Strip { channel, memory, at: 0, lands: Lands::Rest }
    }

    /// For the next message of this channel, which may be shorter than the memory.
    pub(crate) fn for_next(channel: ChannelId, memory: &'a mut [u8]) -> Strip<'a> {
        Strip { channel, memory, at: 0, lands: Lands::Next }
    }

    /// Whether the guest need not wait any longer.
    pub(super) fn is_done(&self) -> bool {
        self.lands == Lands::Done
    }

    /// What has landed.
    pub(crate) fn landed(&self) -> &[u8] {
        &self.memory[..self.at]
    }

    /// Copies what comes next; false if there is no room for it.
    pub(crate) fn add(&mut self, part: &[u8]) -> bool {
        let Some(to) = self.memory.get_mut(self.at..).and_then(|rest| rest.get_mut(..part.len())) else { return false };
        to.copy_from_slice(part);
        self.at += part.len();
        true
    }

    fn is_for(&self, header: &Header) -> bool {
        header.kind == kind::DATA && header.channel == self.channel
    }

    /// Whether a chunk can land now.
    fn is_clear(&self, worker: &Worker, header: &Header) -> bool {
        let length = header.length as usize;
        let hub = worker.hub.lock();
        let endpoint = hub.channels.get(&self.channel);
        length <= self.memory.len() - self.at
            && endpoint.is_some_and(|endpoint| endpoint.can_land(header.flags, length))
    }

    /// Reads the chunk that comes next to where it belongs; false if it is put back instead.
    fn land(&mut self, frames: &mut FrameReader, until: Until<'_>) -> Result<bool, WorkerError> {
        let Some(mut payload) = frames.open()? else { return Ok(false) };
        let start = self.at;
        while payload.left() > 0 {
            match payload.take(&mut self.memory[self.at..])? {
                Some(count) => self.at += count,
                None => until.wait(payload.reader())?,
            }
            if payload.left() > 0 && until.is_over() {
                payload.put_back(&self.memory[start..self.at]);
                #[cfg(test)]
                PUT_BACK.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.at = start;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Does what all frames say that are here, as [`main_loop::take_all`] does, and lands those that are of the strip's message, for as
/// long as one follows the other.
pub(super) fn take_all(
    worker: &Arc<Worker>,
    frames: &mut FrameReader,
    strip: &mut Strip<'_>,
    until: Until<'_>,
) -> Result<Option<Ended>, WorkerError> {
    if strip.lands != Lands::Rest {
        return take_next(worker, frames, strip);
    }
    loop {
        let end = main_loop::take_while(worker, frames, |header| !strip.is_for(header))?;
        if end.is_some() {
            return Ok(end);
        }
        let Some(header) = frames.front()?.filter(|header| strip.is_for(header)) else { return Ok(None) };
        if !strip.is_clear(worker, &header) {
            return main_loop::take_all(worker, frames);
        }
        if !strip.land(frames, until)? {
            return Ok(None);
        }
        let over = worker.hub.lock().landed(header.channel, header.flags, header.length as usize)?;
        if let Some((execution, limit)) = over {
            worker.stop(&execution, Stop::Limit(limit));
        }
    }
}

/// Lands the frame that is here, if that is the next message and a small one. All others are taken as ever.
fn take_next(
    worker: &Arc<Worker>,
    frames: &mut FrameReader,
    strip: &mut Strip<'_>,
) -> Result<Option<Ended>, WorkerError> {
    if strip.lands == Lands::Next
        && frames.next_header()?.is_some_and(|header| strip.is_for(&header))
        && worker.hub.lock().land_next(strip.channel, frames, strip.memory)?
    {
        strip.lands = Lands::Done;
        if frames.front()?.is_none() {
            return Ok(None);
        }
    }
    main_loop::take_all(worker, frames)
}
