//! How a worker gets its end of the rings: the host's first message on the line, with two descriptors.
//!
//! ```text
//!  0            8           16
//!  ┌────────────┬────────────┐
//!  │ magic      │ capacity   │  and the memory, and the worker's end of the bell for room
//!  │ u64        │ u64        │
//!  └────────────┴────────────┘
//! ```
//!
//! A worker that finds anything else there has a connection that is the socket itself: the magic is the header of no frame.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};

use super::bell::Bells;
use super::consumer::Consumer;
use super::halves::{RingReceiveHalf, RingSendHalf, halves};
use super::layout::{CAPACITY_BYTES, MAX_CAPACITY_BYTES, Memory, Ring, total_bytes};
use super::memory::Mapping;
use crate::transport::{Descriptors, ReceiveHalf, SendHalf, socket_pair, unix_socket};

/// Its bytes 6 and 7 are not 0, as those of a frame's header are.
const MAGIC: [u8; 8] = *b"sandring";
const MESSAGE_BYTES: usize = 16;

/// What a worker must be able to rely on, and what a host must: that nobody makes the memory shorter, and the mapping a trap.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Makes rings for the connection that `line` is the host's end of, and leaves in it what the worker needs. Returns the
/// host's halves, which drop descriptors that the worker attaches.
///
/// # Errors
/// The system has no memory that can be sealed, or no descriptors.
pub fn offer(line: OwnedFd) -> Result<(RingSendHalf, RingReceiveHalf), (io::Error, OwnedFd)> {
    match make(&line) {
        Ok((mapping, room)) => {
            let (to_worker, to_host) = Ring::both(mapping, CAPACITY_BYTES);
            Ok(halves(to_worker, to_host, Bells::new(line, room), Descriptors::Refuse))
        }
        Err(error) => Err((error, line)),
    }
}

fn make(line: &OwnedFd) -> io::Result<(Mapping, OwnedFd)> {
    let memory = sealed_memory(total_bytes(CAPACITY_BYTES))?;
    let mapping = Mapping::new(memory.as_fd(), total_bytes(CAPACITY_BYTES))?;
    let (room, theirs) = socket_pair()?;
    let mut message = [0; MESSAGE_BYTES];
    message[..8].copy_from_slice(&MAGIC);
    message[8..].copy_from_slice(&(CAPACITY_BYTES as u64).to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [memory.as_fd(), theirs.as_fd()];
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fits, "the buffer has room for two descriptors");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // Nobody has written to it, so that there is room for all of it.
    match sendmsg(line, &[IoSlice::new(&message)], &mut ancillary, flags)? {
        MESSAGE_BYTES => Ok((mapping, room)),
        _ => Err(io::Error::other("a new socket has no room")),
    }
}

/// Memory of zeros, of this size for ever.
fn sealed_memory(bytes: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create("sandgate-rings", flags | MemfdFlags::NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(Errno::INVAL) => memfd_create("sandgate-rings", flags)?,
        memory => memory?,
    };
    ftruncate(&memory, bytes as u64)?;
    fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// A worker's end of its connection.
#[derive(Debug)]
pub struct Accepted {
    /// The half that sends.
    pub send: Box<dyn SendHalf>,
    /// The half that receives.
    pub receive: Box<dyn ReceiveHalf>,
    /// The descriptors that it needs.
    pub descriptors: Vec<RawFd>,
}

/// The worker's halves of the connection that `line` is its end of: rings, if the host has offered some, or the socket
/// itself. Waits until the host has said something.
///
/// # Errors
/// The system's, and that the host has offered what cannot be rings.
pub fn accept(line: OwnedFd) -> io::Result<Accepted> {
    let number = line.as_raw_fd();
    let Some((memory, room, capacity)) = taken(line.as_fd(), RecvFlags::empty())? else {
        let (send, receive) = unix_socket(line, Descriptors::Accept);
        return Ok(Accepted { send: Box::new(send), receive: Box::new(receive), descriptors: vec![number] });
    };
    let descriptors = vec![number, room.as_raw_fd()];
    let (to_worker, to_host) = Ring::both(map(&memory, capacity)?, capacity);
    let (send, receive) = halves(to_host, to_worker, Bells::new(line, room), Descriptors::Accept);
    Ok(Accepted { send: Box::new(send), receive: Box::new(receive), descriptors })
}

/// Copies what the host has said so far and leaves it where it is, for whoever serves the connection afterwards. Waits until
/// the host has said something. For tests of a host.
///
/// # Errors
/// As for [`accept`].
pub fn peek(line: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let Some((memory, _room, capacity)) = taken(line, RecvFlags::PEEK)? else {
        return Ok(recv(line, buffer, RecvFlags::PEEK)?.1);
    };
    let (to_worker, _) = Ring::both(map(&memory, capacity)?, capacity);
    debug_assert_eq!(to_worker.capacity(), capacity);
    Ok(Consumer::new(to_worker).peek(buffer)?)
}

fn map(memory: &OwnedFd, capacity: usize) -> io::Result<Mapping> {
    let is_size = fstat(memory)?.st_size == i64::try_from(total_bytes(capacity)).unwrap_or(i64::MAX);
    if !is_size || !fcntl_get_seals(memory)?.contains(SEALS) {
        return Err(io::Error::other(
            "host offers memory that can change its size, or is not of the size that it says",
        ));
    }
    Mapping::new(memory.as_fd(), total_bytes(capacity))
}

/// The memory, the bell for room and the capacity, if the first message of the host has them.
pub(super) fn taken(line: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Option<(OwnedFd, OwnedFd, usize)>> {
    let mut message = [0; MESSAGE_BYTES];
    let (_, there) = recv(line, &mut message, RecvFlags::PEEK)?;
    if there != MESSAGE_BYTES || message[..8] != MAGIC {
        return Ok(None);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut message)];
    recvmsg(line, &mut buffers, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let (Some(memory), Some(room), None) = (descriptors.next(), descriptors.next(), descriptors.next()) else {
        return Err(io::Error::other("host offers rings without the two descriptors for them"));
    };
    drop(descriptors);
    let capacity = u64::from_le_bytes(message[8..].try_into().expect("the second half of 16 bytes"));
    let capacity = usize::try_from(capacity).ok();
    let capacity = capacity.filter(|capacity| capacity.is_power_of_two() && *capacity <= MAX_CAPACITY_BYTES);
    let capacity = capacity.ok_or_else(|| io::Error::other("host offers rings of a size that they cannot have"))?;
    Ok(Some((memory, room, capacity)))
}
