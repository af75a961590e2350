//! Gateways whose real workers are replaced while they are used.

use sandgate::{Event, Gateway, Group, Recycle, Recycled};
use sandgate_tests::{LIMIT, State, Watched, builder, eventually, module, popen, run, spec, within};

fn gateway(group: &Group, recycle: &str) -> Gateway {
    group.make_gateway(spec(&format!("popen//recycle={recycle}"))).expect("a gateway")
}

/// What only the status tells.
fn counts(gateway: &Gateway) -> (u64, Recycled) {
    let status = gateway.status().expect("a status");
    (status.workers_started, status.recycled)
}

fn add_one(gateway: &Gateway) -> u32 {
    let channel = run(gateway, "add_one");
    channel.send(&1_u32).expect("it takes a number");
    let sum = channel.receive_timeout(LIMIT).expect("it answers");
    channel.close();
    channel.wait_close_timeout(LIMIT).expect("it ends");
    sum
}

#[test]
fn each_execution_can_have_a_process_of_its_own() {
    let group = builder().build();
    let gateway = gateway(&group, "loss,executions:1");
    let held = run(&gateway, "add_one");
    let first = gateway.pid();
    let mut pids = vec![first];
    for _ in 0..5 {
        assert_eq!(add_one(&gateway), 2);
        pids.push(gateway.pid());
    }
    let distinct: std::collections::BTreeSet<_> = pids.iter().collect();
    assert_eq!(distinct.len(), pids.len(), "{pids:?}");
    let (started, recycled) = counts(&gateway);
    assert!(started >= 6 && recycled.executions == 5 && recycled.losses == 0, "{started} {recycled:?}");
    // The first execution has not noticed.
    held.send(&41_u32).expect("it is still there");
    assert_eq!(held.receive_timeout::<u32>(LIMIT).expect("it answers"), 42);
    let worker = Watched::new(first.expect("a pid"));
    held.close();
    held.wait_close_timeout(LIMIT).expect("it ends");
    // A replaced worker ends when it has nothing to do.
    worker.wait(LIMIT);
    eventually(LIMIT, "the status to count all", || {
        gateway.status().is_ok_and(|it| it.finished == 6 && it.running == 0)
    });
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    let group = builder().build();
    let gateway = gateway(&group, "loss");
    for round in 1..=3 {
        let task = State::Computes.enter(&gateway);
        if round == 2 {
            Watched::new(gateway.pid().expect("a pid")).signal(rustix::process::Signal::KILL);
        } else {
            gateway.kill();
        }
        task.wait_close_timeout(LIMIT).expect_err("its worker is gone");
        assert!(gateway.is_alive());
        assert_eq!(add_one(&gateway), 2, "round {round}");
        assert_eq!(counts(&gateway).1.losses, round);
    }
    assert_eq!((group.len(), gateway.id(), group[0].pid()), (1, "gw0", gateway.pid()));
}

#[test]
fn a_guest_that_ignores_its_kill_costs_the_worker_and_not_the_gateway() {
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen//recycle=loss//grace=1s")).expect("a gateway");
    let task = State::Computes.enter(&gateway);
    task.kill().expect("it is killed");
    assert_eq!(add_one(&gateway), 2);
}

#[test]
fn a_worker_whose_memory_has_grown_is_replaced_also_while_nobody_calls() {
    let group = builder().build();
    // Less than any worker takes: each look finds it too much.
    let recycle = Recycle { memory_bytes: Some(1 << 20), ..Recycle::default() };
    let gateway = group.make_gateway(popen().recycle(recycle)).expect("a gateway");
    let (first, held) = (gateway.pid(), run(&gateway, "add_one"));
    assert_eq!(add_one(&gateway), 2);
    eventually(LIMIT, "another worker", || {
        assert_eq!(add_one(&gateway), 2);
        gateway.pid() != first
    });
    assert!(counts(&gateway).1.memory > 0);
    held.send(&1_u32).expect("it is still there");
    assert_eq!(held.receive_timeout::<u32>(LIMIT).expect("it answers"), 2);
}

#[test]
fn a_stream_of_executions_goes_on_across_many_workers() {
    let group = builder().build();
    let gateway = gateway(&group, "loss,executions:8");
    within(LIMIT, "400 executions", move || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| assert_eq!(add_one(&gateway), 2)));
            }
        });
        let (started, recycled) = counts(&gateway);
        assert!(started >= 50 && recycled.executions >= 49, "{started} {recycled:?}");
    });
}

#[test]
fn a_tenants_group_replaces_its_workers_unless_its_spec_says_otherwise() {
    let group = builder().tenant("a").build();
    assert_eq!(group.tenant(), Some("a"));
    let usual = group.make_gateway(popen()).expect("a gateway");
    assert_eq!(usual.spec().recycling(), Recycle::for_tenant());
    let never = group.make_gateway(spec("popen//recycle=off")).expect("a gateway");
    assert_eq!(never.spec().recycling(), Recycle::default());
    let group = builder().tenant("a").defaults(popen().recycle(Recycle::default())).build();
    assert_eq!(group.make_default_gateway().expect("a gateway").spec().recycling(), Recycle::default());
    usual.kill();
    never.kill();
    assert_eq!(add_one(&usual), 2);
    assert!(never.join(LIMIT) && !never.is_alive());
}

#[test]
fn tenants_do_not_share_what_was_compiled() {
    let cache = tempfile::tempdir().expect("a directory");
    let entries = || {
        let files = std::fs::read_dir(cache.path()).expect("the cache").flatten();
        files.filter(|file| file.path().extension().is_some_and(|it| it == "artefact")).count()
    };
    for (tenant, expected) in [(None, 1), (Some("a"), 2), (Some("b"), 3), (Some("a"), 3), (None, 3)] {
        let builder = builder().cache(Some(cache.path().to_owned()));
        let group = match tenant {
            Some(name) => builder.tenant(name).build(),
            None => builder.build(),
        };
        let gateway = group.make_gateway(popen()).expect("a gateway");
        let channel = gateway.remote_exec(&module("noop")).expect("it runs");
        channel.wait_close_timeout(LIMIT).expect("it ends");
        assert_eq!(entries(), expected, "{tenant:?}");
    }
}

#[test]
fn callbacks_and_queues_see_no_replacement() {
    let group = builder().build();
    let gateway = gateway(&group, "loss,executions:1");
    let channels: Vec<_> = (0..6_u32).map(|_| run(&gateway, "add_one")).collect();
    let multi = sandgate::MultiChannel::new(channels);
    let queue = multi.make_receive_queue::<u32>().expect("a queue");
    multi.send_each(&1_u32).expect("all take it");
    let events: Vec<_> = (0..12).map(|_| queue.get_timeout(LIMIT).expect("an item or an end").1).collect();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Item(2))).count(), 6, "{events:?}");
    assert_eq!(
        events.iter().filter(|event| matches!(event, Event::End(it) if it.is_success())).count(),
        6,
        "{events:?}"
    );
    let report = group.terminate(LIMIT);
    assert!(report.is_clean() && report.gateways.len() == 1, "{report:?}");
}
