//! Starts the launcher of a link, on this machine or beside the agent of another link, and holds both ends of its pipes.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use sandgate_wire::link::message::Start;
use sandgate_wire::link::pipes::pipes;
use sandgate_wire::outcome::LossCause;
use sandgate_wire::transport::{ReceiveHalf, SendHalf, wait};

use super::error::{ReachError, of_launcher};
use super::host::RemoteHost;
use super::running::Running;
use crate::deadline::Deadline;
use crate::error::LaunchError;
use crate::process::{Program, launch_program};

/// How long a launcher whose end has come may take for its last words.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// A launcher and the transport to what it connects to.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) send: Box<dyn SendHalf>,
    /// Until somebody took it.
    receive: Option<Box<dyn ReceiveHalf>>,
    /// Readable while `receive` would not wait.
    ready: OwnedFd,
    pub(super) launcher: Arc<Running>,
    is_ssh: bool,
}

/// What came of waiting for more.
pub(super) enum Heard {
    Bytes(usize),
    End,
    Nothing,
}

/// Starts a command, on the machine at the end of `base` if there is one.
pub(super) fn start(command: &[String], base: Option<&Arc<RemoteHost>>, is_ssh: bool) -> Result<Launched, ReachError> {
    match base {
        None => start_here(command, is_ssh),
        Some(base) => {
            let start = Start::Launcher { command: command.to_vec() };
            let (send, receive, worker) = base.start(&start).map_err(ReachError::resources)?;
            let ready = receive.ready().map_err(ReachError::resources)?;
            let launcher = Arc::new(Running::Remote(worker));
            Ok(Launched { send: Box::new(send), receive: Some(Box::new(receive)), ready, launcher, is_ssh })
        }
    }
}

fn start_here(command: &[String], is_ssh: bool) -> Result<Launched, ReachError> {
    let system = |error: rustix::io::Errno| ReachError::resources(error.into());
    let (program, arguments) =
        command.split_first().ok_or_else(|| ReachError::resources(io::ErrorKind::InvalidInput.into()))?;
    let (their_stdin, to) = pipe_with(PipeFlags::CLOEXEC).map_err(system)?;
    let (from, their_stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(system)?;
    let program = Program { program: program.into(), arguments: arguments.iter().map(Into::into).collect() };
    let launched = launch_program(program, their_stdin, their_stdout);
    let process = launched.map_err(|error| match error {
        LaunchError::Spawn { program, source, .. } => ReachError::NoLauncher { program, source: Arc::new(source) },
        LaunchError::Resources(error) => ReachError::resources(error),
        error => ReachError::resources(io::Error::other(error)),
    })?;
    let ready = from.try_clone().map_err(ReachError::resources)?;
    let (send, receive) = pipes(from, to).map_err(ReachError::resources)?;
    let launcher = Arc::new(Running::Local(process));
    Ok(Launched { send: Box::new(send), receive: Some(Box::new(receive)), ready, launcher, is_ssh })
}

impl Launched {
    /// Waits until there is something to read; false if there is nothing by the deadline.
    pub(super) fn wait(&self, deadline: Deadline) -> Result<bool, ReachError> {
        wait(self.ready.as_fd(), PollFlags::IN, deadline.left()).map_err(ReachError::resources)
    }

    /// Reads some bytes.
    pub(super) fn read(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<Heard, ReachError> {
        loop {
            if !self.wait(deadline)? {
                return Ok(Heard::Nothing);
            }
            let Some(receive) = &mut self.receive else { return Ok(Heard::End) };
            match receive.read(buffer, false) {
                Ok(0) => return Ok(Heard::End),
                Ok(count) => return Ok(Heard::Bytes(count)),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return Ok(Heard::End),
            }
        }
    }

    /// The half that receives; there is only one.
    pub(super) fn take_receive(&mut self) -> Box<dyn ReceiveHalf> {
        self.receive.take().expect("it is taken once, by who has found an agent")
    }

    /// Writes all of it; waits for room.
    pub(super) fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send.try_write(&[IoSlice::new(bytes)], None) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.send.wait_writable()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// It is not what it has to be, and is ended.
    pub(super) fn refuse(&self, why: ReachError) -> ReachError {
        self.dismiss();
        why
    }

    /// It has hung up: why, in its own words.
    pub(super) fn has_ended(&self) -> ReachError {
        self.send.shutdown();
        let cause = self.launcher.reap(END_PATIENCE);
        let words = self.launcher.take_stderr_tail();
        if let LossCause::Link { .. } = cause {
            return ReachError::Ended { cause, words };
        }
        of_launcher(self.is_ssh, cause, words)
    }

    /// It said nothing for too long.
    pub(super) fn is_silent(&self, after: Duration) -> ReachError {
        ReachError::Silent { after, words: self.dismiss() }
    }

    /// Ends it, and returns its last words.
    pub(super) fn dismiss(&self) -> String {
        self.send.shutdown();
        self.launcher.kill();
        self.launcher.reap(END_PATIENCE);
        self.launcher.take_stderr_tail()
    }
}
