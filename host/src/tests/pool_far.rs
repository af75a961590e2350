//! The decisions of a pool about gateways on other machines, which are far away or not to be reached.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pool_core::{Table, loss, rules, unreached};
use crate::pool::{Action, Rules, Verdict};

/// One gateway so far away that does tasks of this length one after the other, and `count` tasks for it: when the last one's
/// result is there, and the most that it had at once after the first twenty.
fn far_away(way: Duration, task: Duration, count: u64) -> (Duration, usize) {
    let mut table = Table::new(Rules { max_far_in_flight: 1024, ..rules() }, 1);
    table.core.lane_up_at(0, way, table.now);
    let start = table.now;
    let mut results: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut free = start;
    let mut most = 0;
    table.submit(0..count);
    for done in 0..count {
        for (_, _, run) in table.runs() {
            free = free.max(table.now + way / 2) + task;
            results.push_back((free + way / 2, run));
        }
        if done > 20 {
            most = most.max(table.core.in_flight(0));
        }
        let (at, run) = results.pop_front().expect("something flies");
        table.now = at;
        table.ended(0, run, Verdict::Value(0));
    }
    assert_eq!(table.core.unfinished(), 0);
    (table.now - start, most)
}

#[test]
fn a_gateway_far_away_is_never_out_of_work() {
    let micros = Duration::from_micros;
    let way = micros(40_000);
    for (task, most_in_flight) in [(100_000, 3), (10_000, 8), (1_000, 64), (100, 1024)] {
        let count = 4_000_000 / task;
        let (took, most) = far_away(way, micros(task), count);
        let least = micros(task * count);
        // The way there and back, once for the first task, and once more for what is learned from it.
        assert!(took < least + way * 8, "{task} µs: {took:?} instead of {least:?}");
        assert!(most <= most_in_flight, "{task} µs: {most} at once");
    }
}

#[test]
fn a_machine_that_is_not_reached_is_asked_less_and_less_and_joins_when_it_is() {
    let mut table = Table::new(Rules { reach_attempts: 8, ..rules() }, 2);
    table.submit(0..100);
    // One of two is lost, and then not reached for long.
    let runs = table.runs();
    let far = runs.iter().find(|run| run.0 == 1).unwrap().2;
    table.ended(1, far, Verdict::Lost(loss()));
    assert!(table.actions().contains(&Action::Start { lane: 1 }));
    let mut waits = Vec::new();
    for _ in 0..12 {
        table.core.lane_failed(1, unreached(), table.now);
        let start = table.now;
        while !table.actions().contains(&Action::Start { lane: 1 }) {
            table.now = table.core.next_timer().expect("a time to try again");
        }
        waits.push((table.now - start).as_millis());
    }
    assert_eq!(waits[..7], [250, 500, 1000, 2000, 4000, 8000, 15_000]);
    assert_eq!(waits[11], 15_000);
    assert!(table.core.unfinished() > 0, "the other one is there, so nothing is given up");
    table.core.lane_up_at(1, Duration::from_millis(40), table.now);
    table.core.grow(2, table.now);
    let started: Vec<_> = table
        .actions()
        .into_iter()
        .filter_map(|action| matches!(action, Action::Start { lane: 2.. }).then_some(()))
        .collect();
    assert_eq!(started.len(), 2, "its other cores get a gateway each");
    assert!(table.core.in_flight(1) > 0, "it has work again");
}
