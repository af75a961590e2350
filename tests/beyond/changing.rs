//! Pools whose machines change while they run: who is slow to answer keeps nobody waiting, who is added joins, who is taken
//! away leaves, and each input has one result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use sandgate::{EventSink, Machines, Pool, PoolBuilder, PoolEvent};
use sandgate_tests::{LIMIT, Running, builder, comes_true, eventually, module, start_sandgate, within, worker};
use serde_json::Value;

use crate::places::{Script, parent_of};

fn pool(task: &str) -> PoolBuilder {
    Pool::builder(&module("pooled")).task(task).group(builder())
}

/// A machine, in that it has an agent of its own.
fn machine() -> Script {
    Script::new(&format!("exec '{}' agent", worker().display()))
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

#[test]
fn work_begins_with_the_first_machine_that_is_ready() {
    within(LIMIT, "results", || {
        let silent = || Script::new("exec sleep 1000").spec().with_hello_deadline(Duration::from_secs(600));
        let (sink, events) = EventSink::bounded(1000);
        let ready = machine();
        let machines = [silent().id("first"), ready.spec().id("ready"), silent().id("last")];
        let pool = pool("double").machines(machines).events(sink).build().unwrap();
        eventually(LIMIT, "a gateway for each core", || pool.gateways() == cores() + 2);
        let gateways: BTreeSet<String> = pool
            .map::<_, u64>(0..100_u64)
            .map(|result| {
                assert_eq!(result.value.unwrap(), result.index * 2);
                result.gateway.unwrap().to_string()
            })
            .collect();
        assert!(gateways.iter().all(|gateway| gateway.starts_with("ready")), "{gateways:?}");
        drop(pool);
        assert_eq!(events.drain().next().unwrap().event, PoolEvent::PoolStarted { gateways: 3 });
    });
}

#[test]
fn a_module_that_no_machine_takes_is_told_though_others_are_silent() {
    within(LIMIT, "an error", || {
        let silent = Script::new("exec sleep 1000").spec().with_hello_deadline(Duration::from_secs(600));
        let bad = sandgate::Module::from_bytes(*b"\0asm, nearly").unwrap();
        let there = machine();
        let built = Pool::builder(&bad).group(builder()).machines([silent, there.spec()]).build();
        assert!(matches!(built, Err(sandgate::PoolError::Module(_))), "{built:?}");
    });
}

#[test]
fn machines_join_and_leave_while_inputs_go_on() {
    within(LIMIT * 2, "every result", || {
        let (first, second) = (machine(), machine());
        let (first, second) = (first.spec().id("first"), second.spec().id("second"));
        let machines = Machines::new([first.clone()]).unwrap();
        let (sink, events) = EventSink::bounded(1_000_000);
        let pool = pool("slowly").machines_of(&machines).window(256).events(sink).build().unwrap();
        eventually(LIMIT, "the first one's gateways", || pool.gateways() == cores());
        let agent = pool.stats().gateways[0].pid.and_then(parent_of).unwrap();
        let mut results = BTreeMap::new();
        let (mut of_second, mut is_enough, mut has_left) = (0, false, false);
        let is_over = std::cell::Cell::new(false);
        let inputs = (0..).take_while(|_| !is_over.get()).map(|x: u64| (x, 4_u64));
        for result in pool.map_unordered::<_, u64>(inputs) {
            let value = result.value.unwrap_or_else(|error| panic!("input {}: {error}", result.index));
            assert_eq!(results.insert(result.index, value), None, "a second result of {}", result.index);
            of_second += usize::from(result.gateway.unwrap().starts_with("second"));
            match results.len() {
                100 => machines.add(second.clone()).unwrap(),
                _ if of_second > 100 && !is_enough => {
                    is_enough = true;
                    assert_eq!(pool.gateways(), 2 * cores());
                    assert!(machines.remove(&first).unwrap());
                }
                _ if is_enough && agent.is_gone() && !has_left => {
                    has_left = true;
                    is_over.set(true);
                }
                _ => {}
            }
        }
        assert_eq!(results, (0..results.len() as u64).map(|x| (x, x * 2)).collect());
        assert_eq!(pool.gateways(), cores());
        assert_eq!(pool.machines().specs(), [second]);
        assert_eq!(pool.stats().lost_workers, 0, "nobody is lost who leaves");
        let mut left = BTreeSet::new();
        for event in events.drain().map(|timed| timed.event) {
            match event {
                PoolEvent::GatewayLeft { gateway } => assert!(left.insert(gateway), "{gateway} leaves once"),
                PoolEvent::TaskStarted { gateway, .. } => assert!(!left.contains(&gateway), "{gateway} has left"),
                _ => {}
            }
        }
        assert_eq!(left, (0..cores()).collect());
    });
}

#[test]
fn a_pool_whose_last_machine_has_left_waits_for_another() {
    within(LIMIT * 2, "a result", || {
        let (first, second) = (machine(), machine());
        let machines = Machines::new([first.spec()]).unwrap();
        let pools = [(); 2].map(|()| pool("double").machines_of(&machines).build().unwrap());
        machines.set([]).unwrap();
        for pool in &pools {
            eventually(LIMIT, "nobody to be there", || pool.gateways() == 0);
        }
        let waiting: Vec<_> = pools.iter().map(|pool| pool.submit::<u64>(&21_u64)).collect();
        let waiting: Vec<_> = waiting.into_iter().map(|task| task.wait_timeout(Duration::ZERO).unwrap_err()).collect();
        machines.add(second.spec()).unwrap();
        for task in waiting {
            assert_eq!(task.wait().value.unwrap(), 42);
        }
        // One that is taken away before it has answered is nobody's.
        let started = Instant::now();
        let silent = Script::new("exec sleep 1000").spec().with_hello_deadline(Duration::from_secs(600));
        machines.add(silent.clone()).unwrap();
        assert!(machines.remove(&silent).unwrap());
        assert_eq!(pools[0].submit::<u64>(&1_u64).wait().value.unwrap(), 2);
        drop(pools);
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    });
}

/// Gives the command an input and reads its result: the gateway that it came from.
fn one_more(running: &mut Running, input: u64) -> String {
    running.write(format!("{input}\n").as_bytes());
    let line = running.line(LIMIT);
    let row: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(row["result"], input * 2, "{line}");
    row["gateway"].as_str().unwrap().to_owned()
}

#[test]
fn the_command_follows_its_hosts_file() {
    let (first, second) = (machine(), machine());
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let line = |script: &Script, id: &str| format!("exec={}//id={id}\n", script.path().replace('/', "\\/"));
    let write = |text: &str| fs::write(hosts.path(), text).unwrap();
    write(&line(&first, "first"));
    let path = hosts.path().to_str().unwrap();
    let words = ["map", "--task", "double", "--json", "--output", "json", "--quiet", "--hosts", path, "@pooled"];
    let mut map = start_sandgate(&words);
    let mut inputs = 1..;
    let mut gateway = |map: &mut Running| one_more(map, inputs.next().unwrap());
    assert!(gateway(&mut map).starts_with("first"));

    write(&line(&second, "second"));
    assert!(comes_true(LIMIT, || gateway(&mut map).starts_with("second")), "the second machine joins");
    assert!(comes_true(LIMIT, || !gateway(&mut map).starts_with("first")), "the first one leaves");
    let told = map.complaint(LIMIT);
    assert!(told.contains("hosts file") && told.contains("1 to join, 1 to leave"), "{told}");

    write(&(line(&first, "first") + "\nssh=-x\n"));
    let told = map.complaint(LIMIT);
    assert!(told.contains(path) && told.contains(", line 3: ") && told.contains("stay as they are"), "{told}");
    assert!(gateway(&mut map).starts_with("second"));
    let (status, said) = map.wait(LIMIT);
    assert!(status.success() && said.is_empty(), "{said}");
}
