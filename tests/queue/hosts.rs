//! All of it at once: tasks over three hosts that are frozen, cut off and killed in turn, while the NATS server is restarted
//! twice. How many tasks there are at least is in `SANDGATE_QUEUE_HOSTS_TASKS`; without it, few enough for every day.
//!
//! ```text
//!  submit ──► NATS ◄── a worker on each host, which fails with it
//!  collect ◄──┘  ◄──── the centre: one worker here, with a gateway to each host by ssh
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::{Failure, Machine, Running, Watched, comes_true, eventually, within, worker};
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::{LIMIT, begin, lines};
use crate::marathon::tell;
use crate::server::Server;

const TASKS: &str = "SANDGATE_QUEUE_HOSTS_TASKS";
/// How long a host is frozen or cut off: longer than a task, or a link, may go without a sign of life.
const HELD: Duration = Duration::from_millis(2500);
/// How long a host, or the server, is gone.
const GONE: Duration = Duration::from_millis(200);
/// How many tasks are many, and take little time each.
const MANY: u64 = 10_000;
const WAITS: [&str; 4] = ["--ack-wait", "1s", "--max-deliveries", "1000"];

/// A host and the worker on it.
struct Host {
    name: String,
    machine: Machine,
    worker: Running,
    url: String,
}

impl Host {
    fn make(number: u8, port: u16) -> Option<Host> {
        let machine = Machine::make(4 + number)?;
        let url = format!("nats://{}:{port}", machine.network.address_of_this_machine());
        let name = format!("host{number}");
        let worker = start_worker(&machine, &url, &name);
        Some(Host { name, machine, worker, url })
    }

    fn start_again(&mut self) {
        self.worker = start_worker(&self.machine, &self.url, &self.name);
    }
}

fn start_worker(machine: &Machine, url: &str, name: &str) -> Running {
    machine.start(&[&["work", "--nats", url, "--jobs", "1", "--name", name][..], &WAITS].concat())
}

/// After the last failure all results come in a fraction of this.
const SOON: Duration = Duration::from_secs(60);

/// What has been collected.
#[derive(Default)]
struct Came {
    results: AtomicU64,
    /// By the workers on the hosts, and on these for the centre.
    own: [AtomicU64; 3],
    centre: [AtomicU64; 3],
    again: AtomicU64,
}

impl Came {
    fn on(&self, host: usize) -> [u64; 2] {
        [&self.own, &self.centre].map(|counts| counts[host].load(Ordering::Relaxed))
    }
}

/// Reads results as they come, and counts them; to the end, each once.
fn collect(server: &Server, came: &Arc<Came>) -> JoinHandle<BTreeMap<u64, u64>> {
    let (url, came) = (server.url(), Arc::clone(came));
    spawn("collect", move || {
        let mut collect = begin(&["collect", "--nats", &url, "--unordered", "--output", "json", "hosts"]);
        let mut values = BTreeMap::new();
        loop {
            let line = collect.line(LIMIT);
            if line.is_empty() {
                break;
            }
            let row: Value = serde_json::from_str(&line).unwrap();
            let (index, value) =
                (row["index"].as_u64().unwrap(), row["result"].as_u64().unwrap_or_else(|| panic!("{row}")));
            assert_eq!(values.insert(index, value), None, "a second result: {row}");
            let gateway = row["gateway"].as_str().unwrap();
            let (counts, rest) = match gateway.strip_prefix("centre/m") {
                Some(rest) => (&came.centre, rest),
                None => (&came.own, gateway.strip_prefix("host").unwrap()),
            };
            counts[rest[..1].parse::<usize>().unwrap()].fetch_add(1, Ordering::Relaxed);
            came.again.fetch_add(u64::from(row["attempts"] != 1), Ordering::Relaxed);
            came.results.fetch_add(1, Ordering::Release);
        }
        let (status, said) = collect.wait(LIMIT);
        assert!(status.success(), "{said}");
        values
    })
}

