//! What an agent has started: workers, and the launchers of further links; and the bytes between them and the link.
//!
//! ```text
//!  stream ──► down: an artefact's number becomes its memory ──► local transport ──► process
//!  stream ◄── up: starts it, ends when it has ────────────────◄ local transport ◄──┘
//! ```
//!
//! Two threads serve each, and copy bytes without looking at them. The one called *up* has the process: it starts it, waits
//! for its end and reports that, before the end of its stream.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use sandgate_wire::launch::{CONFINED_ARGUMENT, WORKER_ARGUMENT};
use sandgate_wire::link::message::{Exited, FromAgent, Start};
use sandgate_wire::link::pipes::pipes;
use sandgate_wire::link::{Link, StreamItem, StreamReceive, StreamSend};
use sandgate_wire::outcome::LossCause;
use sandgate_wire::transport::{Descriptors, ReceiveHalf, SendHalf, socket_pair, unix_socket, wait, wait_any};

use super::bounds::Bounds;
use super::compiling::Compiling;
use super::spawn;
use crate::error::LaunchError;
use crate::process::{Launch, Process, Program, launch, launch_program};
use crate::vetting;
use crate::worker_binary;

/// How long a process may take to end after its connection has.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long all of them may take at the end of the link.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// What a shell exits with that does not find a program.
const NOT_FOUND: i32 = 127;
const BUFFER_BYTES: usize = 64 * 1024;

/// All that one agent has started.
#[derive(Debug)]
pub(super) struct Charges {
    link: Arc<Link>,
    compiling: Arc<Compiling>,
    bounds: Bounds,
    starter: Starter,
    by_stream: Mutex<HashMap<u64, Arc<Charge>>>,
    /// One of them is gone.
    gone: Condvar,
}

#[derive(Debug, Default)]
struct Charge {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Starting,
    Started(Arc<dyn Charged>),
    Killed,
}

/// How a process is started.
pub(super) type Starter = fn(Start, &Bounds) -> Result<Started, LaunchError>;

/// A process that was just started, and its local transport.
pub(super) struct Started {
    pub(super) process: Arc<dyn Charged>,
    pub(super) send: Box<dyn SendHalf>,
    pub(super) receive: Box<dyn ReceiveHalf>,
    /// Readable when `receive` would not wait.
    pub(super) ready: OwnedFd,
}

/// What there is to do with a process besides what it says and is sent.
pub(super) trait Charged: Send + Sync + std::fmt::Debug {
    fn pid(&self) -> u32;
    fn pidfd(&self) -> Option<Arc<OwnedFd>>;
    fn kill(&self);
    fn reap(&self, patience: Duration) -> LossCause;
    fn take_stderr_tail(&self) -> String;
    fn resident_bytes(&self) -> Option<u64>;
}

impl Charged for Process {
    fn pid(&self) -> u32 {
        Process::pid(self)
    }

    fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        Process::pidfd(self)
    }

    fn kill(&self) {
        Process::kill(self);
    }

    fn reap(&self, patience: Duration) -> LossCause {
        Process::reap(self, patience).clone()
    }

    fn take_stderr_tail(&self) -> String {
        Process::take_stderr_tail(self)
    }

    fn resident_bytes(&self) -> Option<u64> {
        Process::resident_bytes(self)
    }
}

impl Charges {
    pub(super) fn new(link: Arc<Link>, compiling: Arc<Compiling>, bounds: Bounds, starter: Starter) -> Arc<Charges> {
        Arc::new(Charges { link, compiling, bounds, starter, by_stream: Mutex::default(), gone: Condvar::new() })
    }

