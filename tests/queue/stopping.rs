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
