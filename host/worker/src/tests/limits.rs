//! What a guest may use, and what it is told when it asks for more.

use sandgate_wire::limits::{LimitName, WINDOW_MESSAGES};
use sandgate_wire::message::Stream;
use sandgate_wire::outcome::{KilledBy, Rejection};
use sandgate_wire::{Limits, Outcome};

use super::host::*;
use crate::execution::MAX_UNANSWERED;

fn with_limits(limits: Limits) -> Call {
    Call { limits, ..Call::default() }
}

fn check(text: &str, limits: Limits, expected: &Outcome) {
    let mut host = Host::new(1);
    let channel = host.start(text, with_limits(limits));
    assert_eq!(&host.done(channel), expected, "{text}");
}

fn exceeded(limit: LimitName, value: u64) -> Outcome {
    Outcome::LimitExceeded { limit, value }
}

#[test]
fn memory_and_tables() {
    let limits = || Limits { memory_bytes: 4 << 16, table_elements: 100, ..Limits::default() };
    // Grows a page at a time until it is told no, and exits with the number of pages it has.
    let grow = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (call $exit (memory.size))";
    check(&guest(grow), limits(), &Outcome::Exited { code: 4 });
    let all = "(call $exit (i32.sub (i32.const 0) (memory.grow (i32.const 65535))))";
    check(&guest(all), limits(), &Outcome::Exited { code: 1 });
    let memory = |pages: u32| format!(r#"(module (memory (export "memory") {pages}) (func (export "_start")))"#);
    check(&memory(4), limits(), &Outcome::Returned);
    for pages in [5, 65_536] {
        let expected = exceeded(LimitName::Memory, 4 << 16);
        check(&memory(pages), limits(), &expected);
    }
    let table = "(table $t 10 funcref)";
    let grow = "(call $exit (i32.sub (i32.const 0) (table.grow $t (ref.null func) (i32.const -1))))";
    let one = Outcome::Exited { code: 1 };
    check(&guest_with(table, grow), limits(), &one);
    let table = "(table $t 101 funcref)";
    let expected = exceeded(LimitName::Table, 100);
    check(&guest_with(table, ""), limits(), &expected);
    let tables = "(table 1 funcref)".repeat(3);
    let mut host = Host::new(1);
    let channel = host.start(&guest_with(&tables, ""), Call::default());
    let outcome = host.done(channel);
    assert!(matches!(outcome, Outcome::Rejected { reason: Rejection::Instantiation { .. } }), "{outcome}");
}

#[test]
fn memory_is_fresh_for_each_execution() {
    // Exits with 7 if the byte at 40000 or one in a grown page is not zero, writes both, and traps.
    let text = guest(
        "(drop (memory.grow (i32.const 1)))
         (if (i32.or (i32.load8_u (i32.const 40000)) (i32.load8_u (i32.const 100000))) (then (call $exit (i32.const 7))))
         (memory.fill (i32.const 0) (i32.const 255) (i32.const 131072))
         unreachable",
    );
    let mut host = Host::new(1);
    let module = host.load(&text);
    for _ in 0..5 {
        let channel = host.execute(module, Call::default());
        assert!(matches!(host.done(channel), Outcome::Trapped { .. }));
    }
}

#[test]
fn memories_and_tables_are_set_back_wherever_they_were_written_to() {
    // A page here and there: among the data, in what is kept of a memory, beyond it, and in what it grew by.
    let places = [8, 70_000, 1 << 20, (3 << 20) + 17, (6 << 20) + 5];
    let data = r#"(data (i32.const 0) "as it was") (data (i32.const 70000) "here too")
        (table $t 20000 funcref) (elem (i32.const 3) func $f) (func $f)"#;
    let dirty = |at: u32| format!("(i32.ne (i32.load8_u (i32.const {at})) (i32.const {}))", initial(at));
    fn initial(at: u32) -> u8 {
        match at {
            8 => b's',
            70_000 => b'h',
            _ => 0,
        }
    }
    let wrong = places.map(dirty).into_iter().reduce(|all, one| format!("(i32.or {all} {one})")).unwrap();
    let write = places.map(|at| format!("(i32.store8 (i32.const {at}) (i32.const 255))")).concat();
    let tables = "(i32.or (ref.is_null (table.get $t (i32.const 3)))
        (i32.or (i32.eqz (ref.is_null (table.get $t (i32.const 4)))) (i32.eqz (ref.is_null (table.get $t (i32.const 19999))))))";
    let text = guest_with(
        data,
        &format!(
            "(drop (memory.grow (i32.const 127)))
             (if (i32.or {wrong} {tables}) (then (call $exit (i32.const 7))))
             {write}
             (table.set $t (i32.const 3) (ref.null func))
             (table.set $t (i32.const 4) (ref.func $f)) (table.set $t (i32.const 19999) (ref.func $f))
             unreachable"
        ),
    );
    let mut host = Host::new(1);
    let module = host.load(&text);
    for _ in 0..5 {
        let channel = host.execute(module, Call::default());
        let outcome = host.done(channel);
        assert!(matches!(outcome, Outcome::Trapped { .. }), "{outcome}");
    }
}

