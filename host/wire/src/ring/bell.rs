//! What wakes a side that sleeps: bytes on two sockets. What they say is nothing but "look again".
//!
//! A socket rather than an eventfd, because its end cannot be taken back: whoever waits for a bell wakes up when the peer is
//! gone or this side hangs up, whatever a peer does with the bytes. And a wait for the line is one system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, recv, recvmsg, sendmsg, shutdown,
};

/// Bytes that are taken at once; more than one is left over from wake-ups that were not needed.
const TAKEN_BYTES: usize = 64;

/// One side's ends of both sockets.
#[derive(Debug)]
pub(crate) struct Bells {
    /// There are bytes to read; and descriptors; and the end.
    pub(crate) line: Arc<OwnedFd>,
    /// There is room to write.
    pub(crate) room: Arc<OwnedFd>,
}

/// What came of looking at the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The peer rang, now or before.
    Rang,
    Nothing,
    /// The peer is gone, or this side has hung up.
    End,
}

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    RoomInRing,
    /// The line has no room for a descriptor.
    RoomInLine,
}

impl Bells {
    pub(crate) fn new(line: OwnedFd, room: OwnedFd) -> Bells {
        Bells { line: Arc::new(line), room: Arc::new(room) }
    }

    /// Tells the peer that there are bytes. That the line is full of what it has not taken yet tells it as well.
    pub(crate) fn ring_bytes(&self) -> io::Result<()> {
        match send(&self.line, &mut SendAncillaryBuffer::default()) {
            Err(Errno::AGAIN) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Tells the peer that there is room.
    pub(crate) fn ring_room(&self) {
        // That it is gone is for those to find who wait for it, and what it has not taken yet tells it as well.
        let _ = send(&self.room, &mut SendAncillaryBuffer::default());
    }

    /// Gives the peer a descriptor, for a frame that it is not shown yet.
    pub(crate) fn give(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let attached = [descriptor];
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(&attached));
        debug_assert!(fits, "the buffer has room for one descriptor");
        Ok(send(&self.line, &mut ancillary)?)
    }

    /// Takes what is in the line, and drops descriptors that are there. With `wait`, waits for something.
    pub(crate) fn hear(&self, wait: bool) -> io::Result<Heard> {
        let mut bytes = [0; TAKEN_BYTES];
        heard(recv(&self.line, &mut bytes, flags(wait)).map(|(_, count)| count))
    }

    /// As [`hear`](Self::hear), but hands descriptors to `keep`.
    pub(crate) fn hear_with_descriptors(&self, wait: bool, keep: &mut impl Extend<OwnedFd>) -> io::Result<Heard> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; TAKEN_BYTES];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.line, &mut buffers, &mut ancillary, flags(wait) | RecvFlags::CMSG_CLOEXEC);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                keep.extend(descriptors);
            }
        }
        heard(received.map(|received| received.bytes))
    }

    /// Waits until the peer has rung for room, or the line has some.
    pub(crate) fn wait_for_room(&self, what: WaitFor) -> io::Result<()> {
        // The end of the line is told without being asked for.
        let line = if what == WaitFor::RoomInLine { PollFlags::OUT } else { PollFlags::empty() };
        let mut polled = [PollFd::new(&self.line, line), PollFd::new(&self.room, PollFlags::IN)];
        loop {
            match poll(&mut polled, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if polled[1].revents().is_empty() {
            return Ok(());
        }
        self.hush_room()
    }

    /// Takes what the peer has rung for room so far.
    pub(crate) fn hush_room(&self) -> io::Result<()> {
        let mut bytes = [0; TAKEN_BYTES];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        // Descriptors that come with it are dropped by the kernel.
        match recvmsg(&self.room, &mut buffers, &mut RecvAncillaryBuffer::default(), flags(false)) {
            Ok(received) if received.bytes == 0 => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Wakes whoever waits on this side, now and ever after, and tells the peer.
    pub(crate) fn hang_up(&self) {
        for socket in [&self.line, &self.room] {
            // The only failure is that the peer is gone already.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    pub(crate) fn line(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

fn send(socket: &OwnedFd, ancillary: &mut SendAncillaryBuffer<'_, '_, '_>) -> rustix::io::Result<()> {
    sendmsg(socket, &[IoSlice::new(&[0])], ancillary, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
}

fn flags(wait: bool) -> RecvFlags {
    if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT }
}

fn heard(received: rustix::io::Result<usize>) -> io::Result<Heard> {
    match received {
        // The kernel answers so when the peer has ended with something unread.
        Ok(0) | Err(Errno::CONNRESET) => Ok(Heard::End),
        Ok(_) => Ok(Heard::Rang),
        Err(Errno::AGAIN) => Ok(Heard::Nothing),
        Err(error) => Err(error.into()),
    }
}
