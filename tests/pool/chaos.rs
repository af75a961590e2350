//! A worker is killed every 50 ms, whichever, while many small tasks run: every input has exactly its one result.
//!
//! `SANDGATE_CHAOS_TASKS` says how many tasks, of which the two tests in order take an eighth and all; the default is what
//! suits a run of all tests.

use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use sandgate::{EventSink, EventStream, PoolEvent};
use sandgate_tests::Watched;

use crate::{pool_of, setting};

const EVERY: Duration = Duration::from_millis(50);

/// Kills a worker every 50 ms until `stop` is dropped, and returns how many.
fn killer(events: EventStream, stop: crossbeam_channel::Receiver<()>) -> std::thread::JoinHandle<u64> {
    let kill = move || {
        let mut workers: [Option<Watched>; 2] = [None, None];
        let (mut kills, mut random) = (0_u64, 88_172_645_463_325_252_u64);
        while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            for event in events.drain() {
                if let PoolEvent::GatewayStarted { gateway, pid, .. }
                | PoolEvent::GatewayReplaced { gateway, pid, .. } = event.event
                {
                    workers[gateway] = pid.and_then(Watched::find);
                }
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if let Some(worker) = workers[usize::from(random % 2 == 0)].take() {
                worker.signal(rustix::process::Signal::KILL);
                kills += 1;
            }
        }
        kills
    };
    std::thread::Builder::new().name("killer".to_owned()).spawn(kill).unwrap()
}

fn chaos(ordered: bool, reuse: bool, tasks: u64) {
    let (sink, events) = EventSink::bounded(1 << 20);
    let pool = pool_of(if reuse { "serves_double" } else { "double" }).reuse(reuse);
    // No task costs its worker here, but a million of them have many chances to be there when it is killed.
    let pool = pool.max_losses(u32::MAX).events(sink).build().unwrap();
    let (stop, stopped) = bounded(0);
    let killer = killer(events, stopped);
    let start = Instant::now();
    let mut seen = vec![false; usize::try_from(tasks).unwrap()];
    let mut count = 0;
    let mut check = |index: u64, value: u64| {
        assert_eq!(value, index * 2);
        count += 1;
        #[expect(clippy::print_stderr, reason = "a run at full size takes its time")]
        if count % 100_000 == 0 {
            eprintln!("{count} results after {:.0} s", start.elapsed().as_secs_f64());
        }
        let seen = &mut seen[usize::try_from(index).unwrap()];
        assert!(!std::mem::replace(seen, true), "{index} has two results");
    };
    match ordered {
        true => {
            for (expected, result) in (0..).zip(pool.map(0..tasks)) {
                assert_eq!(result.index, expected);
                check(result.index, result.value.unwrap());
            }
        }
        false => pool.map_unordered(0..tasks).for_each(|result| check(result.index, result.value.unwrap())),
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(stop);
    let (kills, stats) = (killer.join().unwrap(), pool.stats());
    assert!(seen.iter().all(|&seen| seen), "an input has no result");
    assert_eq!((stats.queued, stats.done, stats.unfinished), (tasks, tasks, 0));
    assert!(stats.lost_workers <= kills, "{kills} kills, {stats:?}");
    #[expect(clippy::print_stderr, reason = "what a run at full size is for")]
    {
        eprintln!(
            "{tasks} tasks, ordered {ordered}, reuse {reuse}: {seconds:.1} s, {:.0} a second, {kills} kills, {} losses, {} repeated",
            tasks as f64 / seconds,
            stats.lost_workers,
            stats.retried
        );
    }
}

fn tasks() -> u64 {
    setting("SANDGATE_CHAOS_TASKS", 20_000)
}

#[test]
fn nothing_is_lost_or_doubled_in_fresh_instances() {
    chaos(false, false, tasks());
}

#[test]
fn nothing_is_lost_or_doubled_in_order() {
    chaos(true, false, tasks() / 8);
}

#[test]
fn nothing_is_lost_or_doubled_in_sessions() {
    chaos(true, true, tasks());
}
