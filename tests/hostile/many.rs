//! Hundreds of hostile executions in a row on one worker, with flat figures. `cargo xtask bench -- hostile` runs ten thousand.

use std::time::Duration;

use sandgate::WaitError;
use sandgate_tests::{Census, LIMIT, assert_echoes, builder, comes_true, resident_bytes, sibling, spec};

use crate::expected::{End, Expected};
use crate::house::alone;
use crate::row::Row;
use crate::{a_control, b_stack, traps};

const RUNS: usize = 500;
/// The time of those that would not end.
const TIMEOUT: Duration = Duration::from_millis(5);
/// What may gather in an allocator.
const HOST_BYTES: u64 = 8 << 20;
const WORKER_BYTES: u64 = 32 << 20;

#[test]
fn hundreds_in_a_row_leave_nothing() {
    let _alone = alone();
    let rows: Vec<Row> =
        [traps::rows(), a_control::rows(), b_stack::rows()].into_iter().flatten().filter(is_quick).collect();
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen")).expect("a gateway");
    let sibling = sibling(&gateway);
    let pid = gateway.pid();
    let worker_bytes = || gateway.status().expect("a status").memory_bytes.expect("its memory");
    let mut before = None;
    for run in 0..rows.len() + RUNS {
        // Each was there once before anything is counted.
        if run == rows.len() {
            before = Some((Census::take(), resident_bytes(), worker_bytes()));
        }
        let row = &rows[run % rows.len()];
        let mut limits = row.limits.clone();
        if matches!(row.expected, Expected::TimedOut) {
            limits.wall_time = Some(TIMEOUT);
        }
        let call = row.call.clone().limits(limits);
        let channel =
            gateway.remote_exec_with(&row.module, &call).unwrap_or_else(|error| panic!("{}: {error:?}", row.name));
        let outcome = match channel.wait_close_timeout(LIMIT) {
            Ok(()) => channel.outcome().expect("it has ended"),
            Err(WaitError::Ended(outcome)) => outcome,
            Err(error) => panic!("{}: {error}", row.name),
        };
        let end = End::Outcome(outcome);
        assert!(row.expected.is(&end), "run {run}, {}: {}", row.name, end.text());
    }
    assert_echoes(&sibling);
    assert_eq!(gateway.pid(), pid, "one worker has done it all");
    let (census, host, worker) = before.expect("there were more runs than rows");
    let mut leaks = Vec::new();
    let is_clean = comes_true(LIMIT, || {
        leaks = Census::take().more_than(&census);
        leaks.is_empty()
    });
    assert!(is_clean, "left behind: {}", leaks.join(", "));
    let (host_now, worker_now) = (resident_bytes(), worker_bytes());
    println!(
        "{RUNS} runs of {} rows: host {host} -> {host_now} bytes, worker {worker} -> {worker_now} bytes",
        rows.len()
    );
    assert!(host_now <= host + HOST_BYTES, "the host has grown from {host} to {host_now} bytes");
    assert!(worker_now <= worker + WORKER_BYTES, "the worker has grown from {worker} to {worker_now} bytes");
}

/// Whether a row needs nothing but its module, and ends fast.
fn is_quick(row: &Row) -> bool {
    let is_plain = row.spec.is_empty() && !row.takes_worker;
    let ends =
        matches!(row.expected, Expected::TimedOut | Expected::Trapped(_) | Expected::Returned | Expected::Exited(_));
    // All of memory takes long, and so does filling the stack with host calls again and again.
    is_plain && ends && !row.name.contains("all of memory") && !row.name.contains("deepest")
}
