//! Commands that are told to stop while the server is away or does not answer: they are gone in time, and say what they had.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, eventually, lines};

use crate::client::Client;
use crate::commands::{LIMIT, begin};
use crate::server::Server;

/// What a machine that others keep busy may add to a time.
const MARGIN: Duration = Duration::from_secs(8);

fn signal(process: &Running, signal: Signal) {
    Watched::new(process.pid()).signal(signal);
}

/// Tells it to stop; how it ends, and what it has said.
fn stop(process: &mut Running, within: Duration) -> (Option<i32>, String) {
    let started = Instant::now();
    signal(process, Signal::TERM);
    let (status, said) = process.wait(LIMIT);
    let taken = started.elapsed();
    assert!(taken < within + MARGIN, "it took {taken:?}: {said}");
    (status.code(), said)
}

/// A worker with one task that takes so long.
fn busy(server: &Server, client: &mut Client, millis: u64, words: &[&str]) -> Running {
    let job = ["--job", "busy", "--json", "--task", "slowly", "@pooled"];
    let _ = server.submit(&job, &format!("[1, {millis}]\n")).well();
    let worker = server.work(&[&["--jobs", "1", "--ack-wait", "1s"], words].concat());
    eventually(LIMIT, "a task with a worker", || client.pending() == 1);
    worker
}

const KEPT: &str = "1 task could be neither finished nor given back";

#[test]
fn a_worker_is_gone_in_time_while_the_server_is_away() {
    let Some(mut server) = Server::start("") else { return };
    let mut worker = busy(&server, &mut Client::to(&server), 20_000, &["--grace", "2s"]);
    server.kill();
    let (code, said) = stop(&mut worker, Duration::from_secs(2));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("0 tasks done") && said.contains(KEPT), "{said}");
    // Nothing is lost by it.
    assert!(server.start_again(), "it starts again");
    let mut client = Client::to(&server);
    let first = client.delivered();
    let _second = server.work(&["--jobs", "1"]);
    eventually(LIMIT, "the task with another worker", || client.delivered() > first);
}

