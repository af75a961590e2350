//! A run that is cut short at any point goes on with its journal: its output then is the expected one, to the byte.
//!
//! `SANDGATE_JOURNAL_CUTS` says at how many points, and `SANDGATE_JOURNAL_SEED` at which.

use std::fs;
use std::path::Path;

use sandgate_tests::{Watched, children_of, eventually};

use crate::{LIMIT, begin, lines, sandgate};

const TASKS: u64 = 300;

/// At how many points journals are cut, and runs killed.
fn cuts() -> u64 {
    setting("SANDGATE_JOURNAL_CUTS", 20)
}

fn setting(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("`{variable}` is `{text}`, which is no number")))
}

/// Dice, of which is told how to throw them again.
fn dice(seed: u64) -> Dice {
    let seed = setting("SANDGATE_JOURNAL_SEED", seed);
    #[expect(clippy::print_stderr, reason = "shown when the test fails")]
    {
        eprintln!("SANDGATE_JOURNAL_SEED={seed} SANDGATE_JOURNAL_CUTS={}", cuts());
    }
    Dice(seed)
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % (most + 1)
    }
}

fn input() -> String {
    lines(TASKS, |number| if number % 50 == 7 { "\"Fail\"".to_owned() } else { format!("{{\"Double\": {number}}}") })
}

fn expected() -> String {
    (1..=TASKS).filter(|number| number % 50 != 7).map(|number| format!("{}\n", number * 2)).collect()
}

fn words(journal: &str) -> Vec<&str> {
    vec!["map", "--json", "--task", "hostile", "--jobs", "2", "--journal", journal, "--resume", "@pooled"]
}

fn assert_complete(journal: &str) {
    let came = sandgate(&words(journal), input().as_bytes());
    assert_eq!((came.code, came.stdout), (Some(1), expected()), "{}", came.stderr);
    let failures = came.stderr.lines().filter(|line| line.ends_with(": task failed: as told")).count();
    assert_eq!(failures, 6, "{}", came.stderr);
    assert!(came.stderr.ends_with("sandgate: 6 of 300 inputs failed\n"), "{}", came.stderr);
}

#[test]
fn a_journal_that_is_cut_anywhere_is_gone_on_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = path.to_str().unwrap();
    assert_complete(journal);
    let whole = fs::read(&path).unwrap();
    let mut dice = dice(7);
    for _ in 0..cuts() {
        let cut = dice.up_to(whole.len() as u64 - 1);
        fs::write(&path, &whole[..usize::try_from(cut).unwrap()]).unwrap();
        assert_complete(journal);
        assert_eq!(fs::metadata(&path).unwrap().len(), whole.len() as u64, "each result is there once, cut at {cut}");
    }
}

#[test]
fn a_run_that_is_killed_at_any_moment_is_gone_on_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = path.to_str().unwrap();
    let size = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    assert_complete(journal);
    let whole = size(&path);
    let mut dice = dice(11);
    let mut kills = 0;
    while kills < cuts() {
        fs::remove_file(&path).unwrap();
        // Killed again and again, until the end comes first.
        loop {
            let until = size(&path) + dice.up_to(whole / 2);
            if until >= whole {
                break;
            }
            let mut running = begin(&words(journal));
            running.send(input().into_bytes());
            eventually(LIMIT, "results in the journal", || size(&path) >= until);
            let workers: Vec<Watched> =
                children_of(running.pid()).iter().filter_map(|child| Watched::find(child.pid)).collect();
            running.kill();
            drop(running);
            kills += 1;
            workers.iter().for_each(|worker| worker.wait(LIMIT));
        }
        assert_complete(journal);
        assert_eq!(size(&path), whole, "each result is there once");
    }
}

#[test]
fn a_journal_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = path.to_str().unwrap();
    let run = |words: &[&str], input: &[u8]| {
        let came = sandgate(&[&["map", "--journal", journal], words].concat(), input);
        (came.code.unwrap(), came.stdout, came.stderr)
    };
    assert_eq!(run(&["@wasi_filter"], b"a\nb\n").0, 0);
    let (code, stdout, stderr) = run(&["--resume", "@wasi_filter"], b"a\nb\nc\n");
    assert_eq!((code, &*stdout), (0, "A\nB\nC\n"));
    assert_eq!(stderr, format!("sandgate: journal `{journal}` has 2 results already\n"));
    let (code, stdout, stderr) = run(&["--resume", "@wasi_filter"], b"a\nx\n");
    assert_eq!(code, 3, "{stdout}{stderr}");
    assert!(stderr.contains("input 1 is not the one that journal"), "{stderr}");
    let (code, _, stderr) = run(&["--resume", "@typed", "--task", "number"], b"a\n");
    assert!(code == 3 && stderr.contains("is of another module"), "{stderr}");
    let (code, _, stderr) = run(&["--resume", "@wasi_filter", "--arg", "x"], b"a\n");
    assert!(code == 3 && stderr.contains("is of a run with other settings"), "{stderr}");
    let (code, _, stderr) = run(&["@wasi_filter"], b"a\n");
    assert!(code == 3 && stderr.contains("exists already"), "{stderr}");
}