/// Writes `length` bytes from 1024 to a stream, `times` times.
fn writes(descriptor: u32, length: u32, times: u32) -> String {
    guest(&format!(
        "(i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const {length}))
         (local.set $i (i32.const {times}))
         (loop $again
            (drop (call $write (i32.const {descriptor}) (i32.const 16) (i32.const 1) (i32.const 8)))
            (if (i32.ne (i32.load (i32.const 8)) (i32.const {length})) (then unreachable))
            (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
    ))
}

#[test]
fn output_is_complete_up_to_its_cap() {
    for (descriptor, length, times, cap, expected) in [
        (1, 1, 1, 10, 1),
        (1, 1, 20_000, 1 << 20, 20_000),
        (2, 60_000, 5, 1 << 20, 300_000),
        (1, 0, 5, 0, 0),
        (1, 100, 10, 1000, 1000),
        (1, 100, 11, 1000, 1000),
        (2, 60_000, 100, 100_000, 100_000),
        (1, 1, 1, 0, 0),
        (2, 1, 100_000, 7, 7),
    ] {
        let mut host = Host::new(1);
        let limits = Limits { output_bytes: cap, ..Limits::default() };
        let channel = host.start(&writes(descriptor, length, times), with_limits(limits));
        let case = format!("{times} writes of {length} with a cap of {cap}");
        assert_eq!(host.done(channel), Outcome::Returned, "{case}");
        let stream = if descriptor == 1 { Stream::Stdout } else { Stream::Stderr };
        let (bytes, truncated) = host.output(channel, stream);
        assert_eq!(bytes.len(), expected, "{case}");
        let wanted = u64::from(length) * u64::from(times);
        assert_eq!(truncated, wanted > cap, "{case}");
    }
}

#[test]
fn both_streams_share_the_cap_and_the_marked_frame_is_the_last() {
    let text = guest(
        "(i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 6))
         (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
         (drop (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 8)))
         (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))",
    );
    let limits = Limits { output_bytes: 10, ..Limits::default() };
    let mut host = Host::new(1);
    let channel = host.start(&text, with_limits(limits));
    assert_eq!(host.done(channel), Outcome::Returned);
    let frames: Vec<_> = host
        .pending()
        .filter_map(|event| match event {
            Event::Output(_, stream, truncated, bytes) => Some((*stream, *truncated, bytes.len())),
            _ => None,
        })
        .collect();
    assert_eq!(frames, [(Stream::Stdout, false, 6), (Stream::Stderr, true, 4)]);
}

#[test]
fn messages() {
    let limits = || Limits { message_bytes: 100, ..Limits::default() };
    let send = |length: u32| {
        guest_status(&format!(
            "(call $send (i32.const 0) (i32.const 0) (i32.const {length}) (i32.const 0) (i32.const 0) (i64.const -1))"
        ))
    };
    check(&send(100), limits(), &status_outcome(0));
    check(&send(101), limits(), &status_outcome(-6));
    check(&send(65_536), limits(), &status_outcome(-6));
    check(&send(65_537), limits(), &status_outcome(-5));
    // What the host sends is checked as well, in one piece and in many.
    for length in [101, 1 << 20] {
        let mut host = Host::new(1);
        let receive = guest(&format!("(drop {SEND_1}) (drop {RECEIVE}) (loop $again (br $again))"));
        let channel = host.start(&receive, with_limits(limits()));
        host.receive(channel);
        host.data(channel, &vec![0; length], &[]);
        assert_eq!(host.done(channel), exceeded(LimitName::Message, 100));
        let next = host.start(&guest(""), Call::default());
        assert_eq!(host.done(next), Outcome::Returned);
    }
}

#[test]
fn a_message_that_is_too_large_may_come_before_its_execution_runs() {
    let mut host = Host::new(1);
    let module = host.load(&guest(&format!("(drop {RECEIVE})")));
    let first = host.execute(module, Call::default());
    let limits = Limits { message_bytes: 100, ..Limits::default() };
    let second = host.execute(module, with_limits(limits));
    host.data(second, &[0; 101], &[]);
    host.data(first, b"", &[]);
    assert_eq!(host.done(first), Outcome::Returned);
    assert_eq!(host.done(second), exceeded(LimitName::Message, 100));
}

#[test]
fn a_flood_of_sends_stays_within_the_window() {
    let mut host = Host::new(1);
    let flood = guest(&format!("(loop $again (drop {SEND_1}) (br $again))"));
    let channel = host.start(&flood, Call::default());
    for _ in 0..WINDOW_MESSAGES {
        host.receive(channel);
    }
    host.kill(channel);
    host.done(channel);
    let more = host.pending().filter(|event| matches!(event, Event::Data(..))).count();
    assert_eq!(more, 0);
}

#[test]
fn channels() {
    let limits = || Limits { channels: 4, ..Limits::default() };
    // Makes channels until it is told no, and exits with how many it made.
    let make = "(loop $again
        (if (i32.gt_s (local.tee $j (call $new)) (i32.const 0)) (then
            (local.set $i (i32.add (local.get $i) (i32.const 1))) (br $again))))";
    let text = guest(&format!(
        "{make} (if (i32.ne (local.get $j) (i32.const -7)) (then unreachable)) (call $exit (local.get $i))"
    ));
    check(&text, limits(), &Outcome::Exited { code: 3 });
    let one = Limits { channels: 1, ..Limits::default() };
    check(&text, one, &Outcome::Returned);
    // A message whose channels there is no room for is kept.
    let text =
        guest(&format!("(local.set $i {RECEIVE}) (drop {SEND_1}) (call $exit (i32.sub (i32.const 0) (local.get $i)))"));
    let mut host = Host::new(1);
    let attached = [host.open(), host.open(), host.open(), host.open()];
    let channel = host.start(&text, with_limits(limits()));
    host.data(channel, b"", &attached);
    assert_eq!(host.done(channel), status_outcome(-7));
    for id in attached {
        host.closed(id);
    }
}

