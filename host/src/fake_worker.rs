//! A worker that follows a test's script, at the other end of a real socket pair; and the stage on which host and worker
//! meet.
//!
//! The script says what the worker expects and what it sends, rightly formed or not. Every wait has a deadline and names
//! what it waited for. A [`Stage`] that goes away checks that nothing of it is left: no connection, endpoint or thread.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use sandgate_wire::assembly::SEVERAL;
use sandgate_wire::flow::Credit;
use sandgate_wire::frame::{Frame, FrameReader, Header};
use sandgate_wire::message::{Close, Execute, MAGIC, WorkerHello, WorkerStatus, kind};
use sandgate_wire::messages::each;
use sandgate_wire::outcome::WorkerLoss;
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait};
use sandgate_wire::{ChannelId, Limits, Outcome, ToHost, ToWorker};

use crate::artefact::ArtefactStore;
use crate::channel::Channel;
use crate::connection::{Common, Connection};
use crate::deadline::Deadline;
use crate::gateway::Gateway;
use crate::module::Module;
use crate::output::{OutputRouter, OutputSink};
use crate::spec::Spec;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a test waits for what must not come.
pub(crate) const MOMENT: Duration = Duration::from_millis(20);

pub(crate) const ENGINE: &str = "fake engine";

/// The worker's end of a connection.
#[derive(Debug)]
pub(crate) struct FakeWorker {
    socket: UnixStream,
    frames: FrameReader,
    waiting: OwnedFd,
    /// What is left of a frame of several messages: each with a frame of its own.
    several: VecDeque<Vec<u8>>,
}

/// A frame as it is written.
pub(crate) fn frame(kind: u8, flags: u8, channel: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&Header { length, kind, flags, channel: ChannelId(channel) }.encode()[..], body].concat()
}

/// The bytes of a message that is not data.
pub(crate) fn bytes_of(message: &ToHost<'_>) -> Vec<u8> {
    let encoded = message.encode();
    frame(encoded.kind, encoded.flags, encoded.channel.0, &encoded.body)
}

pub(crate) fn hello() -> ToHost<'static> {
    let package_version = env!("CARGO_PKG_VERSION").to_owned();
    ToHost::Hello(WorkerHello {
        package_version,
        pid: 1,
        engine: ENGINE.to_owned(),
        isolation: sandgate_wire::isolation::Report::default(),
    })
}

pub(crate) fn done(channel: u64, outcome: Outcome) -> ToHost<'static> {
    ToHost::Done(ChannelId(channel), outcome)
}

pub(crate) fn open(channel: u64, parent: u64) -> ToHost<'static> {
    ToHost::Open { channel: ChannelId(channel), parent: ChannelId(parent) }
}

pub(crate) fn close(channel: u64, error: Option<&str>) -> ToHost<'static> {
    ToHost::Close(ChannelId(channel), Close { error: error.map(str::to_owned), sending_only: false })
}

pub(crate) fn credit(channel: u64, bytes: u64, messages: u32) -> ToHost<'static> {
    ToHost::Credit(ChannelId(channel), Credit { bytes, messages })
}

pub(crate) fn closed_by_host(channel: u64) -> ToWorker<'static> {
    ToWorker::Close(ChannelId(channel), Close::default())
}

/// An end that is no success.
pub(crate) fn outcome_of_panic() -> Outcome {
    Outcome::Panicked { message: "oh".to_owned(), location: None, backtrace: Vec::new() }
}

fn as_frame(bytes: &[u8]) -> Frame<'_> {
    let (header, payload) = bytes.split_first_chunk().expect("a frame has a header");
    Frame { header: Header::decode(*header).unwrap(), payload }
}

/// The payload of a one-chunk message that carries channels; its flags are 2.
pub(crate) fn with_channels(ids: &[u64], bytes: &[u8]) -> Vec<u8> {
    let count = u16::try_from(ids.len()).unwrap().to_le_bytes();
    let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    [&count[..], &ids, bytes].concat()
}

impl FakeWorker {
    pub(crate) fn new(socket: OwnedFd) -> FakeWorker {
        let (_, receive) = unix_socket(socket.try_clone().unwrap(), Descriptors::Accept);
        let waiting = socket.try_clone().unwrap();
        let socket = UnixStream::from(socket);
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let frames = FrameReader::new(Box::new(receive));
        FakeWorker { socket, frames, waiting, several: VecDeque::new() }
    }

