//! What a run shows of itself: summary, report, trace, metrics.

use std::fs;

use serde_json::Value;

use crate::{lines, sandgate};

/// Sixty inputs, of which one panics and one fails.
fn inputs() -> Vec<u8> {
    let input = |number: u64| match number {
        20 => "\"Panic\"".to_owned(),
        40 => "\"Fail\"".to_owned(),
        _ => format!("{{\"Double\": {number}}}"),
    };
    lines(60, input).into_bytes()
}

const WORDS: [&str; 5] = ["map", "--json", "--task", "hostile", "@pooled"];

#[test]
fn a_run_can_be_looked_at_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (report, trace, metrics) = (path("report.html"), path("trace.json"), path("metrics"));
    let files = ["--summary", "--report", &report, "--trace", &trace, "--metrics", &metrics];
    let came = sandgate(&[&WORDS[..], &files].concat(), &inputs());
    assert_eq!(came.code, Some(1), "{}", came.stderr);
    assert_eq!(came.stdout.lines().count(), 58);
    for part in ["60 tasks in ", ": 58 done, 2 failed", "  task time: p50 ", "as in input 19", "as in input 39"] {
        assert!(came.stderr.contains(part), "`{part}` is not in: {}", came.stderr);
    }
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("id=\"n-done\">58<") && page.contains("id=\"n-failed\" class=\"bad\">2<"));
    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    let runs: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert_eq!(runs.len(), 60);
    let panicked = runs.iter().find(|run| run["args"]["outcome"] == "panicked").unwrap();
    assert_eq!(panicked["name"], "input 19");
    let metrics = fs::read_to_string(&metrics).unwrap();
    for line in [
        "sandgate_tasks_total{outcome=\"returned\"} 58",
        "sandgate_tasks_total{outcome=\"panicked\"} 1",
        "sandgate_task_seconds_count 60",
        "sandgate_events_dropped_total 0",
    ] {
        assert!(metrics.lines().any(|other| other == line), "`{line}` is not in: {metrics}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_runs() {
    for option in ["--report", "--trace", "--metrics"] {
        let came = sandgate(&[&WORDS[..], &[option, "missing/directory/file"]].concat(), &inputs());
        assert_eq!((came.code, came.stdout.as_str()), (Some(3), ""), "{}", came.stderr);
        assert!(came.stderr.contains("`missing/directory/file` cannot be written: "), "{}", came.stderr);
    }
}

#[test]
fn a_quiet_run_says_nothing_of_itself() {
    let came =
        sandgate(&[&WORDS[..], &["--summary", "--quiet", "--progress", "always"]].concat(), b"{\"Double\": 4}\n");
    assert_eq!((came.code, came.stdout.as_str(), came.stderr.as_str()), (Some(0), "8\n", ""));
}
