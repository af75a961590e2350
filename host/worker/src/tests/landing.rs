//! Messages that a guest takes while they arrive.

use sandgate_wire::assembly::MORE;
use sandgate_wire::message::{Encoded, kind};
use sandgate_wire::{ChannelId, Outcome};

use super::host::*;

const LENGTH: usize = 40_000;

/// Takes a message of up to 40000 bytes to address 16384, for so many nanoseconds, and stores the status at 0.
fn receive(timeout: i64) -> String {
    format!(
        "(i32.store (i32.const 0) (call $receive (i32.const 0) (i32.const 16384) (i32.const {LENGTH}) (i32.const 512) \
         (i32.const 16) (i32.const 8) (i64.const {timeout})))"
    )
}

/// Sends the status back.
const SAY: &str =
    "(drop (call $send (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const -1)))";
/// Sends what was received.
const ECHO_ALL: &str = "(drop (call $send (i32.const 0) (i32.const 16384) (i32.load (i32.const 8)) (i32.const 0) (i32.const 0) (i64.const -1)))";

fn bytes() -> Vec<u8> {
    (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Sends the bytes from `start` to `end` of a message.
fn part(host: &Host, channel: ChannelId, start: usize, end: usize) {
    let mut body = if start == 0 { (LENGTH as u64).to_le_bytes().to_vec() } else { Vec::new() };
    body.extend_from_slice(&bytes()[start..end]);
    let flags = if end < LENGTH { MORE } else { 0 };
    host.push(Encoded { kind: kind::DATA, flags, channel, body });
}

#[test]
fn a_message_in_parts_is_whole_in_the_end() {
    let mut host = Host::new(1);
    let again = format!("{} {SAY} {ECHO_ALL}", receive(-1)).repeat(2);
    let channel = host.start(&guest(&again), Call::default());
    for cuts in [&[0, 1, 100, 30_000, 39_999, LENGTH][..], &[0, 20_000, LENGTH]] {
        for ends in cuts.windows(2) {
            part(&host, channel, ends[0], ends[1]);
            // The worker has seen it before the next one is sent.
            host.status();
        }
        assert_eq!(host.receive_bytes(channel), [0; 4]);
        assert_eq!(host.receive_bytes(channel), bytes());
    }
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn a_guest_that_waits_no_longer_has_lost_nothing() {
    let mut host = Host::new(1);
    let text = format!("{} {SAY} {} {SAY} {ECHO_ALL}", receive(20_000_000), receive(-1));
    let channel = host.start(&guest(&text), Call::default());
    part(&host, channel, 0, 10_000);
    assert_eq!(host.receive_bytes(channel), (-2_i32).to_le_bytes(), "the time is over before the message is whole");
    part(&host, channel, 10_000, 30_000);
    host.status();
    part(&host, channel, 30_000, LENGTH);
    assert_eq!(host.receive_bytes(channel), [0; 4]);
    assert_eq!(host.receive_bytes(channel), bytes());
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn a_guest_is_stopped_within_a_message() {
    let mut host = Host::new(1);
    let channel = host.start(&guest(&format!("{SAY} {} {SAY}", receive(-1))), Call::default());
    // It has begun.
    assert_eq!(host.receive_bytes(channel).len(), 4);
    part(&host, channel, 0, 10_000);
    host.status();
    host.kill(channel);
    assert!(matches!(host.done(channel), Outcome::Killed { started: true, .. }));
    let next = host.start(&guest(&format!("(drop {SEND_1})")), Call::default());
    assert_eq!(host.receive(next).bytes.len(), 1);
    assert_eq!(host.done(next), Outcome::Returned);
}

#[test]
fn a_message_that_does_not_fit_is_whole_before_it_is_told_of() {
    let mut host = Host::new(1);
    let channel = host.start(
        &guest(&format!("(i32.store (i32.const 0) {RECEIVE}) {SAY} {} {SAY} {ECHO_ALL}", receive(-1))),
        Call::default(),
    );
    part(&host, channel, 0, 10_000);
    host.status();
    part(&host, channel, 10_000, LENGTH);
    assert_eq!(host.receive_bytes(channel), (-3_i32).to_le_bytes(), "too small");
    assert_eq!(host.receive_bytes(channel), [0; 4]);
    assert_eq!(host.receive_bytes(channel), bytes());
    assert_eq!(host.done(channel), Outcome::Returned);
}
