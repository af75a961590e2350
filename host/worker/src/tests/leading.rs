//! Executors that read the connection themselves: each way in which such a wait ends, and what becomes of everybody else.
//!
//! Who reads is a matter of moments, so each case is tried many times, with all that can be between two messages: a guest that
//! waits again at once, computes for longer than the main thread lets the connection be, or ends.

use std::time::Duration;

use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{Limits, Outcome, ToWorker};

use super::host::*;
use crate::worker::{Ended, WorkerError};

const KILLED: Outcome = Outcome::Killed { by: KilledBy::Kill, started: true };

/// Echoes until its input ends, and computes so many rounds after each message.
fn echo(rounds: u32) -> String {
    guest(&format!(
        "(block $end (loop $again
            (br_if $end {RECEIVE})
            (drop {ECHO})
            (local.set $i (i32.const {rounds}))
            (loop $count (br_if $count (i32.gt_s (local.tee $i (i32.sub (local.get $i) (i32.const 1))) (i32.const 0))))
            (br $again)))"
    ))
}

/// A few milliseconds, in whatever way this is compiled.
const LONG: u32 = 3_000_000;

#[test]
fn a_guest_reads_what_it_waits_for() {
    for (rounds, messages) in [(0, 1000_u32), (LONG, 20)] {
        let mut host = Host::new(1);
        let channel = host.start(&echo(rounds), Call::default());
        for message in 0..messages {
            host.data(channel, &message.to_le_bytes(), &[]);
            assert_eq!(host.receive_bytes(channel), message.to_le_bytes());
        }
        host.close(channel, None, true);
        assert_eq!(host.done(channel), Outcome::Returned);
    }
}

#[test]
fn guests_that_wait_beside_each_other_get_their_own() {
    let mut host = Host::new(3);
    let modules = [host.load(&echo(0)), host.load(&echo(0)), host.load(&echo(LONG / 10))];
    let channels = modules.map(|module| host.execute(module, Call::default()));
    for round in 0..150_u32 {
        // One, two or three of them, in changing order.
        let some: Vec<_> = (0..=round % 3).map(|it| channels[((round / 3 + it) % 3) as usize]).collect();
        for channel in &some {
            host.data(*channel, &round.to_le_bytes(), &[]);
        }
        for channel in some.iter().rev() {
            assert_eq!(host.receive_bytes(*channel), round.to_le_bytes());
        }
    }
}

#[test]
fn executions_find_an_executor_each_whoever_reads_them() {
    for executors in [1, 2, 4] {
        let mut host = Host::new(executors);
        let module = host.load(&echo(0));
        for round in 0..40_u32 {
            let count = 1 + round % executors;
            let channels: Vec<_> = (0..count).map(|_| host.execute(module, Call::default())).collect();
            // All of them run at the same time, so none is answered by the executor of another.
            for channel in channels.iter().rev() {
                host.data(*channel, b"x", &[]);
                assert_eq!(host.receive_bytes(*channel), b"x");
            }
            for channel in channels {
                host.close(channel, None, true);
                assert_eq!(host.done(channel), Outcome::Returned);
            }
        }
    }
}

#[test]
fn what_nobody_waits_for_is_read() {
    let mut host = Host::new(2);
    let module = host.load(&guest(&format!("(drop {RECEIVE}) (drop {ECHO}) (loop $again (br $again))")));
    for _ in 0..50 {
        let channel = host.execute(module, Call::default());
        host.data(channel, b"x", &[]);
        assert_eq!(host.receive_bytes(channel), b"x");
        // It has read for itself, and now computes for ever.
        assert_eq!(host.status().running, 1);
        host.kill(channel);
        assert_eq!(host.done(channel), KILLED);
    }
}