#[test]
fn a_worker_that_has_nothing_does_not_wait_for_the_server() {
    let Some(mut server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let mut worker = server.work(&["--grace", "1h"]);
    eventually(LIMIT, "a request for tasks", || client.requests() > 0);
    server.kill();
    let (code, said) = stop(&mut worker, Duration::ZERO);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_worker_is_gone_in_time_though_the_server_is_frozen() {
    let Some(server) = Server::start("") else { return };
    let mut worker = busy(&server, &mut Client::to(&server), 100_000, &["--grace", "3s"]);
    server.signal(Signal::STOP);
    let (code, said) = stop(&mut worker, Duration::from_secs(3));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(KEPT), "{said}");
}

#[test]
fn a_server_that_comes_back_gets_what_a_worker_had() {
    let Some(mut server) = Server::start("") else { return };
    let mut worker = busy(&server, &mut Client::to(&server), 3000, &["--grace", "1h"]);
    server.kill();
    signal(&worker, Signal::TERM);
    assert!(server.start_again(), "it starts again");
    let (status, said) = worker.wait(LIMIT);
    // It is given back if the pool was not there yet.
    assert!(status.success() && (said.contains("1 tasks done") || said.contains("1 given back")), "{said}");
    let _second = server.work(&["--jobs", "1"]);
    assert_eq!(server.collect(&["busy"]).well(), "2\n");
}

#[test]
fn workers_that_end_together_give_back_all_that_they_had() {
    let Some(server) = Server::start("") else { return };
    let job = ["--job", "busy", "--json", "--task", "slowly", "@pooled"];
    // Each has room for one more than it gets.
    let _ = server.submit(&job, &"[1, 1000000]\n".repeat(6)).well();
    let mut client = Client::to(&server);
    let words = ["--jobs", "2", "--in-flight", "3", "--ack-wait", "1h", "--grace", "2s"];
    let mut workers: Vec<Running> = (0..4).map(|_| server.work(&words)).collect();
    eventually(LIMIT, "all tasks with workers, of which some wait for more", || {
        client.pending() == 6 && client.requests() > 0
    });
    workers.iter().for_each(|worker| signal(worker, Signal::TERM));
    let said: Vec<String> = workers
        .iter_mut()
        .map(|worker| worker.wait(LIMIT))
        .map(|(status, said)| {
            assert!(status.success(), "{said}");
            said
        })
        .collect();
    let returned: u64 = said.iter().map(|said| count(said, " given back")).sum();
    assert!(returned >= 6, "{said:?}");
    // For somebody else, long before the ack wait is over.
    Client::to(&server).take_tasks(6);
}

/// The number before these words, if they are there.
fn count(said: &str, words: &str) -> u64 {
    let before = said.split_once(words).map_or("0", |(before, _)| before);
    before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A gateway by this script.
fn machine(server: &Server, name: &str, lines: &str) -> String {
    let path = server.file(name);
    std::fs::write(&path, format!("{lines}\n")).unwrap();
    format!("exec=/bin/sh {}//id={name}", path.display().to_string().replace('/', "\\/"))
}

#[test]
fn a_worker_that_cannot_go_on_gives_back_what_it_had() {
    let Some(server) = Server::start("") else { return };
    let job = ["--job", "three", "--json", "--task", "double", "@pooled"];
    let _ = server.submit(&job, "1\n2\n3\n").well();
    // There when it is looked at, and then not any more.
    let (agent, tried) = (sandgate_tests::worker().display().to_string(), server.file("tried"));
    let lines = format!("test -e '{0}' && exit 3; echo > '{0}'; exec '{agent}' agent", tried.display());
    let gateway = machine(&server, "fickle", &lines);
    // Where tasks lie when they are given back is a matter of chance.
    for _ in 0..3 {
        let _ = std::fs::remove_file(&tried);
        let mut worker = server.work(&["--gateway", &gateway, "--ack-wait", "1h", "--in-flight", "4"]);
        let (status, said) = worker.wait(LIMIT);
        assert_eq!(status.code(), Some(3), "{said}");
        assert!(said.contains("0 tasks done, 3 given back") && !said.contains("neither"), "{said}");
        assert!(said.contains("of gateway `fickle` was not reached"), "{said}");
        let mut client = Client::to(&server);
        client.take_and_return(3);
    }
}

#[test]
fn a_worker_without_any_machine_takes_nothing() {
    let Some(server) = Server::start("") else { return };
    let _ = server.submit(&["--job", "one", "@wasi_filter"], "a\n").well();
    let (left, right) = (machine(&server, "left", "exit 3"), machine(&server, "right", "echo no >&2; exit 4"));
    let mut worker = server.work(&["--gateway", &left, "--gateway", &right]);
    let (status, said) = worker.wait(LIMIT);
    assert_eq!(status.code(), Some(3), "{said}");
    for expected in
        ["`left` was not reached: launcher exited with code 3", "`right` was not reached", "none of 2 machines"]
    {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains("working"), "{said}");
    assert_eq!(Client::to(&server).delivered(), 0);
}

#[test]
fn a_worker_says_which_machine_is_missing_and_goes_on() {
    let Some(server) = Server::start("") else { return };
    let _ = server.submit(&["--job", "one", "@wasi_filter"], "a\n").well();
    let missing = machine(&server, "missing", "exit 3");
    let worker = server.work(&["--gateway", &missing, "--gateway", "popen"]);
    eventually(LIMIT, "a word about the missing machine", || {
        worker.complaint(LIMIT).contains("`missing` was not reached: launcher exited with code 3; it is tried again")
    });
    assert_eq!(server.collect(&["one"]).well(), "A\n");
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let Some(server) = Server::start("") else { return };
    let mut worker = busy(&server, &mut Client::to(&server), 100_000, &["--grace", "1h"]);
    // Two of one kind might become one.
    signal(&worker, Signal::INT);
    let (code, said) = stop(&mut worker, Duration::ZERO);
    assert!(matches!(code, Some(130 | 143)), "{code:?}: {said}");
}

#[test]
fn a_worker_that_has_not_found_a_server_has_nothing_to_give_back() {
    let mut worker = begin(&["work", "--nats", "nats://127.0.0.1:1"]);
    eventually(LIMIT, "a worker that listens to signals", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
        u64::from_str_radix(caught, 16).unwrap() >> (15 - 1) & 1 == 1
    });
    let (code, said) = stop(&mut worker, Duration::ZERO);
    assert!(matches!(code, Some(0 | 143)), "{code:?}: {said}");
}

#[test]
fn submitting_and_collecting_end_at_once_while_the_server_is_away() {
    let Some(mut server) = Server::start("") else { return };
    let url = server.url();
    let mut submit = begin(&["submit", "--nats", &url, "--job", "open", "@wasi_filter"]);
    submit.write(lines(10, |number| number.to_string()).as_bytes());
    let mut client = Client::to(&server);
    eventually(LIMIT, "10 tasks", || client.messages("sandgate_tasks") == 10);
    let mut collect = begin(&["collect", "--nats", &url, "open"]);
    let _worker = server.work(&["--jobs", "1"]);
    assert_eq!(collect.line(LIMIT), "1");
    server.kill();
    let (code, said) = stop(&mut submit, Duration::ZERO);
    assert_eq!(code, Some(143), "{said}");
    assert!(
        said.contains("interrupted: job `open` is incomplete; go on with `--job open` and the same inputs"),
        "{said}"
    );
    let (code, said) = stop(&mut collect, Duration::ZERO);
    assert_eq!(code, Some(143), "{said}");
}
