//! The body of the fuzz target `ring`, and its seeds: a host's halves over memory that a peer scribbles on between any two
//! steps.
//!
//! What it promises: nothing panics or waits; what is read is what lies in the ring, at positions that only grow; what is
//! written lies there; a word that cannot be is a violation, and no other error; and bells that nobody asked for change nothing.

use std::fs::File;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use arbitrary::{Result, Unstructured};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use super::handover::taken;
use super::layout::{CAPACITY_BYTES, Direction, Place};
use super::{RingReceiveHalf, RingSendHalf, offer};
use crate::transport::{ReceiveHalf, SendHalf, socket_pair};

const CAPACITY: u64 = CAPACITY_BYTES as u64;
const MAX_STEPS: usize = 512;

/// A word's new value, near what would be right or anything.
#[derive(Debug)]
enum Value {
    Any(u64),
    FromNow(i32),
    CapacityFromNow(i8),
}

#[derive(Debug)]
enum Step {
    /// The peer writes a word, or bytes anywhere.
    Word {
        to_host: bool,
        word: u8,
        value: Value,
    },
    Bytes {
        offset: u32,
        length: u16,
        byte: u8,
    },
    /// The peer writes as it should.
    Publish {
        length: u32,
        byte: u8,
    },
    /// The peer reads as it should.
    Consume {
        length: u32,
    },
    Ring {
        line: u8,
        room: u8,
    },
    Silence,
    HangUp,
    /// The host does something.
    Read {
        length: u32,
        appends: bool,
    },
    Write {
        first: u32,
        second: u16,
        gives: bool,
        lazily: bool,
    },
    AboutToWait,
    AboutToDoze,
    HasDozed,
    WakePeer,
    Look,
    Shutdown,
}

impl Step {
    fn parse(input: &mut Unstructured<'_>) -> Result<Step> {
        Ok(match input.int_in_range(0..=15)? {
            0 => Step::Word {
                to_host: input.arbitrary()?,
                word: input.arbitrary()?,
                value: match input.int_in_range(0..=2)? {
                    0 => Value::Any(input.arbitrary()?),
                    1 => Value::FromNow(input.arbitrary()?),
                    _ => Value::CapacityFromNow(input.arbitrary()?),
                },
            },
            1 => Step::Bytes { offset: input.arbitrary()?, length: input.arbitrary()?, byte: input.arbitrary()? },
            2 => Step::Publish { length: input.arbitrary()?, byte: input.arbitrary()? },
            3 => Step::Consume { length: input.arbitrary()? },
            4 => Step::Ring { line: input.arbitrary()?, room: input.arbitrary()? },
            5 => Step::Silence,
            6 => {
                if input.ratio(1, 8)? {
                    Step::HangUp
                } else {
                    Step::Look
                }
            }
            7 => {
                if input.ratio(1, 8)? {
                    Step::Shutdown
                } else {
                    Step::Look
                }
            }
            8 | 9 => Step::Read { length: input.arbitrary()?, appends: input.arbitrary()? },
            10 | 11 => Step::Write {
                first: input.arbitrary()?,
                second: input.arbitrary()?,
                gives: input.ratio(1, 8)?,
                lazily: input.arbitrary()?,
            },
            12 => Step::AboutToDoze,
            13 => Step::HasDozed,
            14 => Step::WakePeer,
            _ => Step::AboutToWait,
        })
    }
}

struct Stage {
    send: RingSendHalf,
    receive: RingReceiveHalf,
    memory: File,
    line: Option<OwnedFd>,
    room: Option<OwnedFd>,
    /// Bytes that the host has read and written.
    read: u64,
    written: u64,
    was_shut_down: bool,
    /// Writing failed, so that nobody knows how much was written.
    is_broken: bool,
}

/// Plays a script.
///
/// # Panics
/// When something does not hold.
pub fn ring(input: &[u8]) {
    // An input that is too short describes nothing.
    let _ = play(&mut Unstructured::new(input));
}

