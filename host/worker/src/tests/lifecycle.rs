//! Messages through a guest and back, the queue, and the ends of a worker.

use sandgate_wire::message::{Entry, Stream};
use sandgate_wire::outcome::{KilledBy, Rejection};
use sandgate_wire::{ChannelId, Message, Outcome, ToWorker};

use super::host::*;
use crate::worker::{Ended, WorkerError};

/// Echoes until its channel ends.
fn echo() -> String {
    guest(&format!(
        "(loop $again
            (if (i32.eqz {RECEIVE}) (then (drop {ECHO}) (br $again))))"
    ))
}

#[test]
fn messages_go_through_a_guest_and_back() {
    let mut host = Host::new(1);
    let channel = host.start(&echo(), Call::default());
    for bytes in [&b"one"[..], b"", &[7; 4096]] {
        host.data(channel, bytes, &[]);
        assert_eq!(host.receive_bytes(channel), bytes);
    }
    host.close(channel, None, true);
    assert_eq!(host.done(channel), Outcome::Returned);
    host.wait_status("the worker to be idle", |status| {
        (status.running, status.channels, status.finished) == (0, 0, 1)
    });
}
