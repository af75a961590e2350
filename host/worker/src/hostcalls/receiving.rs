//! How a guest gets a message: whole, or while it arrives.

use std::time::Instant;

use sandgate_abi::{SIZE_BYTES, status};
use sandgate_wire::limits::LimitName;
use sandgate_wire::messages::Front;
use sandgate_wire::{Message, ToHost};

use super::{Early, channel, copy_in, deadline, stop_or};
use crate::channel::{Ended, Endpoint, Landed};
use crate::execution::Stop;
use crate::guest::Guest;
use crate::guest_memory::{self as memory, Fault};
use crate::reading::{Role, Strip};

/// Takes the next message of a channel; waits for it.
pub(super) fn receive(
    memory: &mut [u8],
    guest: &mut Guest,
    handle: i32,
    buffer: Buffer,
    timeout: i64,
) -> Result<i32, Early> {
    enum Got {
        Message(Message),
        Landed(usize),
        Begun(u64),
        Kept(Size, i32),
        Ended(i32),
    }
    let id = channel(guest, handle)?;
    buffer.check(memory)?;
    let own = id == guest.execution.id;
    if own && let Some(taken) = receive_at_hand(memory, guest, buffer).transpose() {
        return taken;
    }
    let deadline = deadline(timeout);
    let channels_left = guest.channels_left();
    let (worker, execution) = (&guest.worker, &guest.execution);
    let (mut credit, mut behind) = (None, 0);
    let mut strip = match own {
        true => Some(Strip::for_next(id, buffer.part(memory, buffer.0[1])?)),
        false => None,
    };
    let got = worker.wait_landing(execution, deadline, strip.as_mut(), |hub| {
        let Some(endpoint) = hub.channels.get_mut(&id) else {
            return Some(Got::Ended(status::CLOSED));
        };
        if own {
            let mut pocket = execution.pocket.lock();
            endpoint.settle_pocket(&mut pocket);
            if let Some((length, due)) = endpoint.take_next(id) {
                credit = due;
                endpoint.fill(&mut pocket);
                behind = endpoint.messages.len();
                return Some(Got::Landed(length));
            }
        }
        if endpoint.is_landing() {
            // What another guest is taking is not here for this one.
            return None;
        }
        let Some(message) = endpoint.messages.front() else {
            if let Some(length) = own.then(|| endpoint.begin_landing(buffer.capacity())).flatten() {
                return Some(Got::Begun(length));
            }
            // Of one that does not fit, nothing is of use before it is whole.
            endpoint.want_parts(own && endpoint.assembly.under_way().is_none());
            return ended(endpoint).map(Got::Ended);
        };
        if let Err(kept) = buffer.fits(message, channels_left) {
            return Some(Got::Kept(Size::of(message), kept));
        }
        let message;
        (message, credit) = endpoint.pop()?;
        if own {
            endpoint.fill(&mut execution.pocket.lock());
            behind = endpoint.messages.len();
        }
        for channel in &message.channels {
            hub.hold(*channel, execution);
        }
        Some(Got::Message(message))
    })?;
    if let Some(credit) = credit {
        let _ = worker.outbox.push_urgent(ToHost::Credit(id, credit).encode());
    }
    match got {
        Some(Got::Message(message)) => {
            guest.got(LimitName::Channels);
            if own {
                set_patience(guest, behind);
            }
            buffer.write(memory, guest, &message)
        }
        Some(Got::Landed(length)) => {
            guest.got(LimitName::Channels);
            set_patience(guest, behind);
            Size::new(length, 0).write(memory, buffer.size_pointer())?;
            Ok(status::OK)
        }
        Some(Got::Begun(length)) => land(memory, guest, buffer, length, deadline),
        Some(Got::Kept(size, status)) => {
            if status == status::LIMIT {
                guest.refuse_channels();
            }
            size.write(memory, buffer.size_pointer())?;
            Ok(status)
        }
        Some(Got::Ended(status)) => Ok(status),
        None => Ok(status::TIMEOUT),
    }
}

/// What a guest says that has more at hand is kept while it does that, if it does so quickly: until it has done as much as is left,
/// `behind` what it has at hand included, so that whoever gives it more does in time.
fn set_patience(guest: &mut Guest, behind: usize) {
    let Some(pace) = &mut guest.pace else { return };
    let at_hand = guest.execution.pocket.lock().len();
    let is_quick = pace.go_on(u32::try_from(at_hand + 1).unwrap_or(u32::MAX));
    let patient = is_quick && at_hand > 0;
    guest.worker.outbox.be_patient(patient);
    if patient && pace.has_done(at_hand + 1 + behind) {
        guest.worker.outbox.about_to_wait();
    }
}

/// Takes the next message that the guest has at hand, if there is one.
fn receive_at_hand(memory: &mut [u8], guest: &mut Guest, buffer: Buffer) -> Result<Option<i32>, Early> {
    let mut pocket = guest.execution.pocket.lock();
    let Some(next) = pocket.next() else { return Ok(None) };
    if let Some(stop) = guest.worker.check(&guest.execution) {
        return Err(stop.into());
    }
    if let Err(kept) = buffer.fits(next, 0) {
        Size::of(next).write(memory, buffer.size_pointer())?;
        return Ok(Some(kept));
    }
    memory::write(memory, buffer.0[0], next.bytes)?;
    Size::of(next).write(memory, buffer.size_pointer())?;
    pocket.skip(&guest.execution.account);
    drop(pocket);
    guest.got(LimitName::Channels);
    Ok(Some(status::OK))
}

