//! Memory is the whole task: what a guest has, what it was sent, and what it sent and nobody took.

use sandgate_wire::account::{UNCOUNTED_BYTES, cost};
use sandgate_wire::flow::Credit;
use sandgate_wire::limits::LimitName;
use sandgate_wire::{Limits, Message, Outcome, ToWorker};

use super::host::*;

const MIB: u64 = 1 << 20;

fn limits() -> Limits {
    Limits { memory_bytes: 4 * MIB, window_bytes: 64 * MIB, ..Limits::default() }
}

fn call(limits: Limits) -> Call {
    Call { limits, ..Call::default() }
}

fn exceeded() -> Outcome {
    Outcome::LimitExceeded { limit: LimitName::Memory, value: 4 * MIB }
}

/// Sends so many bytes of its memory.
fn send(bytes: u64) -> String {
    format!(
        "(drop (call $send (i32.const 0) (i32.const 0) (i32.const {bytes}) (i32.const 0) (i32.const 0) (i64.const -1)))"
    )
}

const GROW_TO_2_MIB: &str = "(drop (memory.grow (i32.const 31)))";

#[test]
fn a_send_beyond_it_waits_until_something_was_taken() {
    let mut host = Host::new(1);
    let text = guest(&format!("{GROW_TO_2_MIB} {} {} {}", send(MIB), send(MIB), send(1)));
    let channel = host.start(&text, call(limits()));
    assert_eq!(host.receive(channel).bytes.len() as u64, MIB);
    assert_eq!(host.receive(channel).bytes.len() as u64, MIB, "the uncounted bytes make room for what messages cost");
    let text = guest(&format!("{GROW_TO_2_MIB} {} {} {}", send(MIB), send(MIB), send(2 * UNCOUNTED_BYTES)));
    assert_eq!(host.done(channel), Outcome::Returned);
    let channel = host.start(&text, call(limits()));
    host.receive(channel);
    host.receive(channel);
    // The third does not fit. The worker says that it waits, and what is taken makes room.
    host.wait_for("the wish for credits", |event| (*event == Event::CreditWanted(channel)).then_some(()));
    host.send(&ToWorker::Credit(channel, Credit { bytes: MIB, messages: 1 }));
    assert_eq!(host.receive(channel).bytes.len() as u64, 2 * UNCOUNTED_BYTES);
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn a_send_that_cannot_fit_ends_the_task() {
    let mut host = Host::new(1);
    let text = guest(&format!("(drop (memory.grow (i32.const 47))) {}", send(2 * MIB)));
    let channel = host.start(&text, call(limits()));
    assert_eq!(host.done(channel), exceeded());
}

#[test]
fn a_task_that_has_all_its_memory_can_still_answer() {
    let mut host = Host::new(1);
    let grow = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    let channel = host.start(&guest(&format!("{grow} {}", send(1000))), call(limits()));
    assert_eq!(host.receive(channel).bytes.len(), 1000);
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn what_it_was_sent_counts() {
    // It fits when it has grown, and does not with what waits.
    let grow = "(if (i32.eq (memory.grow (i32.const 47)) (i32.const -1)) (then (call $exit (i32.const 1))))";
    for (sent, expected) in [(MIB / 2, Outcome::Returned), (2 * MIB, Outcome::Exited { code: 1 })] {
        let mut host = Host::new(1);
        let module = host.load(&guest(&format!(
            "(drop {SEND_1}) (drop (call $wait (i32.const 0) (i32.const 1) (i64.const -1))) {grow}"
        )));
        let channel = host.execute(module, call(limits()));
        host.receive(channel);
        host.data(channel, &vec![0; usize::try_from(sent).unwrap()], &[]);
        assert_eq!(host.done(channel), expected, "{sent}");
    }
    let mut host = Host::new(1);
    let channel = host.start(&guest(&format!("(drop {SEND_1}) (loop $again (br $again))")), call(limits()));
    host.receive(channel);
    host.data(channel, &vec![0; 5 << 20], &[]);
    assert_eq!(host.done(channel), exceeded());
}

#[test]
fn arguments_count_until_they_are_taken() {
    let mut host = Host::new(1);
    let module = host.load(&guest(""));
    let arguments = |bytes: usize| Some(Message { bytes: vec![0; bytes].into(), channels: Vec::new() });
    let channel = host.execute(module, Call { arguments: arguments(5 << 20), ..call(limits()) });
    assert_eq!(host.done(channel), exceeded());
    let channel = host.execute(module, Call { arguments: arguments(3 << 20), ..call(limits()) });
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn small_messages_cost_more_than_their_bytes() {
    let count = UNCOUNTED_BYTES / cost(0);
    let all = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    let mut host = Host::new(1);
    let text = guest(&format!("{all} (loop $again {} (br $again))", send(0)));
    let limits = Limits { window_messages: 1 << 20, ..limits() };
    let channel = host.start(&text, call(limits));
    for _ in 0..count {
        host.receive(channel);
    }
    host.wait_for("the wish for credits", |event| (*event == Event::CreditWanted(channel)).then_some(()));
    host.kill(channel);
    host.done(channel);
    assert!(!host.pending().any(|event| matches!(event, Event::Data(..))), "no more than fits");
}

#[test]
fn windows_are_what_the_limits_say() {
    for (bytes, messages, length, expected) in
        [(4096, 1024, 1024, 4), (1 << 20, 3, 0, 3), (0, 1, 500, 1), (1000, 9, 5000, 1)]
    {
        let mut host = Host::new(1);
        let limits = Limits { window_bytes: bytes, window_messages: messages, ..Limits::default() };
        let channel = host.start(&guest(&format!("(loop $again {} (br $again))", send(length))), call(limits));
        for _ in 0..expected {
            host.receive(channel);
        }
        host.kill(channel);
        host.done(channel);
        assert!(!host.pending().any(|event| matches!(event, Event::Data(..))), "{bytes} {messages} {length}");
    }
}
