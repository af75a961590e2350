//! The stream between host and worker, behind one small interface: two halves, bytes, and (locally) descriptors.
//!
//! There are two: a Unix socket, here, and shared memory ([`ring`](crate::ring)). Whatever follows (an ssh client's pipes)
//! implements the same two traits and nothing above notices.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
};

/// Descriptors that may wait for the message that announces them.
const MAX_WAITING_DESCRIPTORS: usize = 16;

/// The half that sends. Several threads may hold it; the outbox makes sure that one writes at a time.
pub trait SendHalf: Send + Sync + fmt::Debug {
    /// Writes what there is room for, without waiting, and returns how much that was. A descriptor travels with the
    /// first byte.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is no room at all; anything else means the connection is gone.
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize>;

    /// As [`try_write`](Self::try_write), for bytes that can wait until the peer has nothing else to do, or half of what there is
    /// room for is used: a peer that [dozes](ReceiveHalf::about_to_doze) is not woken for them.
    ///
    /// # Errors
    /// Those of `try_write`.
    fn try_write_lazily(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        self.try_write(buffers, descriptor)
    }

    /// Wakes a peer that [dozes](ReceiveHalf::about_to_doze), for what was written lazily so far and cannot wait any more.
    ///
    /// # Errors
    /// The connection is gone.
    fn wake_peer(&self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until there may be room, or until [`shutdown`](Self::shutdown).
    ///
    /// # Errors
    /// The system's.
    fn wait_writable(&self) -> io::Result<()>;

    /// Looks for room, for at most `patience`, and for as long as that pays. Whether there is any. For a sender that writes a large
    /// message, and whose peer is at it as well.
    fn look_for_room(&self, patience: Duration) -> bool {
        let _ = patience;
        false
    }

    /// What to wait for when there was no room, for whoever waits for several of these.
    ///
    /// # Errors
    /// The connection is gone.
    fn room(&self) -> io::Result<Room> {
        Ok(Room::Unknown)
    }

    /// Ends the connection in both directions; whoever waits on either half wakes up. Never waits for the
    /// peer: for a copy, or a short look for room, at most.
    fn shutdown(&self);
}

/// When there may be room again.
#[derive(Debug)]
pub enum Room {
    /// At once.
    Now,
    /// When this is ready for that.
    When(Arc<OwnedFd>, PollFlags),
    /// Only [`wait_writable`](SendHalf::wait_writable) can tell.
    Unknown,
}

/// The half that receives; it has one owner.
pub trait ReceiveHalf: Send + fmt::Debug {
    /// Reads some bytes; 0 is the end of the stream. With `wait`, blocks until there is something.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] without `wait` when there is nothing; [`io::ErrorKind::Interrupted`]; others mean
    /// the connection is gone.
    fn read(&mut self, buffer: &mut [u8], wait: bool) -> io::Result<usize>;

    /// As [`read`](Self::read), at most so many bytes to the end of a vector, into memory that it has already.
    ///
    /// # Errors
    /// Those of `read`.
    fn append(&mut self, to: &mut Vec<u8>, most: usize, wait: bool) -> io::Result<usize> {
        let start = to.len();
        to.resize(start + most.min(to.capacity() - start), 0);
        let result = self.read(&mut to[start..], wait);
        to.truncate(start + result.as_ref().map_or(0, |count| *count));
        result
    }

