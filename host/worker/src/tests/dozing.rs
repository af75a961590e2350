//! A worker whose main thread is left asleep while its executor is at work: what the host sends then is run all the same, what
//! cannot wait is done at once, and each end is told.

use std::time::{Duration, Instant};

use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{Message, Outcome, ToWorker};

use super::host::*;
use crate::worker::{Ended, WorkerError};

/// A few milliseconds, so that the main thread sees that nobody leads.
const LONG: u32 = 3_000_000;

/// Computes so many rounds.
fn computes(rounds: u32) -> String {
    guest(&format!(
        "(local.set $i (i32.const {rounds}))
         (loop $count (br_if $count (i32.gt_s (local.tee $i (i32.sub (local.get $i) (i32.const 1))) (i32.const 0))))"
    ))
}

/// A worker whose executor computes for ever, and for long enough already.
fn at_work() -> (Host, sandgate_wire::ChannelId) {
    let mut host = Host::over_rings();
    let long = host.load(&computes(LONG));
    let endless = host.load(&guest("(loop $again (br $again))"));
    let first = host.execute(long, Call::default());
    let running = host.execute_lazily(endless, Call::default());
    assert_eq!(host.done(first), Outcome::Returned);
    (host, running)
}

#[test]
fn what_can_wait_is_run_by_an_executor_that_looks() {
    let mut host = Host::over_rings();
    let modules = [0, LONG / 300, LONG].map(|rounds| host.load(&computes(rounds)));
    for round in 0..300_usize {
        // Some find the executor at work, some just when it has nothing more to do.
        let count = 1 + round % 7;
        let which = |number: usize| if round % 30 == 0 && number == 0 { 2 } else { (round + number) % 2 };
        let channels: Vec<_> =
            (0..count).map(|number| host.execute_lazily(modules[which(number)], Call::default())).collect();
        if round % 3 == 0 {
            host.status();
        }
        for channel in channels {
            assert_eq!(host.done(channel), Outcome::Returned);
        }
    }
}

#[test]
fn more_than_half_a_ring_of_it_is_read_although_the_executor_never_looks() {
    let (mut host, running) = at_work();
    let module = host.load(&computes(0));
    let arguments = || Some(Message { bytes: vec![7; 60_000].into(), channels: Vec::new() });
    let channels: Vec<_> =
        (0..20).map(|_| host.execute_lazily(module, Call { arguments: arguments(), ..Call::default() })).collect();
    host.kill(running);
    assert_eq!(host.done(running), Outcome::Killed { by: KilledBy::Kill, started: true });
    for channel in channels {
        assert_eq!(host.done(channel), Outcome::Returned);
    }
}

#[test]
fn what_cannot_wait_is_done_while_it_computes() {
    for _ in 0..5 {
        let (mut host, running) = at_work();
        let module = host.load(&computes(0));
        let waiting = host.execute_lazily(module, Call::default());
        let behind = host.execute_lazily(module, Call::default());
        host.kill_by(waiting, KilledBy::Recall);
        assert_eq!(host.done(waiting), Outcome::Killed { by: KilledBy::Recall, started: false });
        // The endless one may not have begun yet, though nothing is before it any more.
        let deadline = Instant::now() + Duration::from_secs(10);
        while host.status().queued != 1 {
            assert!(Instant::now() < deadline, "what was recalled is queued");
        }
        let other = host.load(&computes(1));
        let last = host.execute_lazily(other, Call::default());
        host.kill(running);
        assert_eq!(host.done(running), Outcome::Killed { by: KilledBy::Kill, started: true });
        assert_eq!((host.done(behind), host.done(last)), (Outcome::Returned, Outcome::Returned));
    }
}

/// The executor may be the one that reads the module's frame, and nobody but the main thread takes the descriptor.
#[test]
fn modules_arrive_while_executions_follow_each_other() {
    let mut host = Host::over_rings();
    let module = host.load(&computes(LONG / 100));
    let first = host.execute(module, Call::default());
    let mut channels = vec![first];
    for rounds in 0..40 {
        channels.extend((0..3).map(|_| host.execute_lazily(module, Call::default())));
        let other = host.load(&computes(rounds));
        channels.push(host.execute_lazily(other, Call::default()));
    }
    for channel in channels {
        assert_eq!(host.done(channel), Outcome::Returned);
    }
}

#[test]
fn each_end_is_told_whoever_reads_it() {
    for _ in 0..3 {
        let (mut host, _) = at_work();
        host.send(&ToWorker::Terminate { kill: true });
        assert_eq!(host.end().unwrap(), Ended::Terminated);

        let (mut host, running) = at_work();
        let module = host.load(&computes(0));
        let last = host.execute_lazily(module, Call::default());
        host.send(&ToWorker::Terminate { kill: false });
        host.kill(running);
        assert_eq!(host.done(last), Outcome::Returned);
        assert_eq!(host.end().unwrap(), Ended::Terminated);

        let (mut host, _) = at_work();
        host.vanish();
        assert_eq!(host.end().unwrap(), Ended::HostGone);

        // An id that was used, which the executor reads.
        let mut host = Host::over_rings();
        let module = host.load(&computes(LONG));
        let running = host.execute(module, Call::default());
        let behind = host.execute_lazily(module, Call::default());
        assert_eq!(host.done(running), Outcome::Returned);
        host.execute_lazily_on(behind, module, Call::default());
        assert!(matches!(host.end(), Err(WorkerError::Violation(_))));
    }
}
