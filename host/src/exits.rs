//! The ends of workers' processes, for readers that would not hear of them: a process can leave a child behind that keeps
//! its end of the connection open.
//!
//! A reader waits for its stream and nothing else, so that a read is one system call. One thread for the whole process waits
//! for all workers' pidfds. When one of them ends, its connection is shut down: its reader gets what has arrived, and then
//! the end, whoever else has the other side. Nobody has to be told that a connection ended first; its process ends as well,
//! and that is noticed here.

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

struct Exits {
    epoll: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next_key: u64,
    /// The descriptors stay open for as long as they are here, whoever else has closed them: none is watched for ever.
    entries: HashMap<u64, (Arc<OwnedFd>, Weak<Connection>)>,
}

/// Has `connection` shut down when the process of this pidfd has ended.
///
/// # Errors
/// The system has no thread for it, or no memory.
pub(crate) fn watch(connection: &Arc<Connection>, pidfd: Arc<OwnedFd>) -> io::Result<()> {
    static EXITS: OnceLock<Result<Arc<Exits>, io::ErrorKind>> = OnceLock::new();
    let exits = EXITS.get_or_init(|| start().map_err(|error| error.kind())).as_ref().map_err(|kind| *kind)?;
    let mut watched = exits.watched.lock();
    let key = watched.next_key;
    watched.next_key += 1;
    epoll::add(&exits.epoll, &*pidfd, EventData::new_u64(key), EventFlags::IN)?;
    watched.entries.insert(key, (pidfd, Arc::downgrade(connection)));
    Ok(())
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
                let ended = self.watched.lock().entries.remove(&event.data.u64());
                let Some((pidfd, connection)) = ended else { continue };
                // Closing it would not do while somebody else has it open.
                let _ = epoll::delete(&self.epoll, &*pidfd);
                if let Some(connection) = connection.upgrade() {
                    connection.outbox.shutdown();
                }
            }
        }
    }
}
