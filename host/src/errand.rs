//! A process that does one thing for the host, says what came of it, and is gone: a compiler or an initializer.
//!
//! ```text
//!  start it ──► send the request, with descriptors ──► hear its answers, by a deadline ──► wait for its end
//!                                                        └ too late, nonsense, or none: it is killed
//! ```
//!
//! What it was given to read may have taken it over. So it may also stop in the middle of a word, or end and leave its
//! connection to somebody else; what it wrote is looked at once it is gone.

use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;
use sandgate_wire::frame::{Frame, FrameError, FrameReader};
use sandgate_wire::launch::{COMPILER_ARGUMENT, INITIALIZER_ARGUMENT};
use sandgate_wire::outcome::{LossCause, WorkerLoss};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait, wait_any};
use sandgate_wire::{Outbox, ToWorker};

use crate::deadline::Deadline;
use crate::error::{CompileError, LaunchError};
use crate::process::{Launch, Process, launch};
use crate::worker_binary;

/// How long a process that has given its last answer may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a process is started for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    argument: &'static str,
    /// For messages.
    name: &'static str,
}

pub(crate) const COMPILER: Role = Role { argument: COMPILER_ARGUMENT, name: "compiler" };
pub(crate) const INITIALIZER: Role = Role { argument: INITIALIZER_ARGUMENT, name: "initializer" };

/// A process that is at its work.
pub(crate) struct Errand {
    role: Role,
    process: Process,
    frames: FrameReader,
    /// The connection, to wait on.
    listening: OwnedFd,
    /// Keeps the connection open.
    _outbox: Outbox,
}

/// What one answer is understood to be, or what is wrong with it; if it is only that there is none, nothing.
pub(crate) type Understood<T> = Result<T, Option<String>>;

impl Errand {
    /// Starts a process and sends it a request.
    pub(crate) fn send(
        role: Role,
        worker: Option<&Path>,
        request: &ToWorker<'_>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Errand, CompileError> {
        let program = worker_binary::find(worker).map_err(CompileError::Launch)?;
        let (ours, theirs) = socket_pair().map_err(resources)?;
        let listening = ours.try_clone().map_err(resources)?;
        let launched = launch(Launch { program, arguments: vec![role.argument], directory: None }, theirs);
        let process = launched.map_err(CompileError::Launch)?;
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let outbox = Outbox::new(Box::new(send));
        // One that is gone already does not answer, which says more.
        let _ = outbox.push_with_descriptors(request.encode(), descriptors);
        let frames = FrameReader::new(Box::new(receive));
        Ok(Errand { role, process, frames, listening, _outbox: outbox })
    }