/// Takes the message of the guest's own channel that arrives at this moment, and whose `length` fits.
fn land(
    memory: &mut [u8],
    guest: &mut Guest,
    buffer: Buffer,
    length: u64,
    deadline: Option<Instant>,
) -> Result<i32, Early> {
    let id = guest.execution.id;
    let mut strip = Strip::new(id, buffer.part(memory, u32::try_from(length).map_err(|_| Fault)?)?);
    let mut spare = Vec::new();
    loop {
        let landed = guest.worker.wait_landing(&guest.execution, deadline, Some(&mut strip), |hub| {
            let endpoint = hub.channels.get_mut(&id)?;
            endpoint.want_parts(true);
            let landed = endpoint.land(&mut spare);
            if let (Some(Landed::Part(_)), Role::Standing) = (&landed, hub.reading.role) {
                // What comes while this part is copied needs no thread in between.
                hub.waiters.executor_is_awake();
            }
            landed.map(Ok).or_else(|| ended(endpoint).map(Err))
        })?;
        let (part, credit) = match landed {
            Some(Ok(Landed::Part(part))) => (part, None),
            Some(Ok(Landed::Last(message, credit))) => (message.bytes.into(), Some(credit)),
            other => {
                let taken = strip.landed().to_vec();
                let mut hub = guest.worker.hub.lock();
                let fits = hub.channels.get_mut(&id).is_none_or(|endpoint| endpoint.put_back(taken));
                if !fits {
                    guest.execution.set_stop(Stop::Limit(LimitName::Memory));
                }
                drop(hub);
                return match other {
                    Some(Err(status)) => Ok(status),
                    _ => Err(stop_or(guest, Early::Status(status::TIMEOUT))),
                };
            }
        };
        if !strip.add(&part) {
            return Err(Fault.into());
        }
        spare = part;
        if let Some(credit) = credit {
            debug_assert!(strip.landed().len() as u64 == length, "what arrives is as long as was announced");
            if let Some(credit) = credit {
                let _ = guest.worker.outbox.push_urgent(ToHost::Credit(id, credit).encode());
            }
            guest.got(LimitName::Channels);
            Size::new(strip.landed().len(), 0).write(memory, buffer.size_pointer())?;
            return Ok(status::OK);
        }
    }
}

fn ended(endpoint: &Endpoint) -> Option<i32> {
    endpoint.ended().map(|ended| match ended {
        Ended::Closed => status::CLOSED,
        Ended::WithError => status::PEER_ERROR,
    })
}

/// Where a guest wants a message: pointer and capacity for bytes, the same for handles, and where the size goes.
#[derive(Clone, Copy)]
pub(super) struct Buffer(pub(super) [u32; 5]);

/// What stands at a `size_ptr`.
pub(super) struct Size {
    bytes: u32,
    channels: u32,
}

impl Size {
    pub(super) fn of(message: Front<'_>) -> Size {
        Size::new(message.bytes.len(), message.channels.len())
    }

    pub(super) fn new(bytes: usize, channels: usize) -> Size {
        // A message is never larger than its limit, but a limit may be larger than a guest's memory can be.
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Size { bytes: number(bytes), channels: number(channels) }
    }

    pub(super) fn write(&self, memory: &mut [u8], pointer: u32) -> Result<(), Fault> {
        memory::write_numbers(memory, pointer, &[self.bytes, self.channels])
    }
}

impl Buffer {
    pub(super) fn size_pointer(self) -> u32 {
        self.0[4]
    }

    /// How many bytes there is room for.
    pub(super) fn capacity(self) -> u64 {
        self.0[1].into()
    }

    /// So many of its bytes.
    pub(super) fn part(self, memory: &mut [u8], count: u32) -> Result<&mut [u8], Fault> {
        let range = memory::range(memory, self.0[0], count, 1)?;
        Ok(&mut memory[range])
    }

    pub(super) fn check(self, memory: &[u8]) -> Result<(), Fault> {
        let Buffer([pointer, capacity, channels, channels_capacity, size]) = self;
        memory::range(memory, pointer, capacity, 1)?;
        memory::range(memory, channels, channels_capacity, 4)?;
        memory::range(memory, size, SIZE_BYTES, 1)?;
        Ok(())
    }

    /// Whether there is room for the message, or the status that says what there is no room for.
    pub(super) fn fits(self, message: Front<'_>, channels_left: usize) -> Result<(), i32> {
        let Buffer([_, capacity, _, channels_capacity, _]) = self;
        if message.bytes.len() as u64 > u64::from(capacity)
            || message.channels.len() as u64 > u64::from(channels_capacity)
        {
            return Err(status::TOO_SMALL);
        }
        if message.channels.len() > channels_left {
            return Err(status::LIMIT);
        }
        Ok(())
    }

    /// Hands a message over that fits. Its channels are held already.
    pub(super) fn write(self, memory: &mut [u8], guest: &mut Guest, message: &Message) -> Result<i32, Early> {
        let Buffer([pointer, _, channels, _, size]) = self;
        let handles: Vec<u32> = message.channels.iter().map(|channel| guest.handles.add_given(*channel)).collect();
        let length = u32::try_from(message.bytes.len()).map_err(|_| Fault)?;
        let range = memory::range(memory, pointer, length, 1)?;
        copy_in(guest, &mut memory[range], &message.bytes)?;
        memory::write_numbers(memory, channels, &handles)?;
        Size::of(message.into()).write(memory, size)?;
        Ok(status::OK)
    }
}
