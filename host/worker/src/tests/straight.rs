//! Messages that go straight into a guest's memory while its thread reads the connection, cut within their chunks.
//!
//! A host lets its bytes through one number after the other; over rings and over a socket, since both are read in another way.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sandgate_wire::flow::Credit;
use sandgate_wire::transport::SendHalf;
use sandgate_wire::{ChannelId, Limits, Outcome, ToWorker};

use super::host::*;
use crate::reading::PUT_BACK;

const LENGTH: usize = 500_000;
/// Within the second chunk: the first goes by way of the worker's own memory.
const WITHIN_A_CHUNK: usize = 100_000;

/// Takes a message of up to 500000 bytes to address 65536, for so many nanoseconds, and says with which status.
fn receive(timeout: i64) -> String {
    format!(
        "(i32.store (i32.const 0) (call $receive (i32.const 0) (i32.const 65536) (i32.const {LENGTH}) (i32.const 512) \
         (i32.const 16) (i32.const 8) (i64.const {timeout})))
         (drop (call $send (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const -1)))"
    )
}

/// Says that it is there.
const SAY: &str =
    "(drop (call $send (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const -1)))";
const ECHO_ALL: &str = "(drop (call $send (i32.const 0) (i32.const 65536) (i32.load (i32.const 8)) (i32.const 0) \
                        (i32.const 0) (i64.const -1)))";

fn large_guest(body: &str) -> String {
    guest(&format!("(drop (memory.grow (i32.const 8))) {body}"))
}

