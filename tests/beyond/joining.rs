//! Pools whose machines come and go: one that is not there at first, and three that are frozen, cut off and killed in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate::{EventSink, Pool, PoolBuilder, PoolError, PoolEvent, Spec};
use sandgate_tests::{
    Failure, LIMIT, Machine, Running, Watched, builder, cache_dir, comes_true, eventually, feed, guest, module,
    start_sandgate, within, worker,
};

use crate::places::{Script, exec};

/// How many tasks there are at least while machines fail.
const TASKS: &str = "SANDGATE_HOSTS_TASKS";
const HEARTBEAT: Duration = Duration::from_secs(1);

fn pool(task: &str) -> PoolBuilder {
    Pool::builder(&module("pooled")).task(task).group(builder())
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// A machine that is there once a file is.
fn later(file: &std::path::Path) -> Script {
    let worker = worker().display();
    Script::new(&format!("test -e '{}' || {{ echo not yet >&2; exit 3; }}; exec '{worker}' agent", file.display()))
}

#[test]
fn a_machine_that_is_not_there_at_first_joins_later() {
    within(LIMIT * 3, "a machine that joins", || {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("there");
        let script = later(&there);
        let (sink, events) = EventSink::bounded(100_000);
        let machines = [exec().id("first"), script.spec().id("late")];
        let pool = pool("double").machines(machines).events(sink).build().unwrap();
        eventually(LIMIT, "one gateway until it is there", || pool.gateways() == cores() + 1);
        let values: Vec<u64> = pool.map(0..100_u64).map(|result| result.value.unwrap()).collect();
        assert_eq!(values, (0..100).map(|x| x * 2).collect::<Vec<u64>>());
        let mut failed = None;
        eventually(LIMIT, "an event that tells of it", || {
            failed = events.drain().find_map(|it| match it.event {
                PoolEvent::GatewayFailed { gateway, error, .. } => Some((gateway, error)),
                _ => None,
            });
            failed.is_some()
        });
        let (gateway, error) = failed.unwrap();
        assert_eq!(gateway, 1);
        assert!(error.contains("`late`") && error.contains("not yet"), "{error}");

        fs::write(&there, "").unwrap();
        eventually(LIMIT, "as many gateways as both have cores", || pool.gateways() == 2 * cores());
        let mut seen = BTreeSet::new();
        eventually(LIMIT, "work on all of them", || {
            let results = pool.map_unordered::<_, u64>(0..64_u64);
            seen.extend(results.map(|result| result.gateway.unwrap().to_string()));
            seen.len() == 2 * cores()
        });
        assert!(seen.contains("late") && seen.contains("late.1"), "{seen:?}");
    });
}

#[test]
fn a_pool_without_any_machine_is_an_error_in_the_words_of_the_first() {
    let (first, second) = (Script::new("echo first >&2; exit 3"), Script::new("echo second >&2; exit 4"));
    let error = pool("double").machines([first.spec(), second.spec()]).build().unwrap_err();
    let PoolError::Gateway(error) = error else { panic!("{error:?}") };
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("code 3") && cause.contains("first"), "{cause}");
    // The same of gateways that are named one by one.
    let specs = [first.spec(), second.spec()];
    assert!(matches!(pool("double").specs(specs).build(), Err(PoolError::Gateway(_))));
}

#[test]
fn a_pool_ends_though_it_waits_for_a_machine_that_says_nothing() {
    within(LIMIT * 2, "the end of a pool", || {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tried");
        // At first it fails, so that the pool is made without it; then it hangs.
        let lines = format!("test -e '{0}' && exec sleep 1000; echo > '{0}'; exit 3", file.display());
        let script = Script::new(&lines);
        let slow = script.spec().with_hello_deadline(Duration::from_secs(600));
        let pool = pool("double").machines([exec(), slow]).build().unwrap();
        let hangs = || sandgate_tests::children_of(std::process::id()).iter().any(|child| child.name == "sleep");
        eventually(LIMIT, "an attempt that hangs", hangs);
        let started = Instant::now();
        drop(pool);
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    });
}