#[test]
fn a_kill_reaches_a_guest_that_reads() {
    let mut host = Host::new(1);
    let module = host.load(&echo(0));
    for _ in 0..100 {
        let channel = host.execute(module, Call::default());
        host.data(channel, b"x", &[]);
        assert_eq!(host.receive_bytes(channel), b"x");
        host.kill(channel);
        assert_eq!(host.done(channel), KILLED);
    }
}

#[test]
fn a_deadline_ends_the_wait_of_a_guest_that_reads() {
    let mut host = Host::new(1);
    // Its own, and that of its execution.
    let wait = RECEIVE.replace("(i64.const -1)", "(i64.const 5000000)");
    let module = host.load(&guest_status(&wait));
    let endless = host.load(&echo(0));
    let after = Duration::from_millis(5);
    for _ in 0..20 {
        let channel = host.execute(module, Call::default());
        assert_eq!(host.done(channel), status_outcome(sandgate_abi::status::TIMEOUT));
        let limits = Limits { wall_time: Some(after), ..Limits::default() };
        let channel = host.execute(endless, Call { limits, ..Call::default() });
        assert_eq!(host.done(channel), Outcome::TimedOut { after });
    }
}

#[test]
fn a_sibling_wakes_a_guest_that_reads() {
    let mut host = Host::new(2);
    // Takes a channel and waits on it.
    let waits = host.load(&guest(&format!(
        "(drop {RECEIVE}) (drop {SEND_1})
         (drop (call $receive (i32.load (i32.const 512)) (i32.const 1024) (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 8) (i64.const -1)))"
    )));
    // Takes the same channel and closes it.
    let closes = host.load(&guest(&format!(
        "(drop {RECEIVE}) (drop (call $close (i32.load (i32.const 512)) (i32.const 0) (i32.const 0) (i32.const 0)))"
    )));
    for _ in 0..50 {
        let shared = host.open();
        let [waiting, closing] = [waits, closes].map(|module| host.execute(module, Call::default()));
        host.data(waiting, b"", &[shared]);
        host.receive(waiting);
        host.data(closing, b"", &[shared]);
        assert_eq!(host.done(closing), Outcome::Returned);
        assert_eq!(host.done(waiting), Outcome::Returned);
        host.closed(shared);
        host.close(shared, None, false);
    }
}

/// A worker whose connection is read by an executor without work, by a guest, or in a moment by the main thread.
fn read_by_others() -> Vec<Host> {
    let mut hosts: Vec<Host> = (0..3).map(|_| Host::new(1)).collect();
    for (host, rounds) in hosts.iter_mut().zip([0, 0, LONG]) {
        let module = host.load(&echo(rounds));
        for _ in 0..2 {
            let channel = host.execute(module, Call::default());
            host.data(channel, b"x", &[]);
            assert_eq!(host.receive_bytes(channel), b"x");
            host.close(channel, None, true);
            assert_eq!(host.done(channel), Outcome::Returned);
        }
    }
    for host in &mut hosts[1..] {
        let module = host.load(&echo(LONG));
        let channel = host.execute(module, Call::default());
        host.data(channel, b"x", &[]);
        assert_eq!(host.receive_bytes(channel), b"x");
    }
    hosts
}

#[test]
fn the_end_is_the_main_threads_whoever_reads_it() {
    for _ in 0..3 {
        for mut host in read_by_others() {
            host.send(&ToWorker::Terminate { kill: true });
            assert_eq!(host.end().unwrap(), Ended::Terminated);
        }
        for mut host in read_by_others() {
            host.send(&ToWorker::Terminate { kill: false });
            assert_eq!(host.end().unwrap(), Ended::Terminated);
        }
        for mut host in read_by_others() {
            host.vanish();
            assert_eq!(host.end().unwrap(), Ended::HostGone);
        }
        for mut host in read_by_others() {
            // An id that is not the host's to give.
            host.send(&ToWorker::Open(sandgate_wire::ChannelId(2)));
            assert!(matches!(host.end(), Err(WorkerError::Violation(_))));
        }
    }
}
