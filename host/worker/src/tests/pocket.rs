//! Messages that a guest has at hand: nothing that was promised is different for them.

use sandgate_wire::account::{UNCOUNTED_BYTES, cost};
use sandgate_wire::{ChannelId, Limits, Outcome};

use super::host::*;

/// Waits for ever.
const STAY: &str = "(drop (call $wait (i32.const 0) (i32.const 0) (i64.const -1)))";

/// Starts a guest once all of these messages are there for it.
fn start_with(host: &mut Host, body: &str, limits: Limits, messages: &[Vec<u8>]) -> ChannelId {
    let in_its_place = host.start(&guest(STAY), Call::default());
    let channel = host.start(&guest(body), Call { limits, ..Call::default() });
    for message in messages {
        host.data(channel, message, &[]);
    }
    host.status();
    host.kill(in_its_place);
    host.done(in_its_place);
    channel
}

fn numbered(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number; 1 + usize::from(number)]).collect()
}

#[test]
fn they_come_in_order_with_what_is_larger_in_between() {
    let mut messages = numbered(200);
    messages[20] = vec![20; 3000];
    messages[21] = Vec::new();
    messages[150] = vec![150; 513];
    let mut host = Host::new(1);
    let body = format!("(loop $again (if (i32.eqz {RECEIVE}) (then (drop {ECHO}) (br $again))))");
    let channel = start_with(&mut host, &body, Limits::default(), &messages);
    for message in &messages {
        assert_eq!(host.receive_bytes(channel), *message);
    }
    host.close(channel, None, true);
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn credits_go_back_for_what_was_taken() {
    for taken in 1..=8 {
        let mut host = Host::new(1);
        let limits = Limits { window_messages: 8, ..Limits::default() };
        let body = format!("{} (drop {SEND_1}) {STAY}", format!("(drop {RECEIVE})").repeat(taken));
        let channel = start_with(&mut host, &body, limits, &numbered(8));
        host.receive(channel);
        let credits = host.pending().filter_map(|event| match event {
            Event::Credit(id, credit) if *id == channel => Some(credit.messages as usize),
            _ => None,
        });
        assert_eq!(credits.sum::<usize>(), taken / 4 * 4, "half a window, once it was taken: {taken}");
    }
}

#[test]
fn they_count_until_they_were_taken() {
    let messages = vec![vec![0; 512]; 300];
    assert!(300 * cost(512) > UNCOUNTED_BYTES);
    let all_of_it = "(if (i32.eq (memory.grow (i32.const 63)) (i32.const -1)) (then (call $exit (i32.const 1))))";
    for (taken, expected) in [(300, Outcome::Returned), (1, Outcome::Exited { code: 1 })] {
        let mut host = Host::new(1);
        let limits = Limits { memory_bytes: 4 << 20, ..Limits::default() };
        let body = format!(
            "(loop $again (drop {RECEIVE}) (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $i) (i32.const {taken})))) {all_of_it}"
        );
        let channel = start_with(&mut host, &body, limits, &messages);
        assert_eq!(host.done(channel), expected, "{taken}");
    }
}

#[test]
fn they_are_seen_by_a_wait_and_kept_for_a_larger_buffer() {
    let mut host = Host::new(1);
    let wait = "(call $wait (i32.const 0) (i32.const 1) (i64.const 0))";
    let too_small = RECEIVE.replace("(i32.const 4096)", "(i32.const 1)");
    let body = format!(
        "(drop {RECEIVE}) (if {wait} (then (call $exit (i32.const 50))))
         (if (i32.ne {too_small} (i32.const -3)) (then (call $exit (i32.const 51))))
         (drop {RECEIVE}) (drop {ECHO})"
    );
    let channel = start_with(&mut host, &body, Limits::default(), &numbered(3));
    assert_eq!(host.receive_bytes(channel), [1, 1]);
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn they_are_there_for_another_guest_that_listens() {
    let mut host = Host::new(2);
    let other = host.start(&guest(STAY), Call::default());
    let body = format!("(drop {RECEIVE}) (drop {SEND_1}) {STAY}");
    let first = start_with(&mut host, &body, Limits::default(), &numbered(5));
    host.receive(first);
    host.kill(other);
    host.done(other);
    // The handle is kept at 8192, for the place where it came is written to again.
    let keep = "(i32.store (i32.const 8192) (i32.load (i32.const 512)))";
    let receive = RECEIVE.replacen("(i32.const 0)", "(i32.load (i32.const 8192))", 1);
    let body = format!("(drop {RECEIVE}) {keep} {}", format!("(drop {receive}) (drop {ECHO})").repeat(4));
    let second = host.start(&guest(&body), Call::default());
    host.data(second, &[], &[first]);
    for message in &numbered(5)[1..] {
        assert_eq!(host.receive_bytes(second), *message);
    }
    assert_eq!(host.done(second), Outcome::Returned);
    host.kill(first);
    host.done(first);
}

/// A guest that waits, and gets each message where it wants it as it comes.
mod landing {
    use sandgate_wire::ToWorker;
    use sandgate_wire::flow::Credit;

    use super::*;

    fn one_by_one(host: &mut Host, channel: ChannelId, messages: impl IntoIterator<Item = Vec<u8>>) {
        for message in messages {
            host.data(channel, &message, &[]);
            assert_eq!(host.receive_bytes(channel), message);
            host.send(&ToWorker::Credit(channel, Credit { bytes: message.len() as u64, messages: 1 }));
        }
    }

    #[test]
    fn credits_go_back_for_what_has_landed() {
        let mut host = Host::new(1);
        let limits = Limits { window_messages: 8, ..Limits::default() };
        let body = format!("(loop $again (if (i32.eqz {RECEIVE}) (then (drop {ECHO}) (br $again))))");
        let channel = host.start(&guest(&body), Call { limits, ..Call::default() });
        one_by_one(&mut host, channel, (0..22).map(|number| vec![number; usize::from(number)]));
        host.close(channel, None, true);
        assert_eq!(host.done(channel), Outcome::Returned);
        let credits = host.pending().filter_map(|event| match event {
            Event::Credit(id, credit) if *id == channel => Some(credit.messages as usize),
            _ => None,
        });
        assert_eq!(credits.sum::<usize>(), 20, "half a window, five times");
    }

    #[test]
    fn what_is_too_large_to_land_is_received_all_the_same() {
        let mut host = Host::new(1);
        let too_small = RECEIVE.replace("(i32.const 4096)", "(i32.const 1)");
        let body = format!(
            "(if (i32.ne {too_small} (i32.const -3)) (then (call $exit (i32.const 51)))) (drop {RECEIVE}) (drop {ECHO})
             (loop $again (if (i32.eqz {RECEIVE}) (then (drop {ECHO}) (br $again))))"
        );
        let channel = host.start(&guest(&body), Call::default());
        one_by_one(&mut host, channel, [vec![7; 2], vec![8; 4096], vec![9; 1], Vec::new()]);
        host.close(channel, None, true);
        assert_eq!(host.done(channel), Outcome::Returned);
    }

    /// Those that were taken last, and would be counted as that with the next one, which lands.
    #[test]
    fn what_was_taken_before_does_not_count_any_more() {
        let messages: Vec<_> = (0..100).map(|_| vec![0; 3000]).chain([vec![1]]).collect();
        assert!(100 * cost(3000) > UNCOUNTED_BYTES);
        let mut host = Host::new(1);
        let limits = Limits { memory_bytes: 4 << 20, ..Limits::default() };
        let body = format!(
            "(loop $again (drop {RECEIVE}) (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $i) (i32.const {}))))
             (drop {ECHO}) (drop {RECEIVE}) (drop {ECHO})
             (if (i32.eq (memory.grow (i32.const 63)) (i32.const -1)) (then (call $exit (i32.const 1))))",
            messages.len()
        );
        let channel = start_with(&mut host, &body, limits, &messages);
        assert_eq!(host.receive_bytes(channel), [1]);
        one_by_one(&mut host, channel, [vec![2]]);
        assert_eq!(host.done(channel), Outcome::Returned);
    }
}
