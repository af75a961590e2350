//! The two halves of a connection over rings.
//!
//! Reading: what is in the ring; else spin for a moment; else say that this side sleeps, look once more, and wait for the
//! line. Writing never waits; [`wait_writable`](crate::transport::SendHalf::wait_writable) does the same on the other side
//! of the ring, with the other bell.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustix::event::PollFlags;

use super::Violation;
use super::bell::{Bells, Heard, WaitFor};
use super::consumer::Consumer;
use super::layout::Ring;
use super::producer::Producer;
use crate::spin::Spin;
use crate::transport::{Descriptors, ReceiveHalf, Room, SendHalf};

/// Descriptors that may wait for the message that announces them.
const MAX_WAITING_DESCRIPTORS: usize = 16;

/// How long a sender that writes a large message looks for room at once: while its peer does something with what it has read.
const MOST_PATIENCE: Duration = Duration::from_micros(200);

/// What is wrong with the peer, if the half that sends has found it: the other one tells.
type Fault = Arc<OnceLock<Violation>>;

/// Both halves of one side, which sends through one ring and receives through the other.
pub(super) fn halves(
    send: Ring,
    receive: Ring,
    bells: Bells,
    descriptors: Descriptors,
) -> (RingSendHalf, RingReceiveHalf) {
    let (bells, fault) = (Arc::new(bells), Fault::default());
    let sending = Sending { producer: Producer::new(send), line_is_full: false };
    let receive = RingReceiveHalf {
        consumer: Consumer::new(receive),
        bells: Arc::clone(&bells),
        descriptors,
        waiting: VecDeque::new(),
        said_it_sleeps: false,
        has_ended: false,
        spin: Spin::default(),
        fault: Arc::clone(&fault),
    };
    (RingSendHalf { sending: Mutex::new(Some(sending)), bells: RwLock::new(Some(bells)), fault }, receive)
}

/// The sending half of a connection over rings. When it is shut down it lets go of the memory and the descriptors.
#[derive(Debug)]
pub struct RingSendHalf {
    /// Held while bytes are copied, and while one looks for room, which is for a moment ([`MOST_PATIENCE`]); never while anybody sleeps.
    sending: Mutex<Option<Sending>>,
    bells: RwLock<Option<Arc<Bells>>>,
    fault: Fault,
}

#[derive(Debug)]
struct Sending {
    producer: Producer<Ring>,
    /// There was no room for a descriptor, rather than for bytes.
    line_is_full: bool,
}

/// The receiving half of a connection over rings.
#[derive(Debug)]
pub struct RingReceiveHalf {
    consumer: Consumer<Ring>,
    bells: Arc<Bells>,
    descriptors: Descriptors,
    waiting: VecDeque<OwnedFd>,
    said_it_sleeps: bool,
    /// The line has, so that what is in the ring is the rest.
    has_ended: bool,
    spin: Spin,
    fault: Fault,
}

impl RingSendHalf {
    fn wrong(&self, violation: Violation) -> io::Error {
        self.fault.get_or_init(|| violation);
        violation.into()
    }
}

impl RingSendHalf {
    /// Has the peer ring for room, if there is none; nothing to wait for if there is.
    fn about_to_wait(&self) -> io::Result<Option<WaitFor>> {
        match self.sending.lock().as_mut() {
            None => Ok(None),
            Some(Sending { line_is_full: true, .. }) => Ok(Some(WaitFor::RoomInLine)),
            Some(Sending { producer, .. }) => {
                let waits = producer.about_to_wait().map_err(|violation| self.wrong(violation))?;
                Ok(waits.then_some(WaitFor::RoomInRing))
            }
        }
    }
}