    /// Its next answer; `None` if that is not there by the deadline.
    pub(crate) fn answer<T>(
        &mut self,
        deadline: Deadline,
        understand: impl FnOnce(Frame<'_>) -> Understood<T>,
    ) -> Result<Option<Understood<T>>, CompileError> {
        let reaped = || resources(std::io::Error::other("the process was reaped before"));
        let ended = self.process.pidfd().ok_or_else(reaped)?;
        let listening = [self.listening.as_fd(), ended.as_fd()];
        answer(&mut self.frames, listening, deadline, understand).map_err(resources)
    }

    /// Waits until it has ended; then the last answer counts.
    pub(crate) fn end<T>(&self, answer: Understood<T>) -> Result<T, CompileError> {
        let ended = self.process.reap(END_PATIENCE).clone();
        answer.map_err(|violation| self.lost(violation, ended))
    }

    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// It has ended, and what it wrote is not what it said.
    pub(crate) fn wrote(&self, announced: u64, found: u64) -> CompileError {
        let message = format!("it announced {announced} bytes and wrote {found}");
        self.lost(Some(message), LossCause::Exited { code: 0 })
    }

    fn lost(&self, violation: Option<String>, ended: LossCause) -> CompileError {
        let cause = violation.map_or(ended, |message| LossCause::ProtocolViolation { message });
        let (gateway, pid) = (self.role.name.to_owned(), Some(self.process.pid()));
        CompileError::Lost(WorkerLoss { gateway, pid, cause, stderr_tail: self.process.take_stderr_tail() })
    }
}

fn resources(error: std::io::Error) -> CompileError {
    CompileError::Launch(LaunchError::Resources(error))
}

/// An answer, or what is wrong with it; `None` if it is not there by the deadline. `listening` is the connection, and what
/// becomes readable when the process has ended.
fn answer<T>(
    frames: &mut FrameReader,
    listening: [BorrowedFd<'_>; 2],
    deadline: Deadline,
    understand: impl FnOnce(Frame<'_>) -> Understood<T>,
) -> std::io::Result<Option<Understood<T>>> {
    while !frames.has_frame() {
        match wait_any(listening, PollFlags::IN, deadline.left())? {
            [false, false] => return Ok(None),
            [true, _] if frames.fill_now() => {}
            // It has ended, perhaps after it was seen to say nothing: what it has said is here by now.
            [false, true] if wait(listening[0], PollFlags::IN, Some(Duration::ZERO))? => {}
            _ => return Ok(Some(Err(None))),
        }
    }
    Ok(Some(match frames.read_frame() {
        Ok(Some(frame)) => understand(frame),
        Ok(None) | Err(FrameError::Truncated { .. } | FrameError::Io(_)) => Err(None),
        Err(error) => Err(Some(error.to_string())),
    }))
}

/// How many processes of one kind run at once: as many as there are processors, for more would only take longer, each.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

/// The right to run a process.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    of: &'a Places,
}

impl Places {
    pub(crate) const fn new() -> Places {
        Places { taken: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits for a place.
    pub(crate) fn take(&self, deadline: Deadline) -> Option<Place<'_>> {
        let most = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut taken = self.taken.lock();
        while *taken >= most {
            deadline.wait(&self.freed, &mut taken).ok()?;
        }
        *taken += 1;
        Some(Place { of: self })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.of.taken.lock() -= 1;
        self.of.freed.notify_one();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use sandgate_wire::ToHost;
    use sandgate_wire::frame::Header;
    use sandgate_wire::message::{Compiled, Initialized};
    use sandgate_wire::module_limits::Shape;

    use super::*;

    /// What the host makes of these bytes, after which the process stays and says nothing, or hangs up.
    pub(crate) fn heard<T>(
        bytes: &[u8],
        hangs_up: bool,
        understand: impl FnOnce(Frame<'_>) -> Understood<T>,
    ) -> Option<Understood<T>> {
        let (ours, theirs) = socket_pair().unwrap();
        let listening = ours.try_clone().unwrap();
        // Nothing is written to it, and nobody closes its other end: a process that goes on.
        let (process, _goes_on) = socket_pair().unwrap();
        let mut frames = FrameReader::new(Box::new(unix_socket(ours, Descriptors::Refuse).1));
        let mut peer = UnixStream::from(theirs);
        peer.write_all(bytes).unwrap();
        let peer = (!hangs_up).then_some(peer);
        let listening = [listening.as_fd(), process.as_fd()];
        let heard = answer(&mut frames, listening, Deadline::after(Duration::from_millis(20)), understand).unwrap();
        drop(peer);
        heard
    }

    pub(crate) fn bytes_of(message: &ToHost<'_>) -> Vec<u8> {
        let encoded = message.encode();
        let length = u32::try_from(encoded.body.len()).unwrap();
        let header = Header { length, kind: encoded.kind, flags: encoded.flags, channel: encoded.channel };
        [&header.encode()[..], &encoded.body].concat()
    }

    fn kind(frame: Frame<'_>) -> Understood<u8> {
        Ok(frame.header.kind)
    }

    fn answers() -> [(Vec<u8>, u8); 2] {
        let compiled =
            Compiled::Done { engine: "e".to_owned(), bytes: 3, shape: Shape::default(), description: vec![1] };
        let initialized = Initialized::Done { bytes: 300 };
        [(bytes_of(&ToHost::Compiled(compiled)), 17), (bytes_of(&ToHost::Initialized(initialized)), 20)]
    }

    #[test]
    fn a_process_that_stops_anywhere_in_its_answer_is_given_up() {
        for (whole, number) in answers() {
            for end in 0..whole.len() {
                assert_eq!(heard(&whole[..end], false, kind), None, "{end} bytes, then silence");
                assert_eq!(heard(&whole[..end], true, kind), Some(Err(None)), "{end} bytes, then the end");
            }
            assert_eq!(heard(&whole, false, kind), Some(Ok(number)));
        }
        assert!(matches!(heard(&[0xff; 64], false, kind), Some(Err(Some(_)))));
    }

    #[test]
    fn a_process_that_ends_is_not_waited_for_although_somebody_has_its_connection() {
        for (whole, number) in answers() {
            for end in [0, 1, whole.len() - 1, whole.len()] {
                let (ours, theirs) = socket_pair().unwrap();
                let (process, its_end) = socket_pair().unwrap();
                let listening = ours.try_clone().unwrap();
                let mut frames = FrameReader::new(Box::new(unix_socket(ours, Descriptors::Refuse).1));
                let mut left_behind = UnixStream::from(theirs);
                left_behind.write_all(&whole[..end]).unwrap();
                drop(its_end);
                let listening = [listening.as_fd(), process.as_fd()];
                let heard = answer(&mut frames, listening, Deadline::after(Duration::from_secs(600)), kind).unwrap();
                let expected = if end == whole.len() { Ok(number) } else { Err(None) };
                assert_eq!(heard, Some(expected), "{end} bytes");
            }
        }
    }

    #[test]
    fn there_are_as_many_places_as_processors() {
        let places = Places::new();
        let most = std::thread::available_parallelism().unwrap().get();
        let mut taken: Vec<_> = (0..most).map(|_| places.take(Deadline::NEVER).unwrap()).collect();
        assert!(places.take(Deadline::after(Duration::ZERO)).is_none());
        taken.pop();
        assert!(places.take(Deadline::after(Duration::ZERO)).is_some());
    }
}
