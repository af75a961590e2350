//! What a thread of the service has to write: which outboxes are to be served, and when.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFlags, Timespec};
use sandgate_wire::outbox::Served;
use sandgate_wire::transport::Room;

use super::MAX_EVENTS;
use crate::callback::run_soon;
use crate::connection::Connection;

/// The outboxes of one thread that have something to be looked after.
#[derive(Debug)]
pub(super) struct Writing {
    /// Those to serve now.
    now: Vec<u64>,
    /// Those to serve at a moment, each once.
    timers: BTreeSet<(Instant, u64)>,
    times: HashMap<u64, Instant>,
    /// Readable when one of those without room has room: sockets are in the service's own already, for reading.
    epoll: OwnedFd,
    rooms: HashMap<u64, Arc<OwnedFd>>,
}

impl Writing {
    pub(super) fn new() -> io::Result<Writing> {
        Ok(Writing {
            now: Vec::new(),
            timers: BTreeSet::new(),
            times: HashMap::new(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            rooms: HashMap::new(),
        })
    }

    /// What becomes readable when there is room somewhere.
    pub(super) fn room(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Some of them have room.
    pub(super) fn room_is_there(&mut self) {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&Timespec::default())).is_ok() {
            let keys: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            for key in keys {
                self.forget_room(key);
                self.now.push(key);
            }
        }
    }

    /// Whether something is to be served now.
    pub(super) fn has_more(&self) -> bool {
        !self.now.is_empty()
    }

    /// The first moment at which something is to be served.
    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes those that are to be served, and `called` with them.
    pub(super) fn due(&mut self, called: Vec<u64>) -> Vec<u64> {
        let mut due = std::mem::take(&mut self.now);
        due.extend(called);
        if !self.timers.is_empty() {
            let now = Instant::now();
            while let Some((at, key)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
                self.timers.remove(&(at, key));
                self.times.remove(&key);
                due.push(key);
            }
        }
        due.sort_unstable();
        due.dedup();
        due
    }

    /// Serves one; without a connection there is nothing left of it.
    pub(super) fn serve(&mut self, key: u64, connection: Option<&Arc<Connection>>) {
        let Some(connection) = connection else { return self.forget(key) };
        match connection.outbox.serve() {
            Served::Nothing => {}
            Served::At(at) => self.set_timer(key, at),
            Served::Again => self.now.push(key),
            Served::Full => self.wait_for_room(key, connection),
            Served::Closed => self.forget(key),
        }
    }

    fn set_timer(&mut self, key: u64, at: Instant) {
        if let Some(before) = self.times.insert(key, at) {
            self.timers.remove(&(before, key));
        }
        self.timers.insert((at, key));
    }

    fn wait_for_room(&mut self, key: u64, connection: &Arc<Connection>) {
        if self.rooms.contains_key(&key) {
            return;
        }
        match connection.outbox.room() {
            Ok(Room::Now) => self.now.push(key),
            Ok(Room::When(descriptor, what)) => {
                let flags = if what.contains(PollFlags::OUT) { EventFlags::OUT } else { EventFlags::IN };
                if epoll::add(&self.epoll, &*descriptor, EventData::new_u64(key), flags).is_ok() {
                    self.rooms.insert(key, descriptor);
                } else {
                    write_elsewhere(connection);
                }
            }
            Ok(Room::Unknown) => write_elsewhere(connection),
            // It is shut down, and calls once more for that.
            Err(_) => {}
        }
    }

    fn forget_room(&mut self, key: u64) {
        if let Some(descriptor) = self.rooms.remove(&key) {
            // It is there.
            let _ = epoll::delete(&self.epoll, &*descriptor);
        }
    }

    /// It is not to be served any more.
    pub(super) fn forget(&mut self, key: u64) {
        self.forget_room(key);
        if let Some(at) = self.times.remove(&key) {
            self.timers.remove(&(at, key));
        }
    }
}

/// Has a thread write that may wait, for as long as there is something.
fn write_elsewhere(connection: &Arc<Connection>) {
    let connection = Arc::clone(connection);
    run_soon(Box::new(move || connection.outbox.write_out()));
}
