//! A transport over two descriptors, one for each direction: the pipes to a launcher, or an agent's standard streams.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::transport::{ReceiveHalf, SendHalf};

/// The half that writes. Closes its descriptor when it is shut down, which the reader at its other end sees.
#[derive(Debug)]
pub struct PipeSend {
    pipe: RwLock<Option<Arc<OwnedFd>>>,
    shut: Arc<OwnedFd>,
}

/// The half that reads.
#[derive(Debug)]
pub struct PipeReceive {
    pipe: OwnedFd,
    shut: Arc<OwnedFd>,
}

/// Both halves: one reads from `from`, the other writes to `to`. Neither descriptor blocks from now on.
///
/// # Errors
/// The system's.
pub fn pipes(from: OwnedFd, to: OwnedFd) -> io::Result<(PipeSend, PipeReceive)> {
    for pipe in [&from, &to] {
        fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
    }
    let shut = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let send = PipeSend { pipe: RwLock::new(Some(Arc::new(to))), shut: Arc::clone(&shut) };
    Ok((send, PipeReceive { pipe: from, shut }))
}

impl SendHalf for PipeSend {
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        if descriptor.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let pipe = self.pipe.read();
        let pipe = pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(rustix::io::writev(pipe, buffers)?)
    }

    fn wait_writable(&self) -> io::Result<()> {
        let Some(pipe) = self.pipe.read().as_ref().map(Arc::clone) else { return Ok(()) };
        wait_for(pipe.as_fd(), PollFlags::OUT, &self.shut).map(drop)
    }

    fn shutdown(&self) {
        // The counter of an eventfd does not overflow from this; it stays readable, for everybody who waits.
        let _ = rustix::io::write(&self.shut, &1_u64.to_ne_bytes());
        drop(self.pipe.write().take());
    }
}

impl ReceiveHalf for PipeReceive {
    fn read(&mut self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.pipe, &mut *buffer) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::AGAIN) if wait => {
                    if wait_for(self.pipe.as_fd(), PollFlags::IN, &self.shut)? {
                        return Ok(0);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}

/// Waits, and says whether the transport was shut down.
fn wait_for(pipe: BorrowedFd<'_>, flags: PollFlags, shut: &OwnedFd) -> io::Result<bool> {
    use rustix::event::{PollFd, poll};
    loop {
        let mut polled = [PollFd::new(&pipe, flags), PollFd::new(shut, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) if polled[0].revents().is_empty() => return Ok(!polled[1].revents().is_empty()),
            Ok(_) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
