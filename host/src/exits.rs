//! The ends of workers' processes, for readers that would not hear of them: a process can leave a child behind that keeps
//! its end of the connection open.
//!
//! A reader waits for its stream and nothing else. One thread for the whole process waits for all workers' pidfds. When one of
//! them ends, its connection is shut down: its reader gets what has arrived, and then the end, whoever else has the other
//! side. And the connection is looked at, since one that is over already waits for this alone.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::connection::Connection;

/// Ends that are taken note of in one go.
const MAX_EVENTS: usize = 64;

#[derive(Debug)]
struct Exits {
    epoll: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    next_key: u64,
    /// The descriptors stay open for as long as they are here.
    entries: HashMap<u64, (Arc<OwnedFd>, Weak<Connection>)>,
}

/// What is watched, until this is dropped. Its descriptor is closed then, if nobody else has it.
#[derive(Debug)]
pub(crate) struct Watch {
    key: u64,
    exits: Arc<Exits>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.exits.forget(self.key);
    }
}

/// Has `connection` shut down when the process of this pidfd has ended.
///
/// # Errors
/// The system has no thread for it, or no memory.
pub(crate) fn watch(connection: &Arc<Connection>, pidfd: Arc<OwnedFd>) -> io::Result<Watch> {
    static EXITS: OnceLock<Result<Arc<Exits>, io::ErrorKind>> = OnceLock::new();
    let exits = EXITS.get_or_init(|| start().map_err(|error| error.kind())).as_ref().map_err(|kind| *kind)?;
    let mut watched = exits.watched.lock();
    let key = watched.next_key;
    watched.next_key += 1;
    epoll::add(&exits.epoll, &*pidfd, EventData::new_u64(key), EventFlags::IN)?;
    watched.entries.insert(key, (pidfd, Arc::downgrade(connection)));
    Ok(Watch { key, exits: Arc::clone(exits) })
}

fn start() -> io::Result<Arc<Exits>> {
    let exits = Arc::new(Exits { epoll: epoll::create(CreateFlags::CLOEXEC)?, watched: Mutex::default() });
    let of_thread = Arc::clone(&exits);
    std::thread::Builder::new().name("sandgate-exits".to_owned()).spawn(move || of_thread.run())?;
    Ok(exits)
}

impl Exits {
    fn run(&self) {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return tracing::error!("ends of workers are not watched any more: {error}"),
            }
            for event in events.drain(..) {
                if let Some(connection) = self.forget(event.data.u64()).and_then(|connection| connection.upgrade()) {
                    connection.process_ended();
                }
            }
        }
    }

    /// Watches it no more. All of it under the lock: who finds it gone finds its descriptor closed.
    fn forget(&self, key: u64) -> Option<Weak<Connection>> {
        let mut watched = self.watched.lock();
        let (pidfd, connection) = watched.entries.remove(&key)?;
        // Closing it would not do while somebody else has it open.
        let _ = epoll::delete(&self.epoll, &*pidfd);
        drop(pidfd);
        drop(watched);
        Some(connection)
    }
}