    /// What becomes readable when there is something to read, once [`about_to_wait`](Self::about_to_wait) has returned
    /// true. `None` if only [`read`](Self::read) can wait.
    fn bell(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Has the bell rung from here on, until the next read. False if there may be something already, so that reading again
    /// is right, and waiting is not.
    fn about_to_wait(&mut self) -> bool {
        true
    }

    /// As [`about_to_wait`](Self::about_to_wait), for a thread that sleeps while another one looks now and then, or it itself, by
    /// reading without waiting: the bell rings for what [cannot wait](SendHalf::try_write_lazily). It is the one of
    /// [`own_bell`](Self::own_bell). None if the stream knows no difference.
    fn about_to_doze(&mut self) -> Option<bool> {
        None
    }

    /// Has the thread that dozes woken for anything, since the other one, which calls this, does not look any more. False if
    /// there is something already, for which nobody may be woken.
    fn sleeps_from_here(&mut self) -> bool {
        true
    }

    /// Has the bell silent, after a sleep that began with [`about_to_doze`](Self::about_to_doze).
    ///
    /// # Errors
    /// The system's.
    fn has_dozed(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The bell, to be waited for without this half.
    fn own_bell(&self) -> Option<Arc<OwnedFd>> {
        None
    }

    /// Whether [`read`](Self::read) would return something now, if that can be seen without a system call.
    fn look(&self) -> Option<bool> {
        None
    }

    /// The oldest descriptor that arrived and was not taken yet.
    fn take_descriptor(&mut self) -> Option<OwnedFd>;
}

/// A connected pair of stream sockets, both closed on exec.
///
/// # Errors
/// The system's, usually for want of descriptors.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// What a side does with descriptors that its peer attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    /// They are kept for the message that announces them. For a worker, whose host is trusted.
    Accept,
    /// The kernel drops them. For a host, whose workers are not trusted.
    Refuse,
}

/// Both halves of a stream socket.
pub fn unix_socket(socket: OwnedFd, descriptors: Descriptors) -> (UnixSendHalf, UnixReceiveHalf) {
    let socket = Arc::new(socket);
    let receive = UnixReceiveHalf { socket: Arc::clone(&socket), descriptors, waiting: VecDeque::new() };
    (UnixSendHalf { socket: RwLock::new(Some(socket)) }, receive)
}

/// The sending half of a Unix socket. It lets go of the descriptor when it is shut down, so that whoever keeps a dead
/// connection keeps no descriptor.
#[derive(Debug)]
pub struct UnixSendHalf {
    socket: RwLock<Option<Arc<OwnedFd>>>,
}

/// The receiving half of a Unix socket.
#[derive(Debug)]
pub struct UnixReceiveHalf {
    socket: Arc<OwnedFd>,
    descriptors: Descriptors,
    waiting: VecDeque<OwnedFd>,
}

impl SendHalf for UnixSendHalf {
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let attached = descriptor.map(|fd| [fd]);
        if let Some(attached) = &attached {
            let fits = ancillary.push(SendAncillaryMessage::ScmRights(attached));
            debug_assert!(fits, "the buffer has room for one descriptor");
        }
        let socket = self.socket.read();
        let socket = socket.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(sendmsg(socket, buffers, &mut ancillary, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn wait_writable(&self) -> io::Result<()> {
        let Some(socket) = self.socket.read().as_ref().map(Arc::clone) else { return Ok(()) };
        wait(socket.as_fd(), PollFlags::OUT, None).map(drop)
    }

    fn room(&self) -> io::Result<Room> {
        let socket = self.socket.read().as_ref().map(Arc::clone).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Room::When(socket, PollFlags::OUT))
    }

    fn shutdown(&self) {
        if let Some(socket) = self.socket.write().take() {
            // The only failure is that the peer is gone already.
            let _ = shutdown(&socket, Shutdown::Both);
        }
    }
}

impl ReceiveHalf for UnixReceiveHalf {
    fn read(&mut self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        if self.descriptors == Descriptors::Refuse {
            return Ok(rustix::net::recv(&self.socket, buffer, flags)?.1);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(buffer)];
        let received = recvmsg(&self.socket, &mut buffers, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.waiting.extend(descriptors);
            }
        }
        if self.waiting.len() > MAX_WAITING_DESCRIPTORS {
            return Err(io::Error::other("peer attaches descriptors that nothing announces"));
        }
        Ok(received.bytes)
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.waiting.pop_front()
    }
}

/// Waits for `flags` on a descriptor; false when `timeout` passed first. `None` waits for ever.
///
/// # Errors
/// The system's.
pub fn wait(descriptor: BorrowedFd<'_>, flags: PollFlags, timeout: Option<Duration>) -> io::Result<bool> {
    wait_any([descriptor], flags, timeout).map(|[ready]| ready)
}

/// Waits for `flags` on any of several descriptors, and says on which; none when `timeout` passed first.
///
/// # Errors
/// The system's.
pub fn wait_any<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    flags: PollFlags,
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let timeout =
        timeout.map(|timeout| Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
    let mut polled = descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, flags));
    loop {
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => return Ok(polled.map(|it| !it.revents().is_empty())),
            // Waiting anew is right without a timeout, and close enough with one: signals are rare here.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod testing {
    //! A receiving half that plays a script.

    use super::*;

    #[derive(Debug)]
    pub(crate) struct Scripted {
        parts: VecDeque<Vec<u8>>,
    }

    impl Scripted {
        pub(crate) fn new(parts: &[&[u8]]) -> Scripted {
            Scripted { parts: parts.iter().filter(|part| !part.is_empty()).map(|part| part.to_vec()).collect() }
        }
    }

    impl ReceiveHalf for Scripted {
        fn read(&mut self, buffer: &mut [u8], _wait: bool) -> io::Result<usize> {
            let Some(part) = self.parts.front_mut() else {
                return Ok(0);
            };
            let count = part.len().min(buffer.len());
            buffer[..count].copy_from_slice(&part[..count]);
            part.drain(..count);
            if part.is_empty() {
                self.parts.pop_front();
            }
            Ok(count)
        }

        fn take_descriptor(&mut self) -> Option<OwnedFd> {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(descriptors: Descriptors) -> (UnixSendHalf, UnixReceiveHalf) {
        let (a, b) = socket_pair().unwrap();
        (unix_socket(a, Descriptors::Refuse).0, unix_socket(b, descriptors).1)
    }

    #[test]
    fn bytes_and_a_descriptor_cross() {
        let (send, mut receive) = pair(Descriptors::Accept);
        let file = std::fs::File::open("/dev/null").unwrap();
        let parts = [IoSlice::new(b"ab"), IoSlice::new(b"c")];
        assert_eq!(send.try_write(&parts, Some(file.as_fd())).unwrap(), 3);
        let mut buffer = [0; 8];
        assert_eq!(receive.read(&mut buffer, true).unwrap(), 3);
        assert_eq!(&buffer[..3], b"abc");
        assert!(receive.take_descriptor().is_some());
        assert!(receive.take_descriptor().is_none());
    }

    #[test]
    fn a_host_drops_descriptors_of_its_worker() {
        let (send, mut receive) = pair(Descriptors::Refuse);
        let file = std::fs::File::open("/dev/null").unwrap();
        send.try_write(&[IoSlice::new(b"a")], Some(file.as_fd())).unwrap();
        assert_eq!(receive.read(&mut [0; 8], true).unwrap(), 1);
        assert!(receive.take_descriptor().is_none());
    }

    #[test]
    fn a_full_socket_says_so_and_shutdown_wakes_both_halves() {
        let (a, _keep_open) = socket_pair().unwrap();
        let (send, mut receive) = unix_socket(a, Descriptors::Refuse);
        let chunk = vec![0; 64 * 1024];
        let full = (0..1000).find_map(|_| send.try_write(&[IoSlice::new(&chunk)], None).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(receive.read(&mut [0; 8], false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| send.wait_writable());
            let reading = scope.spawn(move || receive.read(&mut [0; 8], true));
            send.shutdown();
            waiting.join().unwrap().unwrap();
            assert_eq!(reading.join().unwrap().unwrap(), 0);
        });
        assert!(send.try_write(&[IoSlice::new(b"x")], None).is_err());
    }
}