    // ---- what it sends ----

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the host reads what its worker sends");
    }

    /// Sends what the host may not read to its end, because it hangs up.
    pub(crate) fn raw_or_refused(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    pub(crate) fn send(&mut self, message: &ToHost<'_>) {
        self.raw(&bytes_of(message));
    }

    /// Sends a message of one chunk.
    pub(crate) fn data(&mut self, channel: u64, bytes: &[u8]) {
        self.raw(&frame(kind::DATA, 0, channel, bytes));
    }

    /// Sends a message that carries channels, of one chunk.
    pub(crate) fn data_with(&mut self, channel: u64, ids: &[u64], bytes: &[u8]) {
        self.raw(&frame(kind::DATA, 2, channel, &with_channels(ids, bytes)));
    }

    pub(crate) fn hang_up(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).expect("the host has not gone first");
    }

    /// Hangs up, unless the host did so first.
    pub(crate) fn hang_up_if_there(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    // ---- what it expects ----

    /// Waits for the next message and looks at it; `None` is the end of the connection.
    pub(crate) fn next<R>(&mut self, what: &str, look: impl FnOnce(Option<ToWorker<'_>>) -> R) -> R {
        if let Some(frame) = self.several.pop_front() {
            return look(Some(ToWorker::decode(as_frame(&frame)).unwrap()));
        }
        let deadline = Deadline::after(PATIENCE);
        while !self.frames.has_frame() {
            let readable = wait(self.waiting.as_fd(), PollFlags::IN, deadline.left()).unwrap();
            assert!(readable, "worker waited {PATIENCE:?} for {what}");
            if !self.frames.fill_now() {
                return look(None);
            }
        }
        let frame = self.frames.read_frame().unwrap().expect("there is a frame");
        if (frame.header.kind, frame.header.flags) == (kind::DATA, SEVERAL) {
            let channel = frame.header.channel.0;
            self.several = each(frame.payload).map(|message| self::frame(kind::DATA, 0, channel, message)).collect();
            return self.next(what, look);
        }
        look(Some(ToWorker::decode(frame).unwrap()))
    }

    pub(crate) fn expect(&mut self, expected: &ToWorker<'_>) {
        let what = format!("{expected:?}");
        self.next(&what, |message| assert_eq!(message.as_ref(), Some(expected)));
    }

    /// Takes everything up to the end of the connection.
    pub(crate) fn drain(&mut self) {
        while self.next("the end of the connection", |message| message.is_some()) {}
    }

    pub(crate) fn expect_hello(&mut self) {
        self.next("the host's hello", |message| assert!(matches!(message, Some(ToWorker::Hello(_))), "{message:?}"));
    }

    /// A message of one chunk without channels.
    pub(crate) fn expect_data(&mut self, channel: u64, bytes: &[u8]) {
        self.next("data", |message| match message {
            Some(ToWorker::Data(id, chunk)) => assert_eq!((id.0, chunk.flags, chunk.payload), (channel, 0, bytes)),
            other => panic!("data on channel {channel} was expected, not {other:?}"),
        });
    }

    /// An execution; its module and arguments are taken on the way.
    pub(crate) fn expect_execute(&mut self) -> (u64, Execute) {
        loop {
            let mut is_load = false;
            let found = self.next("EXECUTE", |message| match message {
                Some(ToWorker::Load { .. }) => {
                    is_load = true;
                    None
                }
                Some(ToWorker::Arguments(..)) => None,
                Some(ToWorker::Execute(id, execute)) => Some((id.0, execute)),
                other => panic!("EXECUTE was expected, not {other:?}"),
            });
            if let Some(found) = found {
                return found;
            }
            if is_load {
                drop(self.frames.take_descriptor().expect("LOAD comes with a descriptor"));
            }
        }
    }
}

/// A connection and its worker, which have greeted each other.
pub(crate) struct Stage {
    pub(crate) worker: FakeWorker,
    connection: Option<Arc<Connection>>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage::with(Spec::popen())
    }

    pub(crate) fn with(spec: Spec) -> Stage {
        Stage::with_output(spec, OutputSink::Discard)
    }

    pub(crate) fn with_output(spec: Spec, sink: OutputSink) -> Stage {
        let mut stage = Stage::before_hello(spec, sink);
        stage.worker.expect_hello();
        stage.worker.send(&hello());
        stage.connection().wait_ready(Deadline::after(PATIENCE)).expect("a hello makes the connection ready");
        stage
    }

    pub(crate) fn before_hello(spec: Spec, sink: OutputSink) -> Stage {
        let (ours, theirs) = socket_pair().unwrap();
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let id = spec.given_id().unwrap_or("gw0").to_owned();
        let spec = spec.id(id.clone());
        let output = OutputRouter::new(id.clone(), sink);
        let artefacts = ArtefactStore::holding(&module(), ENGINE);
        let transport = (Box::new(send) as _, Box::new(receive) as _);
        let common = Common::new(output, artefacts, None);
        let connection = Connection::start(id, spec, transport, None, common).unwrap();
        Stage { worker: FakeWorker::new(theirs), connection: Some(connection) }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        self.connection.as_ref().expect("taken by drop alone")
    }

    pub(crate) fn gateway(&self) -> Gateway {
        self.connection().gateway()
    }

    /// A running execution.
    pub(crate) fn execution(&mut self) -> Channel {
        let channel = self.gateway().remote_exec(&module()).unwrap();
        assert_eq!(self.worker.expect_execute().0, channel.id());
        channel
    }

    /// A channel without an execution.
    pub(crate) fn plain(&mut self) -> Channel {
        let channel = self.gateway().new_channel().unwrap();
        self.worker.expect(&ToWorker::Open(ChannelId(channel.id())));
        channel
    }

    /// Returns when the host has taken everything that the worker has sent. Checks that the worker has read everything
    /// that the host has sent.
    pub(crate) fn settle(&mut self) {
        let connection = Arc::clone(self.connection());
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| connection.worker_status(PATIENCE).expect("an answer to STATUS"));
            self.worker.expect(&ToWorker::Status);
            self.worker.send(&ToHost::Status(WorkerStatus::default()));
            asking.join().unwrap();
        });
    }

    /// As [`settle`](Self::settle), past messages of the host's that `skips` knows.
    pub(crate) fn settle_past(&mut self, skips: impl Fn(&ToWorker<'_>) -> bool) {
        let connection = Arc::clone(self.connection());
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| connection.worker_status(PATIENCE).expect("an answer to STATUS"));
            while self.worker.next("STATUS", |message| match message {
                Some(ToWorker::Status) => false,
                Some(other) if skips(&other) => true,
                other => panic!("STATUS was expected, not {other:?}"),
            }) {}
            self.worker.send(&ToHost::Status(WorkerStatus::default()));
            asking.join().unwrap();
        });
    }

    /// Waits until the connection is over.
    pub(crate) fn loss(&self) -> WorkerLoss {
        self.connection().wait_ended(Deadline::after(PATIENCE)).expect("the connection ends")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let Some(connection) = self.connection.take() else { return };
        let _ = self.worker.socket.shutdown(std::net::Shutdown::Both);
        assert!(connection.wait_ended(Deadline::after(PATIENCE)).is_some(), "a connection ends with its worker");
        connection.join();
        assert_eq!(connection.open_channels(), 0, "a connection that is over has no channels");
        let left = Arc::downgrade(&connection);
        drop(connection);
        // Channels hold their connection, so there is none left either.
        eventually("the connection to be gone", || Weak::strong_count(&left) == 0);
    }
}

/// The one module that the fake engine has compiled.
pub(crate) fn module() -> Module {
    Module::from_bytes(*b"module").unwrap()
}

/// A spec whose messages hold at most so many bytes.
pub(crate) fn spec_of_messages(message_bytes: u64) -> Spec {
    Spec::popen().with_limits(Limits { message_bytes, ..Limits::default() })
}

/// Waits for something that tells nobody when it happens.
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::yield_now();
    }
}

/// The hello of a peer of any magic and version.
pub(crate) fn strange_hello(magic: &[u8; 8], version: u16) -> Vec<u8> {
    let encoded = hello().encode();
    let rest = &encoded.body[MAGIC.len() + 2..];
    frame(kind::HELLO, 0, 0, &[&magic[..], &version.to_le_bytes(), rest].concat())
}
