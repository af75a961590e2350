//! Every way in which a guest can go on for ever, ended by a kill and by a deadline.

use std::time::Duration;

use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{Limits, Outcome};

use super::host::*;

const KILLED: Outcome = Outcome::Killed { by: KilledBy::Kill, started: true };

/// A subscription of one clock at 64, which sleeps for as long as can be said.
const SLEEP: &str = "
    (i32.store8 (i32.const 72) (i32.const 0))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const -1))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 48)))";

/// A buffer of 64 bytes at 0, written to standard output.
const WRITE: &str = "
    (i32.store (i32.const 16) (i32.const 64))
    (i32.store (i32.const 20) (i32.const 64))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))";

pub(super) fn endless() -> Vec<(&'static str, String)> {
    let said = format!("(drop {SEND_1})");
    let again = |body: &str| format!("(loop $again {body} (br $again))");
    let body = |body: &str| guest(&format!("{said} {body}"));
    vec![
        ("a loop", body(&again(""))),
        ("a loop of br_table", body("(loop $again (br_table $again $again (i32.const 7)))")),
        ("a loop of host calls", body(&again("(drop (call $drop (i32.const 9)))"))),
        ("a loop of yields", body(&again("(drop (call $yield))"))),
        ("a loop of random numbers", body(&again("(drop (call $random (i32.const 0) (i32.const 65536)))"))),
        ("bulk memory in a loop", body(&again("(memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))"))),
        ("receive", body(&format!("(drop {RECEIVE})"))),
        (
            "receive on a channel of its own",
            body(
                "(drop (call $receive (call $new) (i32.const 1024) (i32.const 4096) (i32.const 512) (i32.const 16) (i32.const 8) (i64.const -1)))",
            ),
        ),
        ("wait", body("(drop (call $wait (i32.const 0) (i32.const 1) (i64.const -1)))")),
        ("wait for nothing", body("(drop (call $wait (i32.const 0) (i32.const 0) (i64.const -1)))")),
        ("sleep", body(SLEEP)),
        ("sends without credit", body(&again(&said))),
        ("output without credit", body(&again(WRITE))),
        ("a loop in start", guest_with(&format!("(func $start {said} (loop $again (br $again))) (start $start)"), "")),
        (
            "a loop in _initialize",
            guest_with(&format!(r#"(func (export "_initialize") {said} (loop $again (br $again)))"#), ""),
        ),
    ]
}

#[test]
fn a_kill_ends_everything() {
    for (name, text) in endless() {
        let mut host = Host::new(1);
        host.takes_output = false;
        let channel = host.start(&text, Call::default());
        host.receive(channel);
        host.kill(channel);
        assert_eq!(host.done(channel), KILLED, "{name}");
    }
}

#[test]
fn a_deadline_ends_everything() {
    let after = Duration::from_millis(30);
    for (name, text) in endless() {
        let mut host = Host::new(1);
        host.takes_output = false;
        let limits = Limits { wall_time: Some(after), ..Limits::default() };
        let channel = host.start(&text, Call { limits, ..Call::default() });
        assert_eq!(host.done(channel), Outcome::TimedOut { after }, "{name}");
    }
}

#[test]
fn a_deadline_holds_for_the_last_output_too() {
    let after = Duration::from_millis(30);
    let limits = Limits { wall_time: Some(after), ..Limits::default() };
    // A window of output without a line end, and a little more that stays until the guest has returned.
    let text = guest(
        "(i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const 65536))
         (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
         (i32.store (i32.const 20) (i32.const 1))
         (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))",
    );
    let mut host = Host::new(1);
    host.takes_output = false;
    let channel = host.start(&text, Call { limits, ..Call::default() });
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn a_deadline_that_is_far_away_disturbs_nobody() {
    let mut host = Host::new(1);
    let limits = Limits { wall_time: Some(Duration::MAX), ..Limits::default() };
    let channel = host.start(&guest(""), Call { limits, ..Call::default() });
    assert_eq!(host.done(channel), Outcome::Returned);
}

#[test]
fn a_sibling_goes_on_when_one_is_killed() {
    let mut host = Host::new(2);
    // Computes between two looks at its channel, so that every kill of the other finds it at work.
    let busy = guest(&format!(
        "(loop $again
            (local.set $i (i32.const 10000))
            (loop $count (br_if $count (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
            (if (i32.eqz {}) (then (drop {ECHO})))
            (br $again))",
        RECEIVE.replace("(i64.const -1)", "(i64.const 0)")
    ));
    let sibling = host.start(&busy, Call::default());
    let module = host.load(&guest(&format!("(drop {SEND_1}) (loop $again (br $again))")));
    for round in 0..50_u8 {
        let victim = host.execute(module, Call::default());
        host.receive(victim);
        host.kill(victim);
        assert_eq!(host.done(victim), KILLED);
        host.data(sibling, &[round], &[]);
        assert_eq!(host.receive_bytes(sibling), [round]);
    }
    host.kill(sibling);
    assert_eq!(host.done(sibling), KILLED);
}

#[test]
fn the_first_reason_stays_and_late_kills_are_ignored() {
    let mut host = Host::new(1);
    let channel = host.start(&guest(""), Call::default());
    assert_eq!(host.done(channel), Outcome::Returned);
    host.kill(channel);
    host.kill(channel);
    let next = host.start(&guest(""), Call::default());
    assert_eq!(host.done(next), Outcome::Returned);
}