    /// Starts a process at the end of a new stream. Does not wait for it. One that is refused has ended at once.
    pub(super) fn start(self: &Arc<Self>, stream: u64, start: Start) -> io::Result<()> {
        let (send, receive) = self.link.accept(stream)?;
        let running = self.by_stream.lock().len();
        if let Some(why) = self.bounds.refuses(&start, running) {
            let exited = Exited { cause: LossCause::Unknown { message: why }, stderr_tail: String::new() };
            self.link.push(FromAgent::Exited(stream, exited).encode());
            send.finish();
            return Ok(());
        }
        let charge = Arc::new(Charge::default());
        self.by_stream.lock().insert(stream, Arc::clone(&charge));
        let charges = Arc::clone(self);
        spawn("up", move || {
            charges.run(&charge, Arc::new(send), receive, start);
            charges.by_stream.lock().remove(&stream);
            charges.gone.notify_all();
        })
    }

    /// Kills the process of a stream, if it is not gone.
    pub(super) fn kill(&self, stream: u64) {
        let charge = self.by_stream.lock().get(&stream).map(Arc::clone);
        if let Some(charge) = charge {
            charge.kill();
        }
    }

    pub(super) fn tell_resident(&self, stream: u64) {
        let charge = self.by_stream.lock().get(&stream).map(Arc::clone);
        let bytes = charge.and_then(|charge| charge.process()).and_then(|process| process.resident_bytes());
        self.link.push(FromAgent::Resident(stream, bytes).encode());
    }

    /// Kills all of them and waits until they are gone.
    pub(super) fn end_all(&self) {
        let mut by_stream = self.by_stream.lock();
        by_stream.values().for_each(|charge| charge.kill());
        let until = std::time::Instant::now() + LAST_PATIENCE;
        while !by_stream.is_empty() && !self.gone.wait_until(&mut by_stream, until).timed_out() {}
    }

    /// Whether nothing is left that it has started.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_quiet(&self) -> bool {
        self.by_stream.lock().is_empty()
    }

    fn run(&self, charge: &Charge, stream: Arc<StreamSend>, receive: StreamReceive, start: Start) {
        let exited = match (self.starter)(start, &self.bounds) {
            Ok(started) => self.serve(charge, &stream, receive, started),
            Err(error) => not_started(&error),
        };
        self.link.push(FromAgent::Exited(stream.id(), exited).encode());
        stream.finish();
    }

    fn serve(&self, charge: &Charge, stream: &Arc<StreamSend>, receive: StreamReceive, started: Started) -> Exited {
        let Started { process, send, receive: mut from, ready } = started;
        let send = Arc::<dyn SendHalf>::from(send);
        charge.has_started(&process);
        self.link.push(FromAgent::Started(stream.id(), process.pid()).encode());
        let down = Down {
            compiling: Arc::clone(&self.compiling),
            stream: Arc::clone(stream),
            receive,
            send: Arc::clone(&send),
            process: Arc::clone(&process),
        };
        let serves = spawn("down", move || down.run());
        if serves.is_ok() {
            up(stream, from.as_mut(), &ready, &*process);
        }
        send.shutdown();
        let cause = process.reap(END_PATIENCE);
        Exited { cause, stderr_tail: process.take_stderr_tail() }
    }
}

impl Charge {
    fn kill(&self) {
        let mut state = self.state.lock();
        if let State::Started(process) = &*state {
            process.kill();
        }
        *state = State::Killed;
    }

    fn has_started(&self, process: &Arc<dyn Charged>) {
        let mut state = self.state.lock();
        match &*state {
            State::Killed => process.kill(),
            _ => *state = State::Started(Arc::clone(process)),
        }
    }

    fn process(&self) -> Option<Arc<dyn Charged>> {
        match &*self.state.lock() {
            State::Started(process) => Some(Arc::clone(process)),
            _ => None,
        }
    }
}

