//! Workers that die, freeze, stop and take long; servers that are restarted; tasks that nobody survives.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, children_of, comes_true, eventually};
use serde_json::Value;

use crate::client::Client;
use crate::commands::{LIMIT, lines};
use crate::server::Server;

/// Tasks that take so many milliseconds each and double their number.
fn slow(last: u64, millis: u64) -> (String, String) {
    (lines(last, |number| format!("[{number}, {millis}]")), lines(last, |number| (number * 2).to_string()))
}

fn submit_slow(server: &Server, job: &str, input: &str) {
    let _ = server.submit(&["--job", job, "--json", "--task", "slowly", "@pooled"], input).well();
}

fn signal(process: &Running, signal: Signal) {
    Watched::new(process.pid()).signal(signal);
}

#[test]
fn a_worker_that_is_killed_loses_nothing() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let (input, expected) = slow(60, 30);
    submit_slow(&server, "killed", &input);
    let mut first = server.work(&["--jobs", "2", "--ack-wait", "2s"]);
    eventually(LIMIT, "some results", || client.messages("sandgate_results") >= 10);
    assert!(client.pending() > 0, "it has some");
    first.kill();
    let _second = server.work(&["--jobs", "2"]);
    assert_eq!(server.collect(&["killed"]).well(), expected);
    eventually(LIMIT, "no task that is left", || client.messages("sandgate_tasks") == 0);
    assert_eq!(client.messages("sandgate_results"), 60, "within its window, the server has one result for each");
}

#[test]
fn a_worker_that_is_frozen_keeps_nothing_and_its_late_results_change_nothing() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let (input, expected) = slow(40, 50);
    submit_slow(&server, "frozen", &input);
    let first = server.work(&["--jobs", "2", "--ack-wait", "1s"]);
    eventually(LIMIT, "some results", || client.messages("sandgate_results") >= 4);
    signal(&first, Signal::STOP);
    let _second = server.work(&["--jobs", "2"]);
    assert_eq!(server.collect(&["frozen"]).well(), expected);
    signal(&first, Signal::CONT);
    signal(&first, Signal::TERM);
    let (status, said) = { first }.wait(LIMIT);
    assert!(status.success(), "{said}");
    assert_eq!(server.collect(&["frozen"]).well(), expected);
}

#[test]
fn a_server_may_be_restarted() {
    let Some(mut server) = Server::start("") else { return };
    let (input, expected) = slow(80, 40);
    submit_slow(&server, "restarts", &input);
    let mut worker = server.work(&["--jobs", "2", "--ack-wait", "3s"]);
    let url = server.url();
    let mut collect = crate::commands::begin(&["collect", "--nats", &url, "restarts"]);
    let mut seen = String::new();
    for (at, expected) in expected.lines().enumerate() {
        if at == 15 || at == 40 {
            server.kill();
            assert!(server.start_again(), "it starts again");
        }
        let line = collect.line(LIMIT);
        assert_eq!(line, expected, "result {at}");
        seen += &line;
    }
    let (status, said) = collect.wait(LIMIT);
    assert!(status.success() && said.contains("connection to NATS is there again"), "{said}");
    signal(&worker, Signal::TERM);
    let (status, said) = worker.wait(LIMIT);
    assert!(status.success() && said.contains("connection to NATS is lost"), "{said}");
}

#[test]
fn a_task_that_kills_its_workers_is_a_dead_letter_and_a_failure() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    submit_slow(&server, "poison", "[1, 100000]\n");
    let worker = server.work(&["--jobs", "1"]);
    let poisoned = comes_true(LIMIT, || {
        // What the task would do to its worker, from outside.
        children_of(worker.pid())
            .iter()
            .filter_map(|child| Watched::find(child.pid))
            .for_each(|it| it.signal(Signal::KILL));
        std::thread::park_timeout(Duration::from_millis(100));
        client.messages("sandgate_dead") == 1
    });
    assert!(poisoned, "no dead letter");
    let came = server.collect(&["--output", "json", "poison"]);
    let row: Value = serde_json::from_str(came.stdout.trim()).unwrap();
    assert_eq!((came.code, row["outcome"].as_str()), (Some(1), Some("worker lost")), "{row}");
    let headers = client.first_headers("sandgate_dead");
    assert!(headers.contains("Sandgate-Reason: ") && headers.contains("Nats-Msg-Id: poison."), "{headers}");
    submit_slow(&server, "after", "[2, 1]\n");
    assert_eq!(server.collect(&["after"]).well(), "4\n");
}