#[test]
fn a_guest_that_gives_channels_back_waits_for_the_host_to_settle_them() {
    let limits = Limits { channels: 3, ..Limits::default() };
    // Makes and drops two channels, waits for a third, and keeps it; then it holds all it may but one, and then all.
    let text = guest(&format!(
        "(drop {SEND_1})
         (drop (call $drop (call $new))) (drop (call $drop (call $new)))
         (if (i32.le_s (call $new) (i32.const 0)) (then unreachable))
         (if (i32.le_s (call $new) (i32.const 0)) (then unreachable))
         (if (i32.ne (call $new) (i32.const -7)) (then unreachable))"
    ));
    let mut host = Host::new(1);
    let channel = host.start(&text, with_limits(limits));
    host.receive(channel);
    let made = [host.opened(channel), host.opened(channel)];
    for made in made {
        host.closed(made);
    }
    host.wait_status("the third channel to be waited for", |status| status.channels == 3);
    for made in made {
        host.close(made, None, false);
        host.opened(channel);
    }
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn a_guest_that_waits_for_room_for_a_channel_can_be_stopped() {
    let limits = Limits { channels: 2, ..Limits::default() };
    let text = guest(&format!("(drop {SEND_1}) (drop (call $drop (call $new))) (drop (call $new)) unreachable"));
    let mut host = Host::new(1);
    let channel = host.start(&text, with_limits(limits));
    host.receive(channel);
    let made = host.opened(channel);
    host.closed(made);
    host.kill(channel);
    assert_eq!(host.done(channel), Outcome::Killed { by: KilledBy::Kill, started: true });
}

#[test]
fn a_guest_that_makes_channels_for_nothing_waits_for_answers_long_before_its_limit() {
    // Makes and drops without end, and would be seen to by nobody.
    let text = guest("(loop $l (drop (call $drop (call $new))) (br $l))");
    let mut host = Host::new(1);
    let channel = host.start(&text, with_limits(Limits::default()));
    let most = usize::try_from(MAX_UNANSWERED).unwrap();
    let made: Vec<_> = (0..most).map(|_| host.opened(channel)).collect();
    for made in &made {
        host.closed(*made);
    }
    // Its own channel, and those.
    host.wait_status("no more channels to be made", |status| status.channels as usize == 1 + most);
    // Half of the answers let it go on, to where it was before.
    for made in &made[..most / 2] {
        host.close(*made, None, false);
    }
    for _ in 0..most / 2 {
        let made = host.opened(channel);
        host.closed(made);
    }
    host.wait_status("it to wait again", |status| status.channels as usize == 1 + most);
    host.kill(channel);
    assert_eq!(host.done(channel), Outcome::Killed { by: KilledBy::Kill, started: true });
}

#[test]
fn channels_that_messages_were_sent_on_may_wait_for_their_reader() {
    // The host answers only once somebody has read them, which may be after all else that the guest does.
    let most = MAX_UNANSWERED + 10;
    let text = guest(&format!(
        "(local.set $i (i32.const {most}))
         (loop $l
            (local.set $j (call $new))
            (drop (call $send (local.get $j) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i64.const -1)))
            (drop (call $drop (local.get $j)))
            (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
    ));
    let mut host = Host::new(1);
    let channel = host.start(&text, with_limits(Limits::default()));
    assert_eq!(host.done(channel), Outcome::Returned);
}
