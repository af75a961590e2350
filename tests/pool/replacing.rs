//! Workers that are ready before they are needed, and tasks that do not wait behind others for nothing.

use std::time::{Duration, Instant};

use sandgate::{EventSink, PoolEvent};
use sandgate_tests::{LIMIT, Watched, eventually};

use crate::pool_of;

const KILLS: usize = 15;

/// The median time from the kill of the only worker to the next result.
fn gap(spares: usize) -> Duration {
    let pool = pool_of("double").gateways(1).spares(spares).build().unwrap();
    let mut gaps: Vec<Duration> = (0..KILLS as u64)
        .map(|x| {
            // A result tells that the loss before was nobody's habit, else the next start would be delayed.
            assert_eq!(pool.submit::<u64>(&x).wait_timeout(LIMIT).unwrap().value.unwrap(), x * 2);
            eventually(LIMIT, "a spare worker", || pool.stats().spares == spares);
            let pid = pool.stats().gateways[0].pid.expect("a worker");
            let worker = Watched::find(pid).expect("the worker");
            let start = Instant::now();
            worker.signal(rustix::process::Signal::KILL);
            assert_eq!(pool.submit::<u64>(&x).wait_timeout(LIMIT).unwrap().value.unwrap(), x * 2);
            start.elapsed()
        })
        .collect();
    eventually(LIMIT, "the losses to be known", || pool.stats().lost_workers == KILLS as u64);
    gaps.sort();
    gaps[KILLS / 2]
}

#[test]
fn a_spare_worker_takes_the_place_of_one_that_was_killed() {
    let (without, with) = (gap(0), gap(1));
    #[expect(clippy::print_stderr, reason = "what it is measured for")]
    {
        let ratio = without.as_secs_f64() / with.as_secs_f64();
        eprintln!(
            "from a kill to the next result, median of {KILLS}: {without:?} without a spare, {with:?} with one, ratio {ratio:.1}"
        );
    }
    assert!(with < without, "{with:?} with a spare, {without:?} without");
}

#[test]
fn a_spare_is_gone_with_its_pool() {
    let pool = pool_of("double").spares(2).build().unwrap();
    eventually(LIMIT, "spare workers", || pool.stats().spares == 2);
    let own = std::process::id();
    let workers: Vec<Watched> =
        sandgate_tests::children_of(own).iter().filter_map(|child| Watched::find(child.pid)).collect();
    assert!(workers.len() >= 4, "{}", workers.len());
    drop(pool);
    workers.iter().for_each(|worker| worker.wait(LIMIT));
}

#[test]
fn nothing_waits_behind_a_long_task_while_a_gateway_is_idle() {
    for milliseconds in [0, 1] {
        let (sink, events) = EventSink::bounded(1000);
        let pool = pool_of("slowly").events(sink).spares(0).build().unwrap();
        // Each gateway is given two tasks at first: something is behind the long one.
        let inputs: Vec<(u64, u64)> = (0..12).map(|x| (x, if x == 0 { 1500 } else { milliseconds })).collect();
        let results: Vec<_> = pool.map_unordered::<_, u64>(inputs).collect();
        assert_eq!(results.len(), 12);
        assert_eq!(results.last().unwrap().index, 0, "the long one is the last: {results:?}");
        let mut values: Vec<(u64, u64)> = results.iter().map(|it| (it.index, *it.value.as_ref().unwrap())).collect();
        values.sort_unstable();
        assert_eq!(values, (0..12).map(|x| (x, x * 2)).collect::<Vec<_>>());
        assert!(results.iter().all(|result| result.attempts == 1), "what is moved has not been tried");
        drop(pool);
        let events: Vec<PoolEvent> = events.map(|event| event.event).collect();
        let count = |wanted: fn(&PoolEvent) -> bool| events.iter().filter(|event| wanted(event)).count();
        let moved = count(|event| matches!(event, PoolEvent::TaskTakenBack { .. }));
        assert!(moved > 0, "{events:?}");
        assert_eq!(count(|event| matches!(event, PoolEvent::TaskStarted { .. })), 12 + moved);
        assert_eq!(count(|event| matches!(event, PoolEvent::TaskFinished { .. })), 12);
    }
}