fn play(input: &mut Unstructured<'_>) -> Result<()> {
    let mut stage = Stage::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        stage.step(&Step::parse(input)?);
    }
    Ok(())
}

fn at(direction: Direction, place: Place) -> u64 {
    let ring = if direction == Direction::ToHost { 512 } else { 0 };
    ring + 128 * place as u64
}

const fn bytes_at(direction: Direction) -> u64 {
    match direction {
        Direction::ToWorker => 4096,
        Direction::ToHost => 4096 + CAPACITY,
    }
}

impl Stage {
    fn new() -> Stage {
        let (ours, theirs) = socket_pair().expect("sockets");
        let (send, receive) = offer(ours).map_err(|(error, _)| error).expect("memory");
        let (memory, room, capacity) = taken(theirs.as_fd(), RecvFlags::empty()).expect("a message").expect("rings");
        assert_eq!(capacity, CAPACITY_BYTES);
        let (line, room) = (Some(theirs), Some(room));
        Stage {
            send,
            receive,
            memory: memory.into(),
            line,
            room,
            read: 0,
            written: 0,
            was_shut_down: false,
            is_broken: false,
        }
    }

    fn get(&self, direction: Direction, place: Place) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, at(direction, place)).expect("memory is read");
        u64::from_le_bytes(bytes)
    }

    fn set(&self, direction: Direction, place: Place, value: u64) {
        self.memory.write_all_at(&value.to_le_bytes(), at(direction, place)).expect("memory is written");
    }

    /// The bytes of a ring from a position on.
    fn bytes(&self, direction: Direction, position: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let offset = position % CAPACITY;
        let first = length.min(usize::try_from(CAPACITY - offset).expect("a size"));
        let start = bytes_at(direction);
        self.memory.read_exact_at(&mut bytes[..first], start + offset).expect("memory is read");
        self.memory.read_exact_at(&mut bytes[first..], start).expect("memory is read");
        bytes
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Word { to_host, word, value } => {
                let direction = if *to_host { Direction::ToHost } else { Direction::ToWorker };
                let places = [Place::Tail, Place::Head, Place::ConsumerSleeps, Place::ProducerSleeps];
                let place = places[usize::from(word % 4)];
                let now = self.get(direction, place);
                let value = match *value {
                    Value::Any(value) => value,
                    Value::FromNow(change) => now.wrapping_add_signed(change.into()),
                    Value::CapacityFromNow(change) => now.wrapping_add(CAPACITY).wrapping_add_signed(change.into()),
                };
                self.set(direction, place, value);
            }
            Step::Bytes { offset, length, byte } => {
                let offset = u64::from(*offset) % (4096 + 2 * CAPACITY - u64::from(*length));
                self.memory.write_all_at(&vec![*byte; usize::from(*length)], offset).expect("memory is written");
            }
            Step::Publish { length, byte } => {
                let tail = self.get(Direction::ToHost, Place::Tail);
                let room = CAPACITY.saturating_sub(tail.wrapping_sub(self.read));
                let length = room.min(u64::from(*length) % (CAPACITY + 1));
                for position in [tail % CAPACITY, tail.wrapping_add(length / 2) % CAPACITY] {
                    self.memory.write_all_at(&[*byte], bytes_at(Direction::ToHost) + position).expect("written");
                }
                self.set(Direction::ToHost, Place::Tail, tail.wrapping_add(length));
            }
            Step::Consume { length } => {
                let head = self.get(Direction::ToWorker, Place::Head);
                let there = self.written.wrapping_sub(head);
                self.set(Direction::ToWorker, Place::Head, head.wrapping_add(there.min((*length).into())));
            }
            Step::Ring { line, room } => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                for (socket, count) in [(&self.line, line), (&self.room, room)] {
                    let Some(socket) = socket else { continue };
                    let bytes = vec![1; usize::from(*count)];
                    let _ = sendmsg(socket, &[IoSlice::new(&bytes)], &mut SendAncillaryBuffer::default(), flags);
                }
            }
            Step::Silence => {
                for socket in [&self.line, &self.room].into_iter().flatten() {
                    let _ = recv(socket, &mut [0; 256], RecvFlags::DONTWAIT);
                }
            }
            Step::HangUp => (self.line, self.room) = (None, None),
            Step::Read { length, appends } => self.read(*length as usize % (2 * CAPACITY_BYTES), *appends),
            Step::Write { first, second, gives, lazily } => {
                self.write([*first as usize % (2 * CAPACITY_BYTES), (*second).into()], *gives, *lazily);
            }
            Step::AboutToWait => {
                let sleeps = self.receive.about_to_wait();
                assert!(!sleeps || self.receive.look() == Some(false));
            }
            Step::AboutToDoze => {
                let dozes = self.receive.about_to_doze() == Some(true);
                assert!(!dozes || self.receive.look() == Some(false));
            }
            Step::HasDozed => {
                if let Err(error) = self.receive.has_dozed() {
                    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
                }
            }
            // If the peer is gone there is nobody to wake.
            Step::WakePeer => drop(self.send.wake_peer()),
            Step::Look => assert!(self.receive.look().is_some()),
            Step::Shutdown => {
                self.send.shutdown();
                self.was_shut_down = true;
            }
        }
    }

    fn read(&mut self, length: usize, appends: bool) {
        let tail = self.get(Direction::ToHost, Place::Tail);
        let mut buffer = vec![0; length];
        let result = if appends {
            buffer = Vec::with_capacity(length);
            self.receive.append(&mut buffer, length, false)
        } else {
            self.receive.read(&mut buffer, false)
        };
        match result {
            Ok(count) => {
                assert!(!appends || buffer.len() == count);
                let expected = self.bytes(Direction::ToHost, self.read, count);
                assert!(buffer[..count] == expected, "what is read is not what lies there");
                self.read += count as u64;
                assert!(count == 0 || self.get(Direction::ToHost, Place::Head) == self.read);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => assert_eq!(tail, self.read, "there was something"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}"),
        }
    }

    fn write(&mut self, sizes: [usize; 2], gives: bool, lazily: bool) {
        let parts = sizes.map(|size| vec![size.to_le_bytes()[0]; size]);
        let slices = parts.each_ref().map(|part| IoSlice::new(part));
        let descriptor = gives.then(|| self.memory.as_fd());
        let written = match lazily {
            true => self.send.try_write_lazily(&slices, descriptor),
            false => self.send.try_write(&slices, descriptor),
        };
        match written {
            Ok(_) if self.is_broken => {}
            Ok(count) => {
                assert!(count <= CAPACITY_BYTES && !self.was_shut_down);
                let whole = parts.concat();
                let lies_there = self.bytes(Direction::ToWorker, self.written, count);
                assert!(whole[..count] == lies_there, "what was written does not lie there");
                self.written += count as u64;
                assert!(count == 0 || self.get(Direction::ToWorker, Place::Tail) == self.written);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::InvalidData => {}
                // Some of it may have been written before it was found that nobody can be rung for. Or too many descriptors are
                // on their way to a peer that takes none.
                _ => {
                    assert!(self.was_shut_down || self.line.is_none() || gives, "{error}");
                    self.is_broken = true;
                }
            },
        }
    }
}

/// Inputs to begin with, with their names.
pub fn ring_seeds() -> Vec<(String, Vec<u8>)> {
    let long = |seed: u64| {
        let mut state = seed;
        let next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(4096).collect::<Vec<u8>>()
    };
    let mut seeds = vec![("empty".to_owned(), Vec::new()), ("zeros".to_owned(), vec![0; 256])];
    seeds.extend((1..9).map(|seed| (format!("mixed-{seed}"), long(seed))));
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_ring_holds_for_its_seeds() {
        for (_, input) in super::ring_seeds() {
            super::ring(&input);
        }
    }
}
