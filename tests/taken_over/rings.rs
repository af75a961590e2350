//! What a worker that was taken over does to the memory that it shares with its host, and to the bells.
//!
//! It writes into the file instead of a mapping, so that it needs no unsafe code; the host sees no difference.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use rustix::stdio::stdin;

/// What the names of gateways begin with whose worker spoils its rings.
pub(crate) const PREFIX: &str = "ring-";

/// Where the words are, as `host/wire/src/ring/layout.rs` has them.
const TAIL_TO_HOST: u64 = 512;
const HEAD_TO_WORKER: u64 = 128;
const CONSUMER_SLEEPS_TO_HOST: u64 = 768;
const CONSUMER_SLEEPS_TO_WORKER: u64 = 256;
const BYTES_AT: u64 = 4096;

/// The shared memory and the worker's end of the bell for room.
pub(crate) struct Rings {
    memory: File,
    room: OwnedFd,
}

impl Rings {
    /// Those of this process, if it has not accepted them yet.
    pub(crate) fn of_this_process() -> Option<Rings> {
        let socket: BorrowedFd<'static> = stdin();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 16];
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::PEEK).unwrap();
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors.collect::<Vec<_>>()),
            _ => None,
        });
        let [memory, room] = descriptors.next()?.try_into().ok()?;
        Some(Rings { memory: memory.into(), room })
    }

    fn set(&self, word: u64, value: u64) {
        self.memory.write_all_at(&value.to_le_bytes(), word).unwrap();
    }

    fn get(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, word).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Does what the id says; false if it says nothing.
    pub(crate) fn spoil(&self, id: &str) -> bool {
        match id.strip_prefix(PREFIX).unwrap_or_default() {
            "tail-goes-back" => {
                self.set(TAIL_TO_HOST, 1);
                self.ring();
            }
            "tail-leaps-ahead" => {
                self.set(TAIL_TO_HOST, self.get(TAIL_TO_HOST) + (1 << 20));
                self.ring();
            }
            "tail-is-at-the-end-of-numbers" => {
                self.set(TAIL_TO_HOST, u64::MAX);
                self.ring();
            }
            "head-goes-back-and-leaps" => loop {
                self.set(HEAD_TO_WORKER, 0);
                self.set(HEAD_TO_WORKER, 1 << 40);
                self.ring();
            },
            "is-scribbled-over" => {
                self.memory.write_all_at(&[0xa5; 8192], 0).unwrap();
                self.ring();
            }
            "is-scribbled-over-for-ever" => {
                for round in (0..=u8::MAX).cycle() {
                    let bytes = [round; 1024];
                    self.memory.write_all_at(&bytes, u64::from(round) * 4).unwrap();
                    self.memory.write_all_at(&bytes, BYTES_AT + (256 << 10) + u64::from(round) * 1024).unwrap();
                    self.ring();
                }
            }
            // The host says when it sleeps, and nobody else may.
            "wakes-its-host-for-ever" => loop {
                self.set(CONSUMER_SLEEPS_TO_HOST, 0);
                self.ring();
            },
            "never-lets-its-host-wake" => loop {
                self.set(CONSUMER_SLEEPS_TO_HOST, 0);
            },
            "says-that-it-sleeps-for-ever" => loop {
                self.set(CONSUMER_SLEEPS_TO_WORKER, 1);
            },
            "closes-the-bell-for-room" => {
                let _ = rustix::net::shutdown(&self.room, rustix::net::Shutdown::Both);
            }
            _ => return false,
        }
        true
    }

    /// Both bells, whether or not anybody asked for it.
    fn ring(&self) {
        let socket: BorrowedFd<'static> = stdin();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        for result in [
            sendmsg(socket, &[IoSlice::new(&[0])], &mut SendAncillaryBuffer::default(), flags),
            sendmsg(&self.room, &[IoSlice::new(&[0])], &mut SendAncillaryBuffer::default(), flags),
        ] {
            match result.map_err(std::io::Error::from) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => std::process::exit(0),
                _ => {}
            }
        }
    }
}
