//! What this process holds before and after: children, descriptors, threads and memory.
//!
//! Such counts are of the whole process, so this binary has one test, which runs one case after the other; those whose name has
//! the text of `SANDGATE_LEAKS_ONLY` in it, if that is set.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod links;

use std::sync::Arc;
use std::time::Duration;

use sandgate::{Channel, Event, Gateway, GatewayError, Group, Module, OutputSink, Pool, PoolBuilder, TaskError};
use sandgate_tests::{
    LIMIT, State, Watched, assert_echoes, assert_no_leaks, builder, children_of, eventually, group, module, popen,
    resident_bytes, run, run_with, sibling, spec, within,
};

/// What memory may grow by while a million messages are not read. That many would take ten times as much.
const FLAT_BYTES: u64 = 16 << 20;

const CASES: &[(&str, fn())] = &[
    ("an idle group", || drop(group(&["popen"; 3]))),
    ("a group with a guest in every state", every_state),
    ("a group whose channels are kept", || drop(channels_kept())),
    ("a group whose gateways are kept", || drop(gateways_kept())),
    ("terminated groups", terminated),
    ("gateways that failed to start", failed_to_start),
    ("executions by the hundred", many_executions),
    ("callbacks and queues", callbacks_and_queues),
    ("a worker that was killed", killed_worker),
    ("ids that were refused", duplicate_ids_are_refused_before_anything_is_started),
    ("gateways that ended in a group that goes on", ended_gateways_of_a_living_group),
    ("workers that were replaced", replaced_workers),
    ("an idle pool", || drop(pool("double").build().unwrap())),
    ("a pool whose iterator is dropped half-way", pool_with_a_dropped_iterator),
    ("a pool whose tasks run", busy_pool),
    ("a pool whose session runs", pool_with_a_session),
    ("a pool whose workers are killed", pool_with_killed_workers),
    ("pools that cannot start", pools_that_cannot_start),
    ("links by the hundred", links::many_links),
    ("workers of one agent by the hundred", links::many_workers_of_one_agent),
    ("a flood that nobody reads", memory_stays_flat_under_a_flood),
];

#[test]
fn nothing_is_left_behind() {
    let only = std::env::var("SANDGATE_LEAKS_ONLY").unwrap_or_default();
    for (what, case) in CASES.iter().filter(|(what, _)| what.contains(&only)) {
        // The first time makes what a process has once: the thread that starts workers, artefacts of modules.
        case();
        assert_no_leaks(what, case);
    }
}

fn every_state() {
    let group = builder().drop_timeout(Duration::from_millis(500)).build();
    let gateway = group.make_default_gateway().unwrap();
    // A guest whose channel nobody has any more may end, in the moment in which it is counted that the next one runs.
    let channels = State::ALL.map(|state| state.enter(&gateway));
    within(LIMIT, "the drop of a group with busy guests", move || drop(group));
    drop(channels);
}

fn channels_kept() -> Vec<Channel> {
    let group = group(&["popen"]);
    let channels = vec![run(&group[0], "silent"), run(&group[0], "send_one"), group[0].new_channel().unwrap()];
    drop(group);
    channels
}

fn gateways_kept() -> Vec<Gateway> {
    let group = group(&["popen"; 2]);
    group.iter().cloned().collect()
}

fn terminated() {
    let group = Arc::new(group(&["popen"; 2]));
    group[1].exit();
    group.terminate(LIMIT);
    group.make_default_gateway().unwrap().kill();
    group.terminate(Duration::ZERO);
}

fn failed_to_start() {
    let group = builder().build();
    let bad = [
        popen().worker("/nonexistent/worker"),
        popen().worker("/bin/cat"),
        popen().worker("/usr/bin/yes").with_hello_deadline(Duration::from_millis(50)),
        popen().chdir("/nonexistent/directory"),
    ];
    for spec in bad {
        // Beside one that starts, which goes with it.
        group.make_gateways([popen(), spec]).expect_err("a gateway that cannot be made");
        assert!(group.is_empty());
    }
}

fn many_executions() {
    let group = group(&["popen"]);
    let module = module("send_one");
    for _ in 0..300 {
        let channel = group[0].remote_exec(&module).unwrap();
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 1);
    }
    // The last of them may still be on their way to their end.
    eventually(LIMIT, "every execution to be over", || {
        let status = group[0].status().unwrap();
        (status.running, status.queued, status.host_channels) == (0, 0, 0)
    });
}

fn callbacks_and_queues() {
    let group = builder().output(OutputSink::callback(drop)).build();
    group.make_gateways([popen(), popen()]).unwrap();
    let multi = group.remote_exec(&module("add_one")).unwrap();
    let queue = multi.make_receive_queue::<u32>().unwrap();
    multi.send_each(&1_u32).unwrap();
    queue.get_timeout(LIMIT).unwrap();
    let channel = run(&group[0], "send_one");
    // The callback holds its own channel, and the group.
    let (own, group) = (channel.clone(), Arc::new(group));
    let held = Arc::clone(&group);
    channel.set_callback(move |_: Event<u32>| assert!(own.id() > 0 && held.len() == 2)).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();
}

