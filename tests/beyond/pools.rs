//! Pools over several machines: each input has one result, whatever happens to the machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use rustix::process::Signal;
use sandgate::{Pool, PoolBuilder, Spec};
use sandgate_tests::{LIMIT, Watched, builder, cache_dir, eventually, feed, guest, module, popen, within, worker};

use crate::places::{HEARTBEAT, Script, parent_of};

fn pool(task: &str) -> PoolBuilder {
    Pool::builder(&module("pooled")).task(task).group(builder())
}

/// Three machines, in that each has an agent of its own.
fn machines() -> Vec<Script> {
    (0..3).map(|_| Script::new(&format!("exec '{}' agent", worker().display()))).collect()
}

fn specs(machines: &[Script]) -> Vec<Spec> {
    machines.iter().map(|machine| machine.spec().with_heartbeat(HEARTBEAT)).collect()
}

/// The agent behind a gateway of the pool, if its worker is there.
fn agent_behind(pool: &Pool, position: usize) -> Option<Watched> {
    pool.stats().gateways[position].pid.and_then(parent_of)
}

#[test]
fn each_machine_gets_a_gateway_for_each_of_its_cores() {
    let machines = machines();
    let pool = pool("double").machines(specs(&machines).into_iter().chain([popen()])).build().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    eventually(LIMIT, "a gateway for each core", || pool.gateways() == 4 * cores);
    let values: Vec<u64> = pool.map(0..1000_u64).map(|result| result.value.unwrap()).collect();
    assert_eq!(values, (0..1000).map(|x| x * 2).collect::<Vec<u64>>());
}

#[test]
fn every_input_has_one_result_while_machines_are_killed_and_frozen() {
    within(LIMIT * 4, "2000 results", || {
        let machines = machines();
        // So that the results that are not taken yet are few, and machines fail in the middle of it.
        let pool = pool("slowly").machines(specs(&machines)).window(64).build().unwrap();
        let cores = std::thread::available_parallelism().unwrap().get();
        eventually(LIMIT, "a gateway for each core", || pool.gateways() == 3 * cores);
        let mut results: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut count, mut failed) = (0, 0);
        for result in pool.map_unordered::<_, u64>((0..2000_u64).map(|x| (x, 4_u64))) {
            let value = result.value.unwrap_or_else(|error| panic!("input {}: {error}", result.index));
            assert_eq!(results.insert(result.index, value), None, "a second result of {}", result.index);
            count += 1;
            let (position, signal) = match count {
                300 | 900 => (0, Signal::KILL),
                600 | 1200 => (2, Signal::STOP),
                _ => continue,
            };
            if let Some(agent) = agent_behind(&pool, position) {
                agent.signal(signal);
                failed += 1;
            }
        }
        assert_eq!(results, (0..2000).map(|x| (x, x * 2)).collect());
        assert!(failed >= 2 && pool.stats().lost_workers >= failed, "{failed} machines: {:?}", pool.stats());
    });
}

#[test]
fn the_command_takes_machines_and_a_file_of_them() {
    let machines = machines();
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let mut lines = "# one of three\n".to_owned();
    let text = |script: &Script| format!("exec={}", script.path().replace('/', "\\/"));
    writeln!(lines, "{}//heartbeat=5s  # slow", text(&machines[0])).unwrap();
    fs::write(hosts.path(), lines).unwrap();
    let program = guest("pooled");
    let others = text(&machines[1]);
    let arguments = ["map", program.to_str().unwrap(), "--task", "double", "--json", "--quiet"];
    let arguments = [&arguments[..], &["--gateway", &others, "--hosts", hosts.path().to_str().unwrap()]].concat();
    let inputs: String = (0..100).fold(String::new(), |inputs, x| inputs + &format!("{x}\n"));
    let output = feed(worker(), &arguments, inputs.as_bytes(), &[("SANDGATE_CACHE", cache_dir().as_os_str())], LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: String = (0..100).fold(String::new(), |lines, x| lines + &format!("{}\n", x * 2));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
