//! What a run shows of itself: summary, report, trace, metrics; and that each input is counted once in all of them.

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
fn what_a_guest_prints_bears_the_name_of_its_input() {
    let came = sandgate(&[&WORDS[..], &["--quiet"]].concat(), &inputs());
    let lines: Vec<&str> = came.stderr.lines().filter(|line| line.ends_with(" stderr] as told")).collect();
    assert_eq!(lines.len(), 1, "{}", came.stderr);
    assert!(lines[0].starts_with("[gw") && lines[0].contains(" input 19 stderr] "), "{}", came.stderr);
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

/// Runs it, and expects these numbers of inputs everywhere, and this in the summary.
#[track_caller]
fn assert_counted(words: &[&str], input: &[u8], (done, failed): (u64, u64), parts: &[&str]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (report, metrics) = (path("report.html"), path("metrics"));
    let came = sandgate(&[&["map", "--summary", "--report", &report, "--metrics", &metrics], words].concat(), input);
    assert_eq!(came.code, Some(i32::from(failed > 0)), "{}", came.stderr);
    let all = done + failed;
    assert!(came.stderr.contains(&format!(": {done} done, {failed} failed")), "{}", came.stderr);
    assert!(came.stderr.contains(&format!("{all} tasks in ")), "{}", came.stderr);
    if failed > 0 {
        assert!(came.stderr.ends_with(&format!("sandgate: {failed} of {all} inputs failed\n")), "{}", came.stderr);
    }
    for part in parts {
        assert!(came.stderr.contains(part), "`{part}` is not in: {}", came.stderr);
    }
    let page = fs::read_to_string(&report).expect("a report");
    let bad = if failed > 0 { " class=\"bad\"" } else { "" };
    for tile in [format!("\"n-tasks\">{all}<"), format!("\"n-done\">{done}<"), format!("\"n-failed\"{bad}>{failed}<")] {
        assert!(page.contains(&tile), "`{tile}` is not in the report");
    }
    let metrics = fs::read_to_string(&metrics).expect("metrics");
    for (result, count) in [("done", done), ("failed", failed)] {
        let line = format!("sandgate_inputs_total{{result=\"{result}\"}} {count}");
        assert!(metrics.lines().any(|other| other == line), "`{line}` is not in: {metrics}");
    }
}

#[test]
fn every_input_is_counted_once_whether_the_pool_got_it_or_not() {
    let json = &WORDS[1..];
    let input = b"{\"Double\": 1}\nno JSON\n\"Fail\"\n{\"Double\": 2}\n{\"Nobody\": 2}\n\xff\n";
    assert_counted(json, input, (2, 4), &["it is not JSON", "as in input 1", "task failed: as told"]);
    // The second time, the journal has all of them.
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal").display().to_string();
    let words = [&["--journal", &journal, "--resume"], json].concat();
    assert_counted(&words, input, (2, 4), &[]);
    let again = [&input[..], b"{\"Double\": 3}\n"].concat();
    assert_counted(&words, &again, (3, 4), &["  6 of them had their result in the journal"]);
}

#[test]
fn a_file_that_cannot_be_read_is_counted_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file").display().to_string();
    fs::write(&file, "abc").unwrap();
    // It is there, it can be opened, and nothing can be read at its start.
    let unreadable = "/proc/self/mem";
    let words = ["@wasi_filter", "--files", &file, unreadable];
    assert_counted(&words, b"", (1, 1), &["`/proc/self/mem`: it cannot be read: "]);
}

#[test]
fn a_result_that_is_none_is_counted_as_failed() {
    let input = ["a", &"b".repeat(5000), "c"].join("\n");
    let words = ["--max-output", "1000", "@wasi_filter"];
    assert_counted(&words, input.as_bytes(), (2, 1), &["program printed more than its limit", "as in input 1"]);
    assert_counted(&["--max-input", "100", "@wasi_filter"], input.as_bytes(), (2, 1), &["is larger than"]);
}