#[test]
fn a_task_that_was_given_out_too_often_is_given_up() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    submit_slow(&server, "often", "[1, 100000]\n");
    let mut first = server.work(&["--jobs", "1", "--ack-wait", "1s"]);
    eventually(LIMIT, "a task with a worker", || client.pending() == 1);
    first.kill();
    let _second = server.work(&["--jobs", "1", "--max-deliveries", "1"]);
    let came = server.collect(&["often"]);
    assert_eq!((came.code, came.stdout.as_str()), (Some(1), ""));
    assert!(came.stderr.contains("input 0: it was given to workers 1 times"), "{came:?}");
    assert_eq!((client.messages("sandgate_dead"), client.messages("sandgate_tasks")), (1, 0));
}

#[test]
fn a_long_task_is_kept_alive_and_runs_once() {
    let Some(server) = Server::start("") else { return };
    submit_slow(&server, "long", "[21, 6000]\n");
    let workers = ["--jobs", "1", "--ack-wait", "1s", "--stop-when-idle", "3s"];
    let workers = [server.work(&workers), server.work(&workers)];
    assert_eq!(server.collect(&["long"]).well(), "42\n");
    let mut said: Vec<String> = workers.map(|mut worker| worker.wait(LIMIT).1).to_vec();
    said.sort();
    assert!(said[0].contains("0 tasks done") && said[1].contains("1 tasks done"), "{said:?}");
}

#[test]
fn no_more_is_under_way_than_fits() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let (input, expected) = slow(120, 20);
    submit_slow(&server, "pressure", &input);
    let _worker = server.work(&["--jobs", "2", "--in-flight", "5"]);
    let (mut most, mut before) = (0, 0);
    eventually(LIMIT, "all results", || {
        // The server may count a task for a moment that is acknowledged already, and the next one. What a worker has too many of
        // would be there for the 20 ms that each takes, and so in the next look as well.
        let now = client.pending();
        most = most.max(before.min(now));
        before = now;
        client.messages("sandgate_results") == 120
    });
    assert!((3..=5).contains(&most), "{most} tasks were under way");
    assert_eq!(server.collect(&["pressure"]).well(), expected);
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_runs_and_gives_the_rest_back() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let (input, expected) = slow(20, 400);
    submit_slow(&server, "drain", &input);
    // With this wait, what is not given back would come too late for this test.
    let mut first = server.work(&["--jobs", "2", "--in-flight", "4", "--ack-wait", "1h"]);
    eventually(LIMIT, "a result", || client.messages("sandgate_results") >= 2);
    signal(&first, Signal::TERM);
    let (status, said) = first.wait(LIMIT);
    assert!(status.success() && said.contains("stopping"), "{said}");
    let done = client.messages("sandgate_results");
    assert_eq!(client.messages("sandgate_tasks"), 20 - done, "what is not done is still there");
    // One whose grace is over gives back what runs.
    submit_slow(&server, "endless", "[1, 100000]\n");
    let mut second = server.work(&["--jobs", "2", "--grace", "500ms"]);
    let started = Instant::now();
    assert_eq!(server.collect(&["drain"]).well(), expected);
    eventually(LIMIT, "the endless task alone", || client.pending() == 1 && client.messages("sandgate_tasks") == 1);
    signal(&second, Signal::TERM);
    let (status, said) = second.wait(LIMIT);
    assert!(status.success() && said.contains("1 given back"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(3600));
}
