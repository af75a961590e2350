//! Messages through a guest and back, channels, the queue, and the ends of a worker.

use sandgate_wire::flow::Credit;
use sandgate_wire::grants::Grants;
use sandgate_wire::isolation::Policy;
use sandgate_wire::message::{Close, Codegen, Entry, HostHello};
use sandgate_wire::outcome::{KilledBy, Rejection};
use sandgate_wire::{ChannelId, Limits, Message, ModuleId, Outcome, ToWorker};

use super::host::*;
use crate::worker::{Ended, WorkerError};

/// Echoes until its channel ends.
fn echo() -> String {
    guest(&format!(
        "(loop $again
            (if (i32.eqz {RECEIVE}) (then (drop {ECHO}) (br $again))))"
    ))
}

fn unstarted(by: KilledBy) -> Outcome {
    Outcome::Killed { by, started: false }
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
    host.wait_status("the worker to be idle", |status| (status.running, status.channels, status.finished) == (0, 0, 1));
}

#[test]
fn more_messages_than_a_window_go_through() {
    let mut host = Host::new(1);
    let channel = host.start(&echo(), Call::default());
    for round in 0..5_000_u32 {
        host.data(channel, &round.to_le_bytes(), &[]);
        assert_eq!(host.receive_bytes(channel), round.to_le_bytes());
        host.send(&ToWorker::Credit(channel, Credit { bytes: 4, messages: 1 }));
    }
}

#[test]
fn tasks_get_their_arguments_and_missing_ones_are_named() {
    let take = "(call $args (i32.const 1024) (i32.const 4096) (i32.const 512) (i32.const 16) (i32.const 8))";
    let items = format!(
        r#"(func (export "sandgate_task:twice") (if {take} (then unreachable)) (drop {ECHO}) {})
           (func (export "sandgate_task:wrong_type") (param i32))"#,
        exit_with(take)
    );
    let mut host = Host::new(1);
    let module = host.load(&guest_with(&items, ""));
    let task = |name: &str| Entry::Task(name.to_owned());
    let attached = host.open();
    let arguments = Message { bytes: vec![5; 3000].into(), channels: vec![attached] };
    let call = Call { entry: task("twice"), arguments: Some(arguments.clone()), ..Call::default() };
    let channel = host.execute(module, call);
    assert_eq!(host.receive(channel), arguments);
    assert_eq!(host.done(channel), status_outcome(-1));
    host.closed(attached);
    for name in ["once", "wrong_type", ""] {
        let call = Call { entry: task(name), ..Call::default() };
        let channel = host.execute(module, call);
        let reason = Rejection::UnknownTask {
            name: name.to_owned(),
            available: ["twice", "_start"].map(str::to_owned).to_vec(),
        };
        assert_eq!(host.done(channel), Outcome::Rejected { reason });
    }
    let reactor = host.load("(module)");
    let channel = host.execute(reactor, Call::default());
    let reason = Rejection::UnknownTask { name: "_start".to_owned(), available: Vec::new() };
    assert_eq!(host.done(channel), Outcome::Rejected { reason });
    let channel = host.execute(ModuleId([9; 32]), Call::default());
    assert!(matches!(host.done(channel), Outcome::Rejected { .. }));
    host.send(&ToWorker::Unload(module));
    let channel = host.execute(module, Call::default());
    assert!(matches!(host.done(channel), Outcome::Rejected { .. }));
}

/// Makes a channel, sends it to the host, and does `then` with its handle in `$i`.
fn makes_a_channel(then: &str) -> String {
    guest(&format!(
        "(local.set $i (call $new)) (i32.store (i32.const 512) (local.get $i))
         (drop (call $send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1) (i64.const -1)))
         {then}"
    ))
}

#[test]
fn a_channel_of_the_guests_works_both_ways_and_is_closed_by_each_side_once() {
    let on_it = |call: &str| call.replacen("(i32.const 0)", "(local.get $i)", 1);
    let text = makes_a_channel(&format!(
        "(if {} (then unreachable)) (drop {}) {}",
        on_it(RECEIVE),
        on_it(ECHO),
        exit_with(&on_it(RECEIVE))
    ));
    let mut host = Host::new(1);
    let channel = host.start(&text, Call::default());
    let made = host.opened(channel);
    assert_eq!(host.receive(channel).channels, [made]);
    host.data(made, b"hello", &[]);
    assert_eq!(host.receive_bytes(made), b"hello");
    host.close(made, None, false);
    assert_eq!(host.closed(made), Close::default());
    assert_eq!(host.done(channel), status_outcome(-1));
    host.wait_status("the channel to be forgotten", |status| status.channels == 0);
    assert!(!host.pending().any(|event| matches!(event, Event::Close(..))));
    // Late frames of a channel that was are normal.
    host.data(made, b"late", &[]);
    host.send(&ToWorker::Credit(made, Credit { bytes: 1, messages: 1 }));
    host.close(made, None, false);
    host.data(channel, b"late", &[]);
    assert_eq!(host.status().finished, 1);
}