fn bytes() -> Vec<u8> {
    (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// What lets bytes through.
#[derive(Debug, Default)]
struct Sluice {
    /// How many, and whether the connection is gone.
    open: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Sluice {
    fn let_through(&self, count: usize) {
        let mut open = self.open.lock();
        open.0 = open.0.saturating_add(count);
        self.changed.notify_all();
    }

    /// Waits until all of it is through.
    fn is_through(&self) {
        let mut open = self.open.lock();
        let deadline = Instant::now() + Duration::from_secs(20);
        while open.0 > 0 {
            assert!(!self.changed.wait_until(&mut open, deadline).timed_out(), "the bytes do not go through");
        }
    }
}

#[derive(Debug)]
struct Behind {
    send: Box<dyn SendHalf>,
    sluice: Arc<Sluice>,
}

impl SendHalf for Behind {
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut open = self.sluice.open.lock();
        let next: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).take(open.0).collect();
        if next.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.send.try_write(&[IoSlice::new(&next)], descriptor)?;
        open.0 -= count;
        self.sluice.changed.notify_all();
        Ok(count)
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut open = self.sluice.open.lock();
        while *open == (0, false) {
            self.sluice.changed.wait(&mut open);
        }
        drop(open);
        self.send.wait_writable()
    }

    fn shutdown(&self) {
        self.sluice.open.lock().1 = true;
        self.sluice.changed.notify_all();
        self.send.shutdown();
    }
}

const OPEN: usize = usize::MAX / 2;

/// Hosts whose bytes are let through, over a socket and over rings.
fn hosts() -> [(Host, Arc<Sluice>); 2] {
    [Host::over_socket_through, Host::over_rings_through].map(|host| {
        let sluice = Arc::new(Sluice::default());
        sluice.let_through(OPEN);
        (host(&|send| Box::new(Behind { send, sluice: Arc::clone(&sluice) })), sluice)
    })
}

/// Sends the message, and lets so much of it through.
fn begin(host: &Host, sluice: &Sluice, channel: ChannelId, count: usize) {
    sluice.open.lock().0 = count;
    host.data(channel, &bytes(), &[]);
    sluice.is_through();
}

fn expect_all(host: &mut Host, channel: ChannelId) {
    assert_eq!(host.receive_bytes(channel), [0; 4]);
    assert!(host.receive_bytes(channel) == bytes(), "the message is another one");
}

#[test]
fn a_message_lands_however_it_is_cut() {
    const CUTS: [usize; 4] = [1, 15, 1000, 20_000];
    const EACH: usize = 30_000;
    for (mut host, sluice) in hosts() {
        let again = format!("{} {ECHO_ALL}", receive(-1)).repeat(CUTS.len());
        let channel = host.start(&large_guest(&again), Call::default());
        for cut in CUTS {
            begin(&host, &sluice, channel, WITHIN_A_CHUNK);
            for count in [cut, EACH - cut].repeat((LENGTH - WITHIN_A_CHUNK) / EACH) {
                sluice.let_through(count);
                sluice.is_through();
            }
            sluice.let_through(OPEN);
            expect_all(&mut host, channel);
            host.send(&ToWorker::Credit(channel, Credit { bytes: LENGTH as u64 + 4, messages: 2 }));
        }
        assert_eq!(host.done(channel), Outcome::Returned);
    }
}

/// As [`begin`]: six chunks at once, so that the guest takes one while the next arrives and reads from there on, and a part of the
/// seventh in drops.
fn begin_in_drops(host: &mut Host, sluice: &Sluice, channel: ChannelId) {
    // Its guest waits by the time that the message comes, or soon after.
    assert_eq!(host.receive_bytes(channel).len(), 4);
    host.status();
    begin(host, sluice, channel, 400_000);
    for _ in 0..200 {
        sluice.let_through(10);
        sluice.is_through();
    }
}

/// Over each of the two, until a chunk was put back in it: on a busy machine the guest may not be the one who reads.
fn until_a_chunk_is_put_back(scenario: impl Fn(&mut Host, &Sluice)) {
    let mut seen = [false; 2];
    for _ in 0..20 {
        for ((mut host, sluice), seen) in hosts().into_iter().zip(&mut seen) {
            let before = PUT_BACK.load(Ordering::Relaxed);
            scenario(&mut host, &sluice);
            *seen |= PUT_BACK.load(Ordering::Relaxed) > before;
        }
        if seen == [true; 2] {
            return;
        }
    }
    panic!("was a chunk put back, over a socket and over rings: {seen:?}");
}

#[test]
fn a_guest_that_waits_no_longer_within_a_chunk_has_lost_nothing() {
    until_a_chunk_is_put_back(|host, sluice| {
        let text = format!("{SAY} {} {} {ECHO_ALL}", receive(500_000_000), receive(-1));
        let channel = host.start(&large_guest(&text), Call::default());
        begin_in_drops(host, sluice, channel);
        assert_eq!(host.receive_bytes(channel), (-2_i32).to_le_bytes(), "the time is over before the message is whole");
        sluice.let_through(50_000);
        sluice.is_through();
        sluice.let_through(OPEN);
        expect_all(host, channel);
        assert_eq!(host.done(channel), Outcome::Returned);
    });
}

#[test]
fn a_guest_that_is_stopped_within_a_chunk_leaves_the_connection_whole() {
    until_a_chunk_is_put_back(|host, sluice| {
        let limits = Limits { wall_time: Some(Duration::from_millis(500)), ..Limits::default() };
        let channel = host.start(&large_guest(&format!("{SAY} {}", receive(-1))), Call { limits, ..Call::default() });
        begin_in_drops(host, sluice, channel);
        assert!(matches!(host.done(channel), Outcome::TimedOut { .. }));
        // What comes late is nobody's.
        sluice.let_through(OPEN);
        let next = host.start(&guest(&format!("(drop {SEND_1})")), Call::default());
        assert_eq!(host.receive(next).bytes.len(), 1);
        assert_eq!(host.done(next), Outcome::Returned);
    });
}

#[test]
fn what_stands_between_two_chunks_is_done_before_the_second_has_come() {
    for (mut host, sluice) in hosts() {
        let channel = host.start(&large_guest(&format!("{} {ECHO_ALL}", receive(-1))), Call::default());
        begin(&host, &sluice, channel, WITHIN_A_CHUNK);
        host.send(&ToWorker::Status);
        // This chunk, and one more that can be in turn before it.
        sluice.let_through(120_000);
        let running = host.wait_for("a status", |event| match event {
            Event::Status(status) => Some(status.running),
            _ => None,
        });
        assert_eq!(running, 1);
        sluice.let_through(OPEN);
        expect_all(&mut host, channel);
        assert_eq!(host.done(channel), Outcome::Returned);
    }
}

#[test]
fn a_host_that_is_gone_within_a_chunk_ends_the_worker() {
    for (mut host, sluice) in hosts() {
        let channel = host.start(&large_guest(&receive(-1)), Call::default());
        begin(&host, &sluice, channel, WITHIN_A_CHUNK);
        host.vanish();
        assert!(host.end().is_err(), "it ends in mid-sentence");
    }
}
