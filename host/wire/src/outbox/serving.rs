//! Writing what senders leave, for whoever serves many outboxes on one thread: what the writer thread does, without its waits.

use std::fmt;
use std::io;
use std::time::Instant;

use super::gathering::GATHER_TIME;
use super::queues::State;
use super::{MAX_INLINE_BATCHES, Outbox, Progress};
use crate::transport::Room;

/// What is called when there is something to serve. It does not block, and does nothing with the outbox.
pub(super) struct Server(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").finish_non_exhaustive()
    }
}

/// What starts the writer thread. It does nothing with the outbox.
pub(super) struct Starter(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Starter").finish_non_exhaustive()
    }
}

/// When an outbox is to be served again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// When it calls.
    Nothing,
    /// When it calls, and at this moment.
    At(Instant),
    /// After others had their turns.
    Again,
    /// When it calls, and when its transport has [room](Outbox::room).
    Full,
    /// Never again.
    Closed,
}

impl Outbox {
    /// From here on there is no writer thread. `call` is called whenever [`serve`](Self::serve) has something to do, with the
    /// outbox locked: it must not block, nor use the outbox. To be called once, before anything is sent.
    pub fn serve_by(&self, call: impl Fn() + Send + Sync + 'static) {
        let first = self.server.set(Server(Box::new(call)));
        debug_assert!(first.is_ok(), "an outbox is served by one");
    }

    /// Has the thread that runs [`run_writer`](Self::run_writer) started once there is something for it to do, by a call
    /// of `start` with the outbox locked: it must not block for longer than a thread takes to start, nor use the outbox.
    /// To be called before anything is sent.
    pub fn start_writer_by(&self, start: impl FnOnce() + Send + 'static) {
        *self.starter.lock() = Some(Starter(Box::new(start)));
    }

    /// Writes what senders have left, as far as there is room and for a few batches. Never blocks.
    pub fn serve(&self) -> Served {
        let mut state = self.state.lock();
        if state.closed {
            return Served::Closed;
        }
        if !state.writer_wanted {
            match after(&mut state) {
                Served::At(at) if at <= Instant::now() => {}
                other => return other,
            }
        }
        state.writer_wanted = false;
        if state.writing {
            // It calls if it leaves something.
            return after(&mut state);
        }
        if !state.has_work() {
            // The sender wrote all of it in its last turn, and left it to others to say so.
            self.idle.notify_all();
            return after(&mut state);
        }
        state.writing = true;
        let served = match self.write(state, MAX_INLINE_BATCHES) {
            Progress::Done => return after(&mut self.state.lock()),
            Progress::Failed => return Served::Closed,
            Progress::NoRoom => Served::Full,
            Progress::TurnsUp => Served::Again,
        };
        let mut state = self.state.lock();
        state.writing = false;
        state.writer_wanted = true;
        if state.closed { Served::Closed } else { served }
    }

    /// When the transport of an outbox that is [full](Served::Full) has room.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn room(&self) -> io::Result<Room> {
        self.transport.room()
    }

    /// Writes what senders have left, and waits for room: for a transport whose room is [unknown](Room::Unknown). Returns when
    /// all is written, or the connection is gone.
    pub fn write_out(&self) {
        let mut state = self.state.lock();
        state.writer_wanted = false;
        if state.closed || state.writing || !state.has_work() {
            self.idle.notify_all();
            return;
        }
        state.writing = true;
        drop(state);
        self.write_and_wait();
    }

    /// Has the thread come that writes what senders leave.
    pub(super) fn call_writer(&self) {
        match self.server.get() {
            Some(Server(call)) => call(),
            None => {
                let starter = self.starter.lock().take();
                if let Some(Starter(start)) = starter {
                    start();
                }
                self.wake_writer.notify_one();
            }
        }
    }
}

/// What is to be looked after if nothing is to be written now.
fn after(state: &mut State) -> Served {
    if !state.writer_watches {
        return Served::Nothing;
    }
    let now = Instant::now();
    match state.gathered_since {
        // Whoever writes takes along what is gathered.
        Some(_) if state.writing => Served::At(now + GATHER_TIME),
        Some(since) => Served::At(since + state.gather_time()),
        None if state.last_small.is_some_and(|last| now.saturating_duration_since(last) <= state.gather_time()) => {
            Served::At(now + state.gather_time())
        }
        None => {
            state.writer_watches = false;
            Served::Nothing
        }
    }
}
