//! Looks at the host's hello without taking it: whoever serves the connection then finds it there.

use std::os::fd::BorrowedFd;
use std::str;
use std::time::{Duration, Instant};

use rustix::stdio::stdin;
use sandgate_wire::frame::HEADER_BYTES;
use sandgate_wire::message::MAGIC;
use sandgate_wire::ring;

/// Where the gateway's id stands, one byte of length before it: behind the frame's header, the magic and the version.
const ID_AT: usize = HEADER_BYTES + MAGIC.len() + 2;

/// How long the host may take to say hello, or this process to notice that it never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// The id of the gateway that this process is the worker of.
pub(crate) fn gateway_id() -> String {
    let socket: BorrowedFd<'static> = stdin();
    let mut bytes = [0; 512];
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "the host does not say hello");
        // Nothing is there while the host has made its rings and not said anything yet.
        let there = ring::peek(socket, &mut bytes).unwrap();
        let id = bytes[..there]
            .get(ID_AT)
            .and_then(|length| bytes[..there].get(ID_AT + 1..ID_AT + 1 + usize::from(*length)));
        if let Some(id) = id {
            return str::from_utf8(id).unwrap().to_owned();
        }
        std::thread::yield_now();
    }
}