impl RingSendHalf {
    fn write(
        &self,
        buffers: &[IoSlice<'_>],
        descriptor: Option<BorrowedFd<'_>>,
        has_to_ring: impl FnOnce(&Producer<Ring>) -> bool,
    ) -> io::Result<usize> {
        let mut sending = self.sending.lock();
        let Sending { producer, line_is_full } = sending.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if let Some(descriptor) = descriptor {
            let bells = self.bells.read();
            let bells = bells.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            if producer.room().map_err(|violation| self.wrong(violation))? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // Before the frame that announces it, so that it is there when that is read.
            let given = bells.give(descriptor);
            *line_is_full = given.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            given?;
        }
        let written = producer.write(buffers).map_err(|violation| self.wrong(violation))?;
        if written == 0 && buffers.iter().any(|buffer| !buffer.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if has_to_ring(producer) {
            self.bells.read().as_ref().ok_or(io::ErrorKind::BrokenPipe)?.ring_bytes()?;
        }
        Ok(written)
    }
}

impl SendHalf for RingSendHalf {
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        self.write(buffers, descriptor, Producer::has_to_ring)
    }

    fn try_write_lazily(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        self.write(buffers, descriptor, Producer::has_to_ring_lazily)
    }

    fn wake_peer(&self) -> io::Result<()> {
        match self.sending.lock().as_ref() {
            Some(Sending { producer, .. }) if producer.has_to_ring() => {
                self.bells.read().as_ref().ok_or(io::ErrorKind::BrokenPipe)?.ring_bytes()
            }
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn wait_writable(&self) -> io::Result<()> {
        let Some(bells) = self.bells.read().clone() else { return Ok(()) };
        let Some(waits_for) = self.about_to_wait()? else { return Ok(()) };
        let waited = bells.wait_for_room(waits_for);
        if let Some(sending) = self.sending.lock().as_mut() {
            sending.producer.is_awake();
            sending.line_is_full = false;
        }
        waited
    }

    fn look_for_room(&self, patience: Duration) -> bool {
        match self.sending.lock().as_mut() {
            Some(Sending { producer, line_is_full: false }) => {
                Spin::for_once(patience.min(MOST_PATIENCE), || producer.has_some_room())
            }
            _ => false,
        }
    }

    fn room(&self) -> io::Result<Room> {
        let bells = self.bells.read().clone().ok_or(io::ErrorKind::BrokenPipe)?;
        // What was rung for earlier room says nothing of this time's. Whoever rings after the next step rings anew.
        bells.hush_room()?;
        Ok(match self.about_to_wait()? {
            None => Room::Now,
            Some(WaitFor::RoomInLine) => Room::When(Arc::clone(&bells.line), PollFlags::OUT),
            Some(WaitFor::RoomInRing) => Room::When(Arc::clone(&bells.room), PollFlags::IN),
        })
    }

    fn shutdown(&self) {
        // First, so that whoever waits does not, and nobody else begins to.
        if let Some(bells) = self.bells.write().take() {
            bells.hang_up();
        }
        drop(self.sending.lock().take());
    }
}

impl RingReceiveHalf {
    /// Takes what is in the line. With `wait`, waits for something.
    fn hear(&mut self, wait: bool) -> io::Result<Heard> {
        let heard = match self.descriptors {
            Descriptors::Refuse => self.bells.hear(wait),
            Descriptors::Accept => self.bells.hear_with_descriptors(wait, &mut self.waiting),
        }?;
        if heard == Heard::End && !self.has_ended {
            self.has_ended = true;
            // What it has written before its end is still read.
            self.consumer.close()?;
        }
        if self.waiting.len() > MAX_WAITING_DESCRIPTORS {
            return Err(io::Error::other("peer attaches descriptors that nothing announces"));
        }
        Ok(heard)
    }
}

impl RingReceiveHalf {
    /// Takes something with `take`, if that has room for anything.
    fn receive(
        &mut self,
        wait: bool,
        has_room: bool,
        mut take: impl FnMut(&mut Consumer<Ring>) -> Result<usize, Violation>,
    ) -> io::Result<usize> {
        if std::mem::take(&mut self.said_it_sleeps) {
            self.consumer.is_awake();
            // If it was woken, the bell is to be silent before it sleeps again.
            self.hear(false)?;
        }
        loop {
            let count = take(&mut self.consumer)?;
            if count > 0 {
                if self.consumer.has_to_ring() {
                    self.bells.ring_room();
                }
                return Ok(count);
            }
            if self.has_ended || !has_room {
                return self.fault.get().map_or(Ok(0), |violation| Err((*violation).into()));
            }
            if !wait {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.spin.until(None, || self.consumer.has_something()) || !self.consumer.about_to_wait() {
                continue;
            }
            let heard = self.hear(true);
            self.consumer.is_awake();
            self.spin.slept();
            heard?;
        }
    }
}

impl ReceiveHalf for RingReceiveHalf {
    fn read(&mut self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        self.receive(wait, !buffer.is_empty(), |consumer| consumer.read(buffer))
    }

    fn append(&mut self, to: &mut Vec<u8>, most: usize, wait: bool) -> io::Result<usize> {
        let has_room = most > 0 && to.len() < to.capacity();
        self.receive(wait, has_room, |consumer| consumer.append(to, most))
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        if self.waiting.is_empty() && self.descriptors == Descriptors::Accept {
            // It came before the frame that announces it. If not, the frame is wrong, and its reader says so.
            let _ = self.hear(false);
        }
        self.waiting.pop_front()
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bells.line())
    }

    fn about_to_wait(&mut self) -> bool {
        self.said_it_sleeps = !self.has_ended && self.consumer.about_to_wait();
        self.said_it_sleeps
    }

    fn about_to_doze(&mut self) -> Option<bool> {
        Some(!self.has_ended && self.consumer.about_to_doze())
    }

    fn sleeps_from_here(&mut self) -> bool {
        self.consumer.sleeps_from_here()
    }

    fn has_dozed(&mut self) -> io::Result<()> {
        self.consumer.is_awake();
        self.hear(false).map(drop)
    }

    fn own_bell(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.bells.line))
    }

    fn look(&self) -> Option<bool> {
        Some(self.has_ended || self.consumer.has_something())
    }
}
