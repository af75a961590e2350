//! Commands that somebody ends: by a signal, or by not reading any more. Nothing is left of them.

use std::time::Instant;

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, children_of, eventually, guest, start, worker};

use crate::{LIMIT, begin, lines, sandgate};

/// The worker processes of a command, once it has some.
fn workers(running: &Running) -> Vec<Watched> {
    let mut found = Vec::new();
    eventually(LIMIT, "workers", || {
        found = children_of(running.pid()).iter().filter_map(|child| Watched::find(child.pid)).collect();
        !found.is_empty()
    });
    found
}

fn signal(running: &Running, signal: Signal) {
    Watched::new(running.pid()).signal(signal);
}

/// Waits for its end and that of its workers, and gives back its exit code and what it told.
fn ended(mut running: Running, workers: &[Watched]) -> (Option<i32>, String) {
    let (status, stderr) = running.wait(LIMIT);
    workers.iter().for_each(|worker| worker.wait(LIMIT));
    (status.code(), stderr)
}

#[test]
fn ctrl_c_ends_a_program_that_does_not_end() {
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = begin(&["run", "@spin"]);
        running.close_stdin();
        let workers = workers(&running);
        signal(&running, sent);
        assert_eq!(ended(running, &workers), (Some(code), String::new()));
    }
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    let command = format!("trap '' HUP; exec {} run {}", worker().display(), guest("wasi_filter").display());
    let cache = sandgate_tests::cache_dir().into_os_string();
    let mut running = start("/bin/sh", &["-c", &command], &[(sandgate::CACHE_VARIABLE, &cache)]);
    // Its worker is there, so it listens to signals.
    let workers = workers(&running);
    signal(&running, Signal::HUP);
    running.send(b"abc\n".to_vec());
    assert_eq!(running.line(LIMIT), "ABC");
    let (status, _) = running.wait(LIMIT);
    assert_eq!(status.code(), Some(0));
    workers.iter().for_each(|worker| worker.wait(LIMIT));
}

#[test]
fn ctrl_c_prints_what_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal").to_str().unwrap().to_owned();
    let words = ["map", "--json", "--task", "slowly", "--jobs", "2", "--journal", &journal, "--resume", "@pooled"];
    let input = lines(1000, |number| if number < 10 { format!("[{number}, 0]") } else { format!("[{number}, 60000]") });
    let mut running = begin(&words);
    running.send(input.into_bytes());
    for number in 1..10 {
        assert_eq!(running.line(LIMIT), (number * 2).to_string());
    }
    let workers = workers(&running);
    let start = Instant::now();
    signal(&running, Signal::INT);
    assert_eq!(running.line(LIMIT), "");
    let (code, stderr) = {
        let mut running = running;
        let (status, stderr) = running.wait(LIMIT);
        (status.code(), stderr)
    };
    assert!(start.elapsed() < LIMIT / 4, "it is prompt");
    assert_eq!((code, &*stderr), (Some(130), "sandgate: interrupted after 9 results; go on with `--resume`\n"));
    workers.iter().for_each(|worker| worker.wait(LIMIT));
}

#[test]
fn the_first_failure_ends_a_run_though_what_is_before_it_goes_on() {
    let words = ["map", "--json", "--task", "hostile", "--timeout", "off", "--jobs", "2", "--fail-fast", "@pooled"];
    let came = sandgate(&words, b"\"Loop\"\n\"Fail\"\n");
    assert_eq!((came.code, &*came.stdout), (Some(1), ""), "{came:?}");
    assert!(came.stderr.ends_with("sandgate: 1 of 1 inputs failed, and the rest was left out\n"), "{came:?}");
}

#[test]
fn ctrl_c_ends_a_map_that_waits_for_its_input() {
    let mut running = begin(&["map", "@wasi_filter"]);
    running.write(b"a\n");
    assert_eq!(running.line(LIMIT), "A", "a result does not wait for the next input");
    running.write(b"b\nc\n");
    assert_eq!((running.line(LIMIT), running.line(LIMIT)), ("B".to_owned(), "C".to_owned()));
    let workers = workers(&running);
    signal(&running, Signal::INT);
    eventually(LIMIT, "the end", || Watched::find(running.pid()).is_none_or(|it| it.is_gone()));
    assert_eq!(ended(running, &workers), (Some(130), "sandgate: interrupted after 3 results\n".to_owned()));
}

#[test]
fn a_pipe_that_nobody_reads_is_success() {
    let mut running = begin(&["map", "@wasi_filter"]);
    running.send(b"x\n".repeat(1_000_000));
    assert_eq!(running.line(LIMIT), "X");
    let found = workers(&running);
    running.close_stdout();
    assert_eq!(ended(running, &found), (Some(0), String::new()));

    // Nothing is there to be printed, and nobody to read it.
    let mut running = begin(&["map", "--json", "--task", "slowly", "--timeout", "off", "@pooled"]);
    running.send(b"[1, 0]\n[2, 600000]\n".to_vec());
    assert_eq!(running.line(LIMIT), "2");
    let found = workers(&running);
    running.close_stdout();
    assert_eq!(ended(running, &found), (Some(0), String::new()));

    let mut running = begin(&["run", "@wasi_filter", "--", "flood"]);
    running.close_stdin();
    let found = workers(&running);
    running.close_stdout();
    assert_eq!(ended(running, &found).0, Some(0));
}

#[test]
fn a_program_prints_as_it_goes() {
    let mut running = begin(&["run", guest("prints_slowly").to_str().unwrap()]);
    running.close_stdin();
    assert_eq!(running.line(LIMIT), "now");
    let workers = workers(&running);
    signal(&running, Signal::INT);
    assert_eq!(ended(running, &workers).0, Some(130));
}
