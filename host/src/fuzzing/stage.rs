//! A connection whose worker is a script: the thread that reads the connection plays it.
//!
//! Everything that happens between two reads of the connection happens on that thread, so that a script runs the same way
//! each time: bytes of the worker arrive in the order of the script, and what users do stands between them.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sandgate_wire::ToWorker;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::transport::{ReceiveHalf, SendHalf};

use super::link_script::{self, Plays};
use crate::artefact::ArtefactStore;
use crate::connection::{Common, Connection};
use crate::deadline::Deadline;
use crate::module::Module;
use crate::output::{OutputRouter, OutputSink};
use crate::spec::Spec;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes written by the host that are looked at.
const MAX_WRITTEN_BYTES: usize = 4 << 20;
/// The engine of the script's worker.
pub(super) const ENGINE: &str = "fuzz";

/// The one module that the engine has compiled.
pub(super) fn module() -> Module {
    Module::from_bytes(*b"module").expect("bytes without a meaning are a module to the host")
}

/// What plays a script: called when the host wants to read and all bytes so far are taken.
pub(super) trait Play: Send + std::fmt::Debug {
    /// The worker's next bytes; `None` is the end of the connection. The wire is what the host writes to.
    fn play(&mut self, connection: &Arc<Connection>, wire: &Wire) -> Option<Vec<u8>>;
}

/// Runs a script to its end, and checks that the host's end of it is in order.
pub(super) fn run(spec: Spec, sink: OutputSink, script: Box<dyn Play>) {
    let wire = Arc::new(Wire::default());
    let connection = Arc::new((Mutex::new(None), Condvar::new()));
    let script = Script { script, connection: Arc::clone(&connection), wire: Arc::clone(&wire) };
    let receive = Plays { script, left: Vec::new() };
    let transport = (Box::new(Writes(Arc::clone(&wire))) as _, Box::new(receive) as _);
    let output = OutputRouter::new("gw0".to_owned(), sink);
    let artefacts = ArtefactStore::holding(&module(), ENGINE);
    let started =
        Connection::start("gw0".to_owned(), spec.id("gw0"), transport, None, Common::new(output, artefacts, None));
    let started = started.expect("threads can be started");
    *connection.0.lock() = Some(Arc::clone(&started));
    connection.1.notify_all();

    assert!(started.wait_ended(Deadline::after(PATIENCE)).is_some(), "the connection does not end with its stream");
    started.join();
    assert_eq!(started.open_channels(), 0, "a connection that is over has channels");
    wire.check();
    drop(connection);
    let left = Arc::downgrade(&started);
    drop(started);
    // Callbacks may be at their ends on their own threads.
    let start = Instant::now();
    while Weak::strong_count(&left) > 0 {
        assert!(start.elapsed() < PATIENCE, "somebody holds a connection that is over");
        std::thread::yield_now();
    }
}

/// What the host writes to: a worker that reads as the script wants it to.
#[derive(Debug, Default)]
pub(super) struct Wire {
    state: Mutex<WireState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WireState {
    closed: bool,
    /// Nothing is read.
    stalled: bool,
    /// The most that is taken at once, if not everything.
    most: Option<usize>,
    written: Vec<u8>,
}

impl Wire {
    pub(super) fn stall(&self, stalled: bool) {
        self.state.lock().stalled = stalled;
        self.changed.notify_all();
    }

    pub(super) fn take_at_most(&self, bytes: Option<usize>) {
        self.state.lock().most = bytes.map(|bytes| bytes.max(1));
    }

    /// Whatever its worker does, a host writes what a worker can read.
    fn check(&self) {
        let written = std::mem::take(&mut self.state.lock().written);
        let mut frames = FrameReader::new(Box::new(Written { bytes: written, at: 0 }));
        while let Ok(Some(frame)) = frames.read_frame() {
            if let Err(error) = ToWorker::decode(frame) {
                panic!("the host wrote what is no message: {error}");
            }
        }
    }
}

/// The sending half.
#[derive(Debug)]
struct Writes(Arc<Wire>);

impl SendHalf for Writes {
    fn try_write(&self, buffers: &[IoSlice<'_>], _descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.stalled {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut left = state.most.unwrap_or(usize::MAX);
        let mut taken = 0;
        for buffer in buffers {
            let part = &buffer[..left.min(buffer.len())];
            let room = MAX_WRITTEN_BYTES - state.written.len();
            state.written.extend_from_slice(&part[..room.min(part.len())]);
            taken += part.len();
            left -= part.len();
        }
        Ok(taken)
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        while state.stalled && !state.closed {
            self.0.changed.wait(&mut state);
        }
        Ok(())
    }

    fn shutdown(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// What the receiving half plays.
#[derive(Debug)]
struct Script {
    script: Box<dyn Play>,
    connection: Arc<(Mutex<Option<Arc<Connection>>>, Condvar)>,
    wire: Arc<Wire>,
}

impl Script {
    fn connection(&self) -> Arc<Connection> {
        let (slot, given) = &*self.connection;
        let mut slot = slot.lock();
        loop {
            match &*slot {
                Some(connection) => return Arc::clone(connection),
                None => given.wait(&mut slot),
            }
        }
    }
}

impl link_script::Play for Script {
    fn play(&mut self) -> Option<Vec<u8>> {
        // The host may have hung up.
        let hung_up = self.wire.state.lock().closed;
        if hung_up { None } else { self.script.play(&self.connection(), &self.wire) }
    }
}

/// What the host has written, as its worker would read it.
#[derive(Debug)]
struct Written {
    bytes: Vec<u8>,
    at: usize,
}

impl ReceiveHalf for Written {
    fn read(&mut self, buffer: &mut [u8], _wait: bool) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let count = buffer.len().min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}