#[test]
fn a_guest_closes_with_an_error() {
    let text = makes_a_channel(
        "(i32.store (i32.const 0) (i32.const 0x216f6e))
         (drop (call $close (local.get $i) (i32.const 0) (i32.const 3) (i32.const 1)))
         (call $exit (i32.sub (i32.const 0)
            (call $send (local.get $i) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const -1))))",
    );
    let mut host = Host::new(1);
    let channel = host.start(&text, Call::default());
    let made = host.opened(channel);
    let expected = Close { error: Some("no!".to_owned()), sending_only: false };
    assert_eq!(host.closed(made), expected);
    assert_eq!(host.done(channel), status_outcome(-1));
}

#[test]
fn one_channel_for_two_executions_is_closed_with_its_last_handle() {
    let mut host = Host::new(2);
    let maker = host.start(&makes_a_channel(&format!("(drop {RECEIVE})")), Call::default());
    let made = host.receive(maker).channels[0];
    let second = host.start(&guest(&format!("(drop {RECEIVE}) (drop {SEND_1}) (drop {RECEIVE})")), Call::default());
    host.data(second, b"", &[made]);
    host.receive(second);
    host.data(maker, b"", &[]);
    assert_eq!(host.done(maker), Outcome::Returned);
    assert!(!host.pending().any(|event| matches!(event, Event::Close(..))));
    host.data(second, b"", &[]);
    assert_eq!(host.done(second), Outcome::Returned);
    host.closed(made);
}

#[test]
fn channels_sent_to_somebody_who_is_gone_are_closed() {
    let mut host = Host::new(1);
    let channel = host.start(&guest(&format!("(drop {RECEIVE})")), Call::default());
    let [unread, late] = [host.open(), host.open()];
    host.data(channel, b"read", &[]);
    host.data(channel, b"unread", &[unread]);
    assert_eq!(host.done(channel), Outcome::Returned);
    host.closed(unread);
    host.data(channel, b"late", &[late]);
    host.closed(late);
}

#[test]
fn executions_wait_in_order() {
    let mut host = Host::new(1);
    let module = host.load(&guest(&format!("(drop {RECEIVE}) (drop {SEND_1})")));
    let channels: Vec<ChannelId> = (0..5).map(|_| host.execute(module, Call::default())).collect();
    host.wait_status("one to run and four to wait", |status| (status.running, status.queued) == (1, 4));
    // One that waits can be killed without having begun.
    host.kill(channels[2]);
    assert_eq!(host.done(channels[2]), unstarted(KilledBy::Kill));
    for channel in channels.iter().rev() {
        host.data(*channel, b"", &[]);
    }
    let mut ended = Vec::new();
    for _ in 0..4 {
        ended.push(host.wait_for("an end", |event| match event {
            Event::Done(id, Outcome::Returned) => Some(*id),
            _ => None,
        }));
    }
    assert_eq!(ended, [channels[0], channels[1], channels[3], channels[4]]);
}

#[test]
fn what_waits_can_be_taken_back_and_what_runs_goes_on() {
    let mut host = Host::new(1);
    let module = host.load(&guest(&format!("(drop {RECEIVE}) (drop {SEND_1})")));
    let [runs, waits] = [(); 2].map(|()| host.execute(module, Call::default()));
    host.wait_status("one to run and one to wait", |status| (status.running, status.queued) == (1, 1));
    host.kill_by(runs, KilledBy::Recall);
    host.kill_by(waits, KilledBy::Recall);
    assert_eq!(host.done(waits), unstarted(KilledBy::Recall));
    host.data(runs, b"", &[]);
    assert_eq!(host.done(runs), Outcome::Returned);
    // It may overtake what it takes back, as any kill; for one that has ended it is late.
    host.kill_by(runs, KilledBy::Recall);
    let next = waits.next();
    host.kill_by(next, KilledBy::Recall);
    assert_eq!(host.execute(module, Call::default()), next);
    assert_eq!(host.done(next), unstarted(KilledBy::Recall));
}