pub(super) fn begin(start: Start, bounds: &Bounds) -> Result<Started, LaunchError> {
    match start {
        Start::Worker { program, directory } => {
            begin_worker(program.map(path), directory.map(path), bounds.is_confined)
        }
        Start::Launcher { command } => begin_launcher(command),
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

fn begin_worker(
    program: Option<PathBuf>,
    directory: Option<PathBuf>,
    is_confined: bool,
) -> Result<Started, LaunchError> {
    let program = worker_binary::find(program.as_deref())?;
    let (ours, theirs) = socket_pair().map_err(LaunchError::Resources)?;
    let ready = ours.try_clone().map_err(LaunchError::Resources)?;
    let arguments = if is_confined { vec![WORKER_ARGUMENT, CONFINED_ARGUMENT] } else { vec![WORKER_ARGUMENT] };
    let process = launch(Launch { program, arguments, directory }, theirs)?;
    let (send, receive) = unix_socket(ours, Descriptors::Refuse);
    Ok(Started { process: Arc::new(process), send: Box::new(send), receive: Box::new(receive), ready })
}

fn begin_launcher(command: Vec<String>) -> Result<Started, LaunchError> {
    let system = |error: rustix::io::Errno| LaunchError::Resources(error.into());
    let mut command = command.into_iter();
    let program = command.next().unwrap_or_default().into();
    let (their_stdin, to) = pipe_with(PipeFlags::CLOEXEC).map_err(system)?;
    let (from, their_stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(system)?;
    let program = Program { program, arguments: command.map(Into::into).collect() };
    let process = launch_program(program, their_stdin, their_stdout)?;
    let ready = from.try_clone().map_err(LaunchError::Resources)?;
    let (send, receive) = pipes(from, to).map_err(LaunchError::Resources)?;
    Ok(Started { process: Arc::new(process), send: Box::new(send), receive: Box::new(receive), ready })
}

fn not_started(error: &LaunchError) -> Exited {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    let mut text = format!("{error}{source}");
    // There are paths of the host's in it.
    vetting::cap(&mut text, vetting::MAX_TEXT_BYTES);
    match error {
        LaunchError::Spawn { .. } => Exited { cause: LossCause::Exited { code: NOT_FOUND }, stderr_tail: text },
        _ => Exited { cause: LossCause::Unknown { message: text }, stderr_tail: String::new() },
    }
}

/// Copies what a process says, until it has ended or nobody listens any more.
fn up(stream: &StreamSend, from: &mut dyn ReceiveHalf, ready: &OwnedFd, process: &dyn Charged) {
    let Some(ended) = process.pidfd() else { return };
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match wait_any([ready.as_fd(), ended.as_fd()], PollFlags::IN, None) {
            // What it had said before its end is here by now, and then there is nothing.
            Ok([false, true]) if !matches!(wait(ready.as_fd(), PollFlags::IN, Some(Duration::ZERO)), Ok(true)) => {
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
        match from.read(&mut buffer, false) {
            Ok(0) => return,
            Ok(count) => {
                if write_all(stream, &buffer[..count], None).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// Copies what a process is sent.
struct Down {
    compiling: Arc<Compiling>,
    stream: Arc<StreamSend>,
    receive: StreamReceive,
    send: Arc<dyn SendHalf>,
    process: Arc<dyn Charged>,
}

impl Down {
    fn run(mut self) {
        let mut attached: Option<OwnedFd> = None;
        // A process that takes nothing more may still have something to say.
        let mut is_deaf = false;
        loop {
            match self.receive.next_item() {
                Ok(StreamItem::Data(_)) if is_deaf => {}
                Ok(StreamItem::Data(bytes)) => is_deaf = write_all(&*self.send, &bytes, attached.take()).is_err(),
                Ok(StreamItem::Attach(number)) => match self.compiling.memory_of(number) {
                    Some(memory) => attached = Some(memory),
                    None => {
                        self.process.kill();
                        is_deaf = true;
                    }
                },
                Ok(StreamItem::End) | Err(_) => break,
            }
        }
        // The host has hung up, and so does what it talks to. Whoever waits for room in the stream waits no more.
        self.send.shutdown();
        self.stream.shutdown();
    }
}

fn write_all(send: &dyn SendHalf, mut bytes: &[u8], mut attached: Option<OwnedFd>) -> io::Result<()> {
    while !bytes.is_empty() {
        match send.try_write(&[IoSlice::new(bytes)], attached.as_ref().map(AsFd::as_fd)) {
            Ok(count) => {
                bytes = &bytes[count..];
                attached = None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => send.wait_writable()?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