fn killed_worker() {
    let group = group(&["popen"]);
    let channel = State::Computes.enter(&group[0]);
    group[0].kill();
    channel.wait_close_timeout(LIMIT).expect_err("its worker is gone");
}

fn replaced_workers() {
    let group = group(&["popen//recycle=loss,executions:1", "popen//recycle=loss"]);
    let kept: Vec<Channel> = (0..3).map(|_| run(&group[0], "silent")).collect();
    for _ in 0..10 {
        run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
        let channel = run(&group[1], "silent");
        group[1].kill();
        channel.wait_close_timeout(LIMIT).expect_err("its worker is gone");
    }
    drop(kept);
}

fn ended_gateways_of_a_living_group() {
    let group = group(&["popen"]);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..20 {
        // An id is free again when its gateway has left the group.
        let gateway = group.make_gateway(spec("popen//id=again")).unwrap();
        gateway.terminate(LIMIT);
    }
    assert_eq!((descriptors(), group.len()), (before, 1), "an ended gateway keeps nothing open");
}

fn duplicate_ids_are_refused_before_anything_is_started() {
    let children = || children_of(std::process::id()).len();
    let before = children();
    let group = group(&["popen//id=a"]);
    assert_eq!(children(), before + 1);
    for specs in [vec!["popen//id=a"], vec!["popen", "popen//id=a"], vec!["popen//id=b", "popen//id=b"]] {
        let error = group.make_gateways(specs.iter().map(|text| spec(text))).unwrap_err();
        assert!(matches!(error, GatewayError::DuplicateId { .. }), "{error:?}");
        assert_eq!((children(), group.len()), (before + 1, 1), "{specs:?}");
    }
}

/// The start of a pool of two gateways over one of the tasks of the guest `pooled`.
fn pool(task: &str) -> PoolBuilder {
    Pool::builder(&module("pooled")).task(task).group(builder()).spec(popen()).gateways(2)
}

fn pool_with_a_dropped_iterator() {
    let pool = pool("double").build().unwrap();
    pool.map::<_, u64>(0_u64..).take(300).for_each(drop);
}

fn busy_pool() {
    let pool = pool("slowly").build().unwrap();
    let handle = pool.submit::<u64>(&(1_u64, 60_000_u64));
    let handle = handle.wait_timeout(Duration::from_millis(20)).expect_err("it sleeps");
    within(LIMIT, "the drop of a busy pool", move || drop(pool));
    assert!(matches!(handle.wait().value, Err(TaskError::Cancelled)));
}

fn pool_with_a_session() {
    let pool = pool("serves_double").reuse(true).build().unwrap();
    assert_eq!(pool.map::<_, u64>(0_u64..).take(300).count(), 300);
}

fn pool_with_killed_workers() {
    let pool = pool("double").build().unwrap();
    for _ in 0..3 {
        let workers = pool.stats().gateways.into_iter().filter_map(|gateway| gateway.pid).filter_map(Watched::find);
        workers.for_each(|worker| worker.signal(rustix::process::Signal::KILL));
        assert_eq!(pool.submit::<u64>(&2_u64).wait().value.unwrap(), 4);
    }
}

fn pools_that_cannot_start() {
    pool("double").specs([popen(), popen().worker("/nonexistent/worker")]).build().expect_err("no such worker");
    let module = Module::from_bytes(*b"no module").unwrap();
    let pool = Pool::builder(&module).group(builder()).spec(popen()).gateways(2).build();
    pool.expect_err("no such module");
}

fn memory_stays_flat_under_a_flood() {
    const MESSAGES: u32 = 1_000_000;
    let group = group(&["popen"]);
    let sibling = sibling(&group[0]);
    let before = (resident_bytes(), worker_bytes(&group));
    let flood = run_with(&group[0], "counts", &MESSAGES);
    assert_eq!(flood.receive_timeout::<u32>(LIMIT).unwrap(), 0, "it has begun");
    for _ in 0..200 {
        assert_echoes(&sibling);
    }
    let after = (resident_bytes(), worker_bytes(&group));
    assert!(after.0 < before.0 + FLAT_BYTES, "the host has grown from {} to {} bytes", before.0, after.0);
    assert!(after.1 < before.1 + FLAT_BYTES, "the worker has grown from {} to {} bytes", before.1, after.1);
    // Nothing was lost either, and reading goes on as slowly or fast as one likes.
    for expected in 1..MESSAGES {
        assert_eq!(flood.receive_timeout::<u32>(LIMIT).unwrap(), expected);
    }
    flood.wait_close_timeout(LIMIT).unwrap();
    let end = resident_bytes();
    assert!(end < before.0 + FLAT_BYTES, "the host has grown from {} to {end} bytes", before.0);
}

fn worker_bytes(group: &Group) -> u64 {
    group[0].status().unwrap().memory_bytes.unwrap()
}