#[test]
fn a_kill_may_overtake_what_it_kills() {
    let mut host = Host::new(1);
    let module = host.load(&guest("unreachable"));
    let next = ChannelId(1);
    host.kill(next);
    let channel = host.execute(module, Call::default());
    assert_eq!(channel, next);
    assert_eq!(host.done(channel), unstarted(KilledBy::Kill));
}

#[test]
fn a_cooperative_end_runs_what_was_accepted() {
    let mut host = Host::new(1);
    let module = host.load(&echo());
    let channels = [(); 3].map(|()| host.execute(module, Call::default()));
    host.data(channels[0], b"hello", &[]);
    assert_eq!(host.receive_bytes(channels[0]), b"hello");
    host.send(&ToWorker::Terminate { kill: false });
    for channel in channels {
        assert_eq!(host.done(channel), Outcome::Returned);
    }
    assert_eq!(host.end().unwrap(), Ended::Terminated);
}

#[test]
fn a_cooperative_end_waits_and_a_kill_does_not() {
    let mut host = Host::new(1);
    let module = host.load(&guest(&format!("(drop {SEND_1}) (loop $again (br $again))")));
    let [running, queued] = [(); 2].map(|()| host.execute(module, Call::default()));
    host.receive(running);
    host.send(&ToWorker::Terminate { kill: false });
    let refused = host.execute(module, Call::default());
    assert_eq!(host.done(refused), unstarted(KilledBy::Terminate));
    assert_eq!(host.status().running, 1);
    host.send(&ToWorker::Terminate { kill: true });
    assert_eq!(host.done(queued), unstarted(KilledBy::Terminate));
    let expected = Outcome::Killed { by: KilledBy::Terminate, started: true };
    assert_eq!(host.done(running), expected);
    assert_eq!(host.end().unwrap(), Ended::Terminated);
}

#[test]
fn an_idle_worker_ends_when_asked() {
    let mut host = Host::new(1);
    host.send(&ToWorker::Terminate { kill: false });
    assert_eq!(host.end().unwrap(), Ended::Terminated);
}

#[test]
fn a_host_that_vanishes_ends_everything() {
    let mut host = Host::new(3);
    for body in [
        "(loop $again (br $again))".to_owned(),
        format!("(drop {RECEIVE})"),
        format!("(loop $again (drop {SEND_1}) (br $again))"),
        String::new(),
    ] {
        host.start(&guest(&body), Call::default());
    }
    host.wait_status("three to run", |status| status.running == 3);
    host.vanish();
    assert_eq!(host.end().unwrap(), Ended::HostGone);
}

#[test]
fn a_worker_wants_a_hello_first_and_once() {
    let mut host = Host::without_hello();
    host.send(&ToWorker::Status);
    assert!(matches!(host.end(), Err(WorkerError::NoHello(None))));
    let mut host = Host::new(1);
    host.send(&ToWorker::Hello(HostHello {
        gateway: String::new(),
        host_pid: 0,
        max_executions: 1,
        nice: 0,
        grants: Grants::default(),
        policy: Policy::default(),
        limits: Limits::default(),
        one_module: false,
    }));
    assert!(matches!(host.end(), Err(WorkerError::Violation(_))));
}

#[test]
fn what_breaks_the_protocol_ends_the_worker() {
    let module = ModuleId([0; 32]);
    let unknown = ChannelId(7);
    for message in [
        ToWorker::Credit(unknown, Credit::default()),
        ToWorker::Close(unknown, Close::default()),
        ToWorker::OutputCredit(unknown, 1),
        ToWorker::Open(ChannelId(2)),
        ToWorker::Load { module, codegen: Codegen::default(), bytes: 0 },
    ] {
        let mut host = Host::new(1);
        host.send(&message);
        let ended = host.end();
        assert!(matches!(ended, Err(WorkerError::Violation(_))), "{message:?}: {ended:?}");
    }
    let mut host = Host::new(1);
    let channel = host.start(&guest(&format!("(drop {RECEIVE})")), Call::default());
    host.data(channel, b"", &[unknown]);
    assert!(matches!(host.end(), Err(WorkerError::Violation(_))));
}