/// Gives inputs as results come, until that is enough; how many there were.
fn submit(server: &Server, came: &Arc<Came>, is_enough: &Arc<AtomicBool>, least: u64) -> JoinHandle<u64> {
    // Enough for everybody, however many wait for a host that is gone.
    let (millis, ahead) = if least > MANY { (2, 4000) } else { (20, 320) };
    let words = ["submit", "--nats", &server.url(), "--job", "hosts", "--json", "--task", "slowly", "@pooled"];
    let mut submit = begin(&words);
    let (came, is_enough) = (Arc::clone(came), Arc::clone(is_enough));
    spawn("submit", move || {
        let mut count = 0;
        while !is_enough.load(Ordering::Acquire) {
            if count < came.results.load(Ordering::Acquire) + ahead {
                let lines: String = (count..count + 64).map(|number| format!("[{number}, {millis}]\n")).collect();
                submit.write(lines.as_bytes());
                count += 64;
            } else {
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
        let (status, said) = submit.wait(LIMIT);
        assert!(status.success(), "{said}");
        count
    })
}

/// What the server says of tasks, results and who takes them.
fn state(server: &Server) -> String {
    let mut client = Client::to(server);
    let streams = ["sandgate_tasks", "sandgate_results", "sandgate_dead"].map(|stream| client.messages(stream));
    let consumers = ["sandgate_tasks", "sandgate_results"]
        .map(|stream| client.call(&format!("CONSUMER.LIST.{stream}"), &json!({}))["consumers"].to_string());
    format!("tasks, results and dead letters: {streams:?}; consumers: {consumers:?}")
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap()
}

/// Whatever goes wrong, the inputs come to an end.
struct Enough(Arc<AtomicBool>);

impl Drop for Enough {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn every_result_is_there_once_while_hosts_fail_in_turn_and_the_server_is_restarted() {
    let least: u64 = std::env::var(TASKS).map_or(500, |text| text.parse().expect("a number of tasks"));
    let limit = LIMIT + Duration::from_millis(least * 10);
    within(limit, "every result", move || {
        let Some(mut server) = Server::start_on("0.0.0.0", "") else { return };
        let Some(mut hosts) = (0..3).map(|number| Host::make(number, server.port)).collect::<Option<Vec<Host>>>()
        else {
            return;
        };
        let started = Instant::now();
        let spec = |(number, host): (usize, &Host)| {
            [
                "--gateway".to_owned(),
                format!("{}//heartbeat=1s//hello=60s//id=m{number}", host.machine.server.spec_text()),
            ]
        };
        let gateways: Vec<String> = hosts.iter().enumerate().flat_map(spec).collect();
        let gateways: Vec<&str> = gateways.iter().map(String::as_str).collect();
        let mut centre = server.work(&[&["--name", "centre"][..], &gateways, &WAITS].concat());
        let (came, is_enough) = (Arc::new(Came::default()), Arc::new(AtomicBool::new(false)));
        let submit = submit(&server, &came, &is_enough, least);
        eventually(LIMIT, "the job", || !Client::to(&server).job("hosts").is_null());
        let collect = collect(&server, &came);
        let enough = Enough(Arc::clone(&is_enough));
        let failures = fail_in_turn(&mut hosts, &mut server, &mut centre, &came, least);
        drop(enough);
        let count = submit.join().unwrap();
        tell(&format!(
            "{count} inputs; {} results after {:.1?}",
            came.results.load(Ordering::Acquire),
            started.elapsed()
        ));
        if !comes_true(SOON, || came.results.load(Ordering::Acquire) >= count) {
            tell(&format!("{} results after {SOON:?}: {}", came.results.load(Ordering::Acquire), state(&server)));
        }
        let values = collect.join().unwrap();
        let taken = started.elapsed();
        assert!(values == (0..count).map(|number| (number, number * 2)).collect(), "{} of {count}", values.len());

        let mut client = Client::to(&server);
        let mut consumer = Value::Null;
        eventually(LIMIT, "no task that anybody has or gets", || {
            consumer = client.call("CONSUMER.INFO.sandgate_tasks.workers", &json!({}));
            consumer["num_pending"] == 0 && consumer["num_ack_pending"] == 0
        });
        assert_eq!(client.messages("sandgate_dead"), 0, "nothing was given up");
        // A server that is killed may have messages again that were acknowledged. Nobody gets them.
        let (delivered, left) = (&consumer["delivered"]["consumer_seq"], client.messages("sandgate_tasks"));
        let stored = client.messages("sandgate_results");
        let mut said = vec![ends(&mut centre)];
        said.extend(hosts.iter_mut().map(|host| ends(&mut host.worker)));
        for host in &hosts {
            let left = || host.machine.processes_with("sandgate");
            assert!(comes_true(LIMIT, || left().is_empty()), "{}: {:?}", host.name, left());
        }
        tell(&format!(
            "{count} tasks in {taken:.1?}; failures {failures:?} and 2 restarts; {delivered} deliveries, {left} tasks left \
             on the server, {stored} results stored; by the workers on hosts {:?}, there for the centre {:?}; {} were run more than once by one worker; workers: \
             {said:#?}",
            came.own,
            came.centre,
            came.again.load(Ordering::Relaxed),
        ));
    });
}

/// Each host in turn fails in one of five ways and is at work again, by its own worker and for the centre; until that was
/// everybody's turn, there were as many results, and the server was killed twice, while a host was gone.
fn fail_in_turn(
    hosts: &mut [Host],
    server: &mut Server,
    centre: &mut Running,
    came: &Came,
    least: u64,
) -> BTreeMap<String, usize> {
    let mut failures = BTreeMap::new();
    let mut restarts = 0;
    let results = || came.results.load(Ordering::Acquire);
    for turn in 0.. {
        if turn >= 3 && restarts == 2 && results() >= least {
            break;
        }
        // Another way with each round, until everybody has failed in all of them.
        let (number, failure) = (turn % 3, Failure::ALL[turn % Failure::ALL.len()]);
        let host = &mut hosts[number];
        let mut is_at_work = |before: [u64; 2]| {
            let mut gone = None;
            let works = comes_true(LIMIT, || {
                gone = centre.last_words();
                gone.is_some() || came.on(number).iter().zip(before).all(|(now, before)| *now > before)
            });
            assert_eq!(gone, None, "the centre goes on, turn {turn}");
            assert!(works, "host {number} is at work, turn {turn}: {:?}, {:?}", came.own, came.centre);
        };
        is_at_work([0, 0]);
        let since = Instant::now();
        host.machine.fail(failure);
        // The second and third time, or when a third and two thirds of the results are there.
        if restarts < 2 && turn > 0 && results() >= least / 3 * (restarts + 1) {
            server.kill();
            std::thread::park_timeout(GONE);
            assert!(server.start_again(), "the server starts again");
            restarts += 1;
        }
        std::thread::park_timeout(if failure == Failure::Killed { GONE } else { HELD });
        let before = came.on(number);
        host.machine.recover(failure);
        if failure == Failure::Killed {
            host.start_again();
        }
        is_at_work(before);
        tell(&format!(
            "turn {turn}: host {number} was {failure:?}, and is at work after {:.1?}; {} results",
            since.elapsed(),
            results()
        ));
        *failures.entry(format!("{failure:?}")).or_default() += 1;
    }
    failures
}

/// Asks a worker to stop, and waits until it has: its last line.
fn ends(worker: &mut Running) -> String {
    Watched::new(worker.pid()).signal(Signal::TERM);
    let (status, said) = worker.wait(LIMIT);
    assert!(status.success(), "{said}");
    said.lines().last().unwrap_or_default().to_owned()
}

/// An agent of this machine, as a spec: another one with each id.
fn agent(id: &str, more: &str) -> String {
    let path = worker().display().to_string().replace('/', "\\/");
    format!("exec=env ID={id} {path} agent//id={id}{more}")
}

/// The gateways that run a job of some tasks, without the numbers of their cores.
fn gateways_of_a_job(server: &Server, job: &str) -> BTreeSet<String> {
    let submitted = server.submit(
        &["--job", job, "--json", "--task", "slowly", "@pooled"],
        &lines(40, |number| format!("[{number}, 5]")),
    );
    let _ = submitted.well();
    let collected = server.collect(&["--output", "json", job]).well();
    let rows: Vec<Value> = collected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let values: Vec<u64> = rows.iter().map(|row| row["result"].as_u64().unwrap()).collect();
    assert_eq!(values, (1..=40).map(|number| number * 2).collect::<Vec<u64>>());
    rows.iter().map(|row| row["gateway"].as_str().unwrap().split('.').next().unwrap().to_owned()).collect()
}

#[test]
fn a_worker_has_machines_and_one_behind_another() {
    let Some(server) = Server::start("") else { return };
    let specs = [agent("a", ""), agent("b", ""), agent("c", "//via=a")];
    let gateways = specs.iter().flat_map(|spec| ["--gateway", spec]);
    let words: Vec<&str> = ["--name", "w"].into_iter().chain(gateways).collect();
    let mut worker = server.work(&words);
    let (mut seen, mut jobs) = (BTreeSet::new(), 0..);
    let all_work = comes_true(LIMIT, || {
        seen.extend(gateways_of_a_job(&server, &format!("job{}", jobs.next().unwrap())));
        seen.len() == 3
    });
    assert!(all_work, "{seen:?}");
    assert_eq!(seen, ["w/a", "w/b", "w/c"].map(str::to_owned).into());
    ends(&mut worker);
}

#[test]
fn a_worker_follows_its_hosts_file() {
    let Some(server) = Server::start("") else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), agent("a", "")).unwrap();
    let mut worker = server.work(&["--name", "w", "--hosts", file.path().to_str().unwrap()]);
    let only = |gateway: &str| [gateway.to_owned()].into();
    assert_eq!(gateways_of_a_job(&server, "first"), only("w/a"));
    std::fs::write(file.path(), agent("b", "")).unwrap();
    let mut jobs = 0..;
    let follows =
        comes_true(LIMIT, || gateways_of_a_job(&server, &format!("job{}", jobs.next().unwrap())) == only("w/b"));
    assert!(follows, "the worker has the other machine alone");
    ends(&mut worker);
}
