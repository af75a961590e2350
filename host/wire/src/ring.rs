//! Shared memory between a host and a worker of the same machine: one ring each way, and two socket pairs beside it.
//!
//! ```text
//!  page 0                                    then
//!  ┌───────────────────────────────────────┐ ┌──────────────────┬──────────────────┐
//!  │ to worker: tail head sleeps sleeps    │ │ to worker: bytes │ to host: bytes   │
//!  │ to host:   tail head sleeps sleeps    │ │ a power of two   │ as many          │
//!  └───────────────────────────────────────┘ └──────────────────┴──────────────────┘
//! ```
//!
//! 1. `tail` counts the bytes that were ever written, `head` those that were ever read. The producer alone changes the one,
//!    the consumer the other. What lies between them is in the ring, at its count modulo the capacity.
//! 2. A `Producer` copies bytes in, then moves `tail` (release). A `Consumer` looks at `tail` (acquire), copies bytes
//!    out, then moves `head` (release); the producer looks at `head` (acquire) before it writes there again.
//! 3. Whoever is about to sleep says so in its own word, and looks once more; whoever has moved its count looks at that
//!    word, and if it is set takes it back and *rings*: a byte on a socket. Between the two steps of each lies a fence
//!    (sequentially consistent), so that one of the two sees the other. A consumer does not look while all that was written since
//!    it last did leaves half of the ring free, for no producer sleeps then. A consumer that *dozes* says that another thread of
//!    its side reads now and then, or it itself: bytes that can wait do not wake it, unless half of the ring is full, or the
//!    producer has nothing more to say and looks at the word once more. Before nobody reads any more the consumer says, in the
//!    same way, that it sleeps.
//! 4. The *line* is the socket pair that the worker was started with. It hands the memory over (`handover`), it is the
//!    bell for "there are bytes", it carries the descriptors that belong to frames, and its end is that of the connection.
//!    The other pair is the bell for "there is room", since the two are waited for by different threads.
//!
//! The peer may write anything at any time. Each word is read once and checked, and positions of one's own are never read
//! back; bytes are copied out before anybody looks at them. What a peer can spoil is what it says, and its own sleep.

mod bell;
mod consumer;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod halves;
mod handover;
mod layout;
#[expect(
    unsafe_code,
    reason = "maps memory, and copies bytes into it and out of it: nothing else does, and it does nothing else"
)]
mod memory;
mod producer;

pub use self::halves::{RingReceiveHalf, RingSendHalf};
pub use self::handover::{Accepted, accept, offer, peek};
pub use self::layout::CAPACITY_BYTES;

/// What the peer has written into the shared memory cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("position {found} in the ring is not between {least} and {most}")]
pub struct Violation {
    /// What it has written.
    pub found: u64,
    /// The least that it could be.
    pub least: u64,
    /// The most that it could be.
    pub most: u64,
}

impl From<Violation> for std::io::Error {
    fn from(violation: Violation) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, violation)
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod model;
