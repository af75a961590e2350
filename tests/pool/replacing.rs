//! Workers that are ready before they are needed, and tasks that do not wait behind others for nothing.

use std::time::{Duration, Instant};

use guest_protocol::Hostile;
use sandgate::{EventSink, Group, OutcomeKind, OutputSink, Pool, PoolEvent};
use sandgate_tests::{LIMIT, Watched, children_of, eventually};

use crate::pool_of;

const KILLS: u64 = 15;

/// The time from the kill of a pool's only worker to the next result. With a spare, the worker that takes its place was
/// there before, and without one it was not.
fn gap(pool: &Pool, spares: usize, x: u64) -> Duration {
    let double = |x: u64| pool.submit::<u64>(&x).wait_timeout(LIMIT).expect("a result in time").value.ok();
    // A result tells that the loss before was nobody's habit, else the next start would be delayed.
    assert_eq!(double(x), Some(x * 2));
    eventually(LIMIT, "a spare worker", || pool.stats().spares == spares);
    let pid = |pool: &Pool| pool.stats().gateways[0].pid.expect("a worker");
    let before: Vec<u32> = children_of(std::process::id()).iter().map(|child| child.pid).collect();
    let worker = Watched::find(pid(pool)).expect("the worker");
    let start = Instant::now();
    worker.signal(rustix::process::Signal::KILL);
    assert_eq!(double(x), Some(x * 2));
    let gap = start.elapsed();
    worker.wait(LIMIT);
    eventually(LIMIT, "the loss to be known", || pool.stats().lost_workers == x + 1);
    assert_eq!(double(x), Some(x * 2));
    assert_eq!(before.contains(&pid(pool)), spares > 0, "{before:?}");
    gap
}

#[test]
fn a_spare_worker_takes_the_place_of_one_that_was_killed() {
    let pool = |spares: usize| pool_of("double").gateways(1).spares(spares).build().unwrap();
    let pools = [0, 1].map(pool);
    let mut gaps: [Vec<Duration>; 2] = [const { Vec::new() }; 2];
    // In turn, so that both meet the machine in the same mood.
    for x in 0..KILLS {
        for (spares, pool) in pools.iter().enumerate() {
            gaps[spares].push(gap(pool, spares, x));
        }
    }
    gaps.iter_mut().for_each(|gaps| gaps.sort());
    let [without, with] = gaps.map(|gaps| (gaps[0], gaps[gaps.len() / 2]));
    #[expect(clippy::print_stderr, reason = "what it is measured for")]
    {
        let ratio = without.1.as_secs_f64() / with.1.as_secs_f64();
        eprintln!(
            "from a kill to the next result, least and median of {KILLS}: {without:?} without a spare, {with:?} with one, \
             ratio of medians {ratio:.1}"
        );
    }
}

#[test]
fn what_is_printed_is_of_the_task_and_of_the_place_whoever_has_taken_it() {
    let (lines, told) = crossbeam_channel::unbounded();
    let sink = OutputSink::callback(move |line| drop(lines.send((line.gateway, line.task, line.text))));
    let pool = pool_of("hostile").gateways(1).group(Group::builder().output(sink)).build().unwrap();
    let worker = |pool: &Pool| Watched::find(pool.stats().gateways[0].pid.expect("a worker")).expect("the worker");
    for task in [0, 1] {
        let result = pool.submit::<u64>(&Hostile::Panic).wait_timeout(LIMIT).expect("a result in time");
        assert_eq!((result.task, result.value.unwrap_err().kind()), (task, OutcomeKind::Panicked));
        let printed: Vec<_> = std::iter::from_fn(|| told.recv_timeout(LIMIT).ok()).take(4).collect();
        assert!(printed.iter().all(|(gateway, of, _)| (&**gateway, *of) == ("gw0", Some(task))), "{printed:?}");
        assert!(printed.iter().any(|(.., text)| text.contains("as told")), "{printed:?}");
        eventually(LIMIT, "a spare worker", || pool.stats().spares == 1);
        let worker = worker(&pool);
        worker.signal(rustix::process::Signal::KILL);
        worker.wait(LIMIT);
    }
    assert!(pool.stats().lost_workers >= 1, "the second to print was a spare");
}

#[test]
fn a_spare_is_gone_with_its_pool() {
    let pool = pool_of("double").spares(2).build().unwrap();
    eventually(LIMIT, "spare workers", || pool.stats().spares == 2);
    let own = std::process::id();
    let workers: Vec<Watched> = children_of(own).iter().filter_map(|child| Watched::find(child.pid)).collect();
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
