//! Inputs of which one in a hundred is hostile, and inputs whose workers are killed.
//!
//! `SANDGATE_HOSTILE_TASKS` says how many; the default is what suits a run of all tests.

use std::time::{Duration, Instant};

use guest_protocol::Hostile;
use sandgate::{EventSink, Limits, OutcomeKind, PoolEvent, Spec, TaskError};
use sandgate_tests::{Watched, popen};

use crate::{pool_of, setting};

/// The kill, and what it does not leave time for.
const KILL: rustix::process::Signal = rustix::process::Signal::KILL;

#[test]
fn hostile_inputs_harm_themselves_alone() {
    let tasks: u64 = setting("SANDGATE_HOSTILE_TASKS", 2000);
    let input = |x: u64| match (x % 100, x / 100 % 4) {
        (50, 0) => Hostile::Loop,
        (50, 1) => Hostile::Panic,
        (50, 2) => Hostile::Bomb,
        (50, _) => Hostile::Recurse,
        _ => Hostile::Double(x),
    };
    // Processor time, since a task that is well has no bound of time on a machine that others use as well.
    let cpu_time = Some(Duration::from_millis(500));
    let limits = Limits { memory_bytes: 256 << 20, cpu_time, ..Limits::for_tasks() };
    let pool = pool_of("hostile").limits(limits).build().unwrap();
    let (start, mut count) = (Instant::now(), 0);
    for (x, result) in (0..).zip(pool.map::<_, u64>((0..tasks).map(input))) {
        count += 1;
        assert_eq!((result.index, result.task), (x, x));
        let place = format!("{x} on {:?} at {:?}", result.gateway, result.timing);
        match (input(x), result.value) {
            (Hostile::Double(x), value) => assert_eq!(value.unwrap_or_else(|error| panic!("{place}: {error}")), x * 2),
            (told, value) => {
                let kind = value.expect_err("a failure").kind();
                let fits = match told {
                    Hostile::Loop => kind == OutcomeKind::LimitExceeded,
                    Hostile::Recurse => kind == OutcomeKind::Trapped,
                    Hostile::Panic => kind == OutcomeKind::Panicked,
                    // An allocation that fails is a panic, a trap or a limit, as the guest's allocator has it.
                    _ => kind != OutcomeKind::WorkerLost,
                };
                assert!(fits, "{told:?} ended as {kind}");
            }
        }
    }
    assert_eq!(count, tasks);
    let stats = pool.stats();
    assert_eq!((stats.lost_workers, stats.retried), (0, 0), "no input has cost a worker");
    let hostile = (0..tasks).filter(|x| x % 100 == 50).count() as u64;
    assert_eq!((stats.done, stats.failed()), (tasks - hostile, hostile));
    #[expect(clippy::print_stderr, reason = "what a run at full size is for")]
    {
        eprintln!(
            "{tasks} tasks, {hostile} of them hostile: {:.1} s, {:?}",
            start.elapsed().as_secs_f64(),
            stats.failed
        );
    }
}

/// Kills the worker of each run of the task number `poison`, and returns when the pool is gone.
fn poisoner(events: sandgate::EventStream, poison: u64) -> std::thread::JoinHandle<u32> {
    let kill = move || {
        let mut pids: [Option<Watched>; 8] = [const { None }; 8];
        let mut kills = 0;
        for event in events {
            match event.event {
                PoolEvent::GatewayStarted { gateway, pid, .. } | PoolEvent::GatewayReplaced { gateway, pid, .. } => {
                    pids[gateway] = pid.and_then(Watched::find);
                }
                PoolEvent::TaskStarted { task, gateway, .. } if task == poison => {
                    kills += 1;
                    pids[gateway].take().into_iter().for_each(|worker| worker.signal(KILL));
                }
                _ => {}
            }
        }
        kills
    };
    std::thread::Builder::new().name("poisoner".to_owned()).spawn(kill).unwrap()
}

#[test]
fn a_poisonous_input_is_given_up_and_nobody_else_is_blamed() {
    let (sink, events) = EventSink::bounded(100_000);
    let pool = pool_of("hostile").events(sink).build().unwrap();
    let killer = poisoner(events, 40);
    let input = |x: u64| if x == 40 { Hostile::Sleep(5000) } else { Hostile::Double(x) };
    for (x, result) in (0..).zip(pool.map::<_, u64>((0..400).map(input))) {
        match (x, result.value) {
            (40, Err(TaskError::Poisonous { attempts: 3, loss })) => {
                assert_eq!(loss.cause, sandgate::LossCause::Signaled { signal: 9 });
            }
            (40, other) => panic!("{other:?}"),
            (x, value) => assert_eq!(value.unwrap(), x * 2),
        }
    }
    let stats = pool.stats();
    // It is killed when it is given to a worker, with up to 64 before it; each loss in company brings it four nearer.
    let most = 3 + 64 / 4;
    assert!((3..=most).contains(&stats.lost_workers), "three alone, and some in company: {stats:?}");
    assert_eq!((stats.done, stats.failed.clone()), (399, vec![(OutcomeKind::WorkerLost, 1)]));
    drop(pool);
    assert!((3..=most).contains(&u64::from(killer.join().unwrap())));
}

#[test]
fn a_pool_without_any_worker_gives_up() {
    let directory = tempfile::tempdir().unwrap();
    let worker = directory.path().join("worker");
    std::os::unix::fs::symlink(sandgate_tests::worker(), &worker).unwrap();
    let spec: Spec = popen().worker(&worker);
    let (sink, events) = EventSink::bounded(10_000);
    let pool = pool_of("hostile").spec(spec).spares(0).events(sink).build().unwrap();
    std::fs::remove_file(&worker).unwrap();
    let killer = poisoner(events, 0);
    let handles: Vec<_> = (0..20).map(|_| pool.submit::<u64>(&Hostile::Sleep(50))).collect();
    let killed_too = pool.stats();
    let others: Vec<u32> = killed_too.gateways.iter().filter_map(|gateway| gateway.pid).collect();
    others.iter().filter_map(|&pid| Watched::find(pid)).for_each(|worker| worker.signal(KILL));
    let results: Vec<_> = handles.into_iter().map(|handle| handle.wait().value).collect();
    assert!(results.iter().any(|value| matches!(value, Err(TaskError::NoGateway(_)))), "{results:?}");
    assert!(matches!(pool.submit::<u64>(&Hostile::Double(1)).wait().value, Err(TaskError::NoGateway(_))));
    drop(pool);
    killer.join().unwrap();
}
