//! Several kinds of jobs with one worker: they share what it has, and none of them waits for ever.

use sandgate_tests::{children_of, eventually, lines};
use serde_json::Value;

use crate::client::Client;
use crate::commands::LIMIT;
use crate::server::Server;

/// A worker has pools for four kinds of jobs at once. What waits for a fifth has not been tried.
#[test]
fn a_task_that_has_to_wait_for_a_pool_is_not_given_up() {
    let Some(server) = Server::start("") else { return };
    for (job, timeout) in [("j1", "51s"), ("j2", "52s"), ("j3", "53s"), ("j4", "54s"), ("j5", "55s")] {
        let words = ["--job", job, "--json", "--task", "slowly", "--timeout", timeout, "@pooled"];
        let input = if job == "j5" { "[5, 1]\n" } else { "[1, 3000]\n" };
        let _ = server.submit(&words, input).well();
    }
    let _worker = server.work(&["--jobs", "1", "--in-flight", "8", "--max-deliveries", "1"]);
    assert_eq!(server.collect(&["j5"]).well(), "10\n");
}

/// Submits tasks of a kind of their own, which say when they ran.
fn submit(server: &Server, kind: usize, round: u64, tasks: u64, millis: u64) {
    let (job, timeout) = (format!("k{kind}-{round}"), format!("{}s", 50 + kind));
    let words = ["--job", &job, "--json", "--task", "span", "--timeout", &timeout, "@pooled"];
    let _ = server.submit(&words, &lines(tasks, |_| millis.to_string())).well();
}

/// When each task of a submission began and ended.
fn spans(server: &Server, kind: usize, round: u64) -> Vec<(u64, u64)> {
    let rows = server.collect(&[&format!("k{kind}-{round}")]).well();
    let row = |row: &str| {
        let value: Value = serde_json::from_str(row).unwrap();
        (value[0].as_u64().unwrap(), value[1].as_u64().unwrap())
    };
    rows.lines().map(row).collect()
}

/// The most of them at one moment.
fn most_at_once(spans: &[(u64, u64)]) -> i32 {
    // At the same moment, ends come first.
    let mut events: Vec<(u64, i32)> = spans.iter().flat_map(|&(began, ended)| [(began, 1), (ended, -1)]).collect();
    events.sort_unstable();
    let running = events.iter().scan(0, |running, (_, change)| {
        *running += change;
        Some(*running)
    });
    running.max().unwrap_or(0)
}

#[test]
fn no_more_tasks_run_at_once_than_there_are_jobs_for() {
    let Some(server) = Server::start("") else { return };
    // Tasks come in the order of their submissions: a worker that has a few of them has several kinds.
    for round in 0..3 {
        (0..4).for_each(|kind| submit(&server, kind, round, 3, 40));
    }
    let worker = server.work(&["--jobs", "2"]);
    let mut processes = 0;
    let mut client = Client::to(&server);
    eventually(LIMIT, "all results", || {
        processes = processes.max(children_of(worker.pid()).len());
        client.messages("sandgate_results") == 36
    });
    let submissions = (0..3).flat_map(|round| (0..4).map(move |kind| (kind, round)));
    let all: Vec<(u64, u64)> = submissions.flat_map(|(kind, round)| spans(&server, kind, round)).collect();
    assert_eq!(most_at_once(&all), 2);
    // Four pools of two and a spare one each, and compilers.
    assert!(processes <= 4 * 3 + 2, "{processes} processes");
}

#[test]
fn a_kind_that_is_alone_has_all_of_the_worker() {
    let Some(server) = Server::start("") else { return };
    submit(&server, 0, 0, 40, 50);
    let _worker = server.work(&["--jobs", "3"]);
    assert_eq!(most_at_once(&spans(&server, 0, 0)), 3);
}

/// Also while each of the others has more to do.
#[test]
fn a_fifth_kind_gets_the_place_of_one_that_had_its_time() {
    let Some(server) = Server::start("") else { return };
    let long = 3000;
    (0..4).for_each(|kind| submit(&server, kind, 0, 1, long));
    submit(&server, 4, 0, 1, 1);
    (0..3).for_each(|kind| submit(&server, kind, 1, 1, long));
    // With four gateways, these are all of a worker's tasks at first.
    let _worker = server.work(&["--jobs", "4"]);
    let fifth = spans(&server, 4, 0)[0];
    let last = (0..3).map(|kind| spans(&server, kind, 1)[0].1).max().unwrap();
    let after = std::time::Duration::from_nanos(last.saturating_sub(fifth.1));
    assert!(after > std::time::Duration::from_millis(long / 2), "only {after:?} after it");
}