#[test]
fn the_command_says_which_machine_is_missing_and_goes_on() {
    let (there, missing) = (Script::new(&format!("exec '{}' agent", worker().display())), Script::new("exit 3"));
    let text = |script: &Script| format!("exec={}", script.path().replace('/', "\\/"));
    let program = guest("pooled");
    let (there, missing) = (text(&there), format!("{}//id=missing", text(&missing)));
    let command = |gateways: &[&str]| {
        let arguments = ["map", program.to_str().unwrap(), "--task", "double", "--json"];
        let arguments = [&arguments[..], gateways].concat();
        feed(worker(), &arguments, b"1\n2\n", &[("SANDGATE_CACHE", cache_dir().as_os_str())], LIMIT)
    };
    let output = command(&["--gateway", &missing, "--gateway", &there]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n4\n");
    assert!(said.contains("of gateway `missing` was not reached") && said.contains("it is tried again"), "{said}");
    assert!(!said.contains("pool has no gateway"), "{said}");
    assert!(said.lines().any(|line| line.trim_start().starts_with("missing ")), "the summary calls it alike: {said}");
    let output = command(&["--gateway", &missing, "--gateway", &there, "--quiet"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("of gateway `missing` was not reached") && said.lines().count() == 1, "{said}");
    let output = command(&["--gateway", &missing]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("was not reached"));
}

#[test]
fn a_run_that_ends_before_a_machine_has_answered_says_nothing_of_it() {
    let (program, silent) = (guest("pooled"), Script::new("exec sleep 1000"));
    let silent = format!("exec={}//id=silent//hello=10m", silent.path().replace('/', "\\/"));
    let words =
        ["map", program.to_str().unwrap(), "--task", "double", "--json", "--gateway", &silent, "--gateway", "popen"];
    let output = feed(worker(), &words, b"1\n", &[("SANDGATE_CACHE", cache_dir().as_os_str())], LIMIT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"2\n", "{said}");
    assert!(!said.contains("tried again") && !said.contains("terminated"), "{said}");
    assert!(said.lines().any(|line| line.trim_start().starts_with("silent ")), "the summary has its name: {said}");
}

#[test]
fn the_command_says_how_a_link_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = Script::new(&format!("echo $$ > '{}'; exec '{}' agent", pid.display(), worker().display()));
    let gateway = format!("exec={}//id=big//heartbeat=1s", script.path().replace('/', "\\/"));
    let words = ["map", "--task", "double", "--json", "--progress", "never", "--gateway", &gateway, "@pooled"];
    let mut map = start_sandgate(&words);
    let double = |map: &mut Running, input: u64| {
        map.write(format!("{input}\n").as_bytes());
        assert_eq!(map.line(LIMIT), (input * 2).to_string());
    };
    for (input, signal, expected) in [
        (1, Signal::KILL, "its link ended: `exec="),
        (2, Signal::STOP, "its link was silent for 1s (setting `heartbeat=`): `exec="),
    ] {
        double(&mut map, input);
        let agent = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        Watched::new(agent).signal(signal);
        // Whoever is idle hears of it with the next task, and each of its gateways has to.
        double(&mut map, input + 10);
        // A gateway that was just being started is tried again, with a word of its own.
        let told = loop {
            let told = map.complaint(LIMIT);
            if !told.ends_with("it is tried again") {
                break told;
            }
        };
        assert!(told.contains("machine of gateway `big` is lost, ") && told.contains(expected), "{told}");
    }
    let (status, said) = map.wait(LIMIT);
    assert!(status.success() && !said.contains("machine of gateway"), "{said}");
    assert!(said.contains("(its link ended; its link was silent for 1s") || said.contains("lost (its link "), "{said}");
}

fn spec(machine: &Machine, number: usize) -> Spec {
    machine.server.spec().id(format!("m{number}")).with_heartbeat(HEARTBEAT)
}

#[test]
fn every_input_has_one_result_while_three_machines_fail_in_turn() {
    let least: u64 = std::env::var(TASKS).map_or(1000, |text| text.parse().expect("a number of tasks"));
    let Some(mut machines) = (0..3).map(Machine::make).collect::<Option<Vec<Machine>>>() else { return };
    let limit = LIMIT * 8 + Duration::from_millis(least * 4);
    within(limit, "every result", move || {
        let specs: Vec<Spec> = machines.iter().enumerate().map(|(number, machine)| spec(machine, number)).collect();
        // So that inputs go on while machines fail, and few results are kept back by one that does.
        let pool = pool("slowly").machines(specs).window(256).build().unwrap();
        eventually(LIMIT, "all machines", || pool.gateways() == 3 * cores());
        let is_enough = AtomicBool::new(false);
        let done = AtomicU64::new(0);
        let results: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let (mut values, mut losses) = (BTreeMap::new(), Vec::new());
        std::thread::scope(|scope| {
            let weather = std::thread::Builder::new().name("weather".to_owned());
            let (pool, is_enough, results, done, machines) = (&pool, &is_enough, &results, &done, &mut machines);
            let weather = weather.spawn_scoped(scope, move || {
                let end = || is_enough.store(true, Ordering::Release);
                // Whatever goes wrong here, the inputs come to an end.
                let _end = OnDrop(end);
                fail_in_turn(pool, machines, results, done, least)
            });
            let inputs = (0..).take_while(|_| !is_enough.load(Ordering::Acquire)).map(|x: u64| (x, 4_u64));
            for result in pool.map_unordered::<_, u64>(inputs) {
                let value = result.value.unwrap_or_else(|error| panic!("input {}: {error}", result.index));
                assert_eq!(values.insert(result.index, value), None, "a second result of {}", result.index);
                let gateway = result.gateway.expect("somebody ran it");
                let machine: usize = gateway[1..2].parse().unwrap();
                results[machine].fetch_add(1, Ordering::Relaxed);
                done.fetch_add(1, Ordering::Relaxed);
            }
            losses = weather.unwrap().join().unwrap();
        });
        assert_eq!(values, (0..values.len() as u64).map(|x| (x, x * 2)).collect());
        assert!(values.len() as u64 >= least);
        let lost = pool.stats().lost_workers;
        assert!(lost >= losses.len() as u64, "{lost} workers lost by {losses:?}");
        report(values.len(), &losses, lost, &results);
    });
}

/// Each machine in turn fails in one of five ways, is missed, is there again, and is at work again; until that was everybody's
/// turn, and there were as many tasks.
fn fail_in_turn(
    pool: &Pool,
    machines: &mut [Machine],
    results: &[AtomicU64],
    done: &AtomicU64,
    least: u64,
) -> Vec<(usize, Failure)> {
    let mut failures = Vec::new();
    for turn in 0.. {
        if turn >= 3 && done.load(Ordering::Relaxed) >= least {
            break;
        }
        // Another way with each round, until everybody has failed in all of them.
        let (number, failure) = (turn % 3, Failure::ALL[turn % Failure::ALL.len()]);
        let lost = pool.stats().lost_workers;
        machines[number].fail(failure);
        eventually(LIMIT, &format!("machine {number}, {failure:?}, to be missed"), || pool.stats().lost_workers > lost);
        let others = done.load(Ordering::Relaxed);
        eventually(LIMIT, "the others to go on", || done.load(Ordering::Relaxed) > others + 20);
        machines[number].recover(failure);
        let before = results[number].load(Ordering::Relaxed);
        let again = comes_true(LIMIT, || results[number].load(Ordering::Relaxed) > before + 20);
        assert!(again, "machine {number} is at work again after it was {failure:?}: {:?}", pool.stats());
        failures.push((number, failure));
    }
    failures
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[expect(clippy::print_stderr, reason = "whoever asks for many tasks wants to know")]
fn report(tasks: usize, failures: &[(usize, Failure)], lost: u64, results: &[AtomicU64]) {
    if std::env::var_os(TASKS).is_some() {
        eprintln!("{tasks} tasks, {} failures of machines, {lost} workers lost, results {results:?}", failures.len());
    }
}
