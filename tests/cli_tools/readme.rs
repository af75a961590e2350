//! The terminal session of the README, run as it stands there and compared line by line.
//!
//! What differs from run to run and from machine to machine counts as equal: numbers with a unit, hashes, the place of the
//! cache, and which layers there are around a worker. A line `…` stands for any lines.

use std::fs;
use std::path::PathBuf;

use sandgate_tests::{output, repository, worker};

use crate::new::has_target;
use crate::{Place, said, text};

const UNITS: [&str; 7] = ["µs", "ms", "s", "KiB", "MiB", "GiB", "%"];

/// A command and what follows it.
#[derive(Debug, Default)]
struct Step {
    command: String,
    printed: Vec<String>,
}

#[test]
fn the_session_of_the_readme_is_what_the_command_does() {
    let place = Place::new();
    if !has_target(&place) {
        return;
    }
    let steps = session();
    for subcommand in ["new", "check", "run", "map", "cache", "doctor", "completions", "man"] {
        let part = format!("sandgate {subcommand} ");
        assert!(steps.iter().any(|step| step.command.contains(&part)), "the README has no session of `{subcommand}`");
    }
    let mut directory = place.path(".");
    for step in steps {
        let printed = run(&place, &mut directory, &step.command);
        let lines: Vec<String> = printed.lines().map(normal).collect();
        let expected: Vec<String> = step.printed.iter().map(|line| normal(line)).collect();
        let is_as_told = is_alike(&expected, &lines);
        assert!(is_as_told, "$ {}\nREADME.md:\n{}\nin truth:\n{printed}", step.command, step.printed.join("\n"));
    }
}

/// The commands of the README that show the command.
fn session() -> Vec<Step> {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let (_, section) = readme.split_once("\n## The command\n").expect("a section about the command");
    let (section, _) = section.split_once("\n## ").expect("a section behind it");
    let mut steps: Vec<Step> = Vec::new();
    let (_, block) = section.split_once("```console\n").expect("a session");
    let (block, _) = block.split_once("```").expect("its end");
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
            (None, Some(step)) => step.printed.push(line.to_owned()),
            (None, None) => panic!("`{line}` follows no command"),
        }
    }
    steps
}

/// Runs a line in a shell, as in a terminal: standard error is printed too, and a change of directory lasts.
fn run(place: &Place, directory: &mut PathBuf, command: &str) -> String {
    let shell = r#"PATH="$0:$PATH"; export PATH SANDGATE_CACHE="$1"; unset CARGO_TARGET_DIR; cd "$2"; eval "$4" 2>&1; pwd > "$3""#;
    let (bin, place_of_cache, note) = (worker().parent().expect("a directory"), place.path("cache"), place.path("pwd"));
    let arguments = ["-c", shell, text(bin), text(&place_of_cache), text(directory), text(&note), command];
    let ran = said(output("sh", &arguments, &place.path(".")));
    *directory = fs::read_to_string(&note).expect("where it is now").trim_end().into();
    prepare(place);
    ran.stdout
}

/// Spares cargo the network, and the compilation of what other tests have compiled.
fn prepare(place: &Place) {
    let project = place.path("hello");
    if project.exists() && !project.join("Cargo.lock").exists() {
        fs::copy(repository().join("Cargo.lock"), project.join("Cargo.lock")).expect("a copy");
        let target = repository().join("target").join("test-fixtures").join("new");
        fs::create_dir_all(&target).expect("a directory");
        std::os::unix::fs::symlink(target, project.join("target")).expect("a link");
    }
}

/// The line without what differs from run to run.
fn normal(line: &str) -> String {
    // What else a machine has around its workers is its own; that the policy holds has to be so on each.
    if line.starts_with("The policy holds") {
        return "The policy holds".to_owned();
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_unit = |at: usize| words.get(at).is_some_and(|word| UNITS.contains(&word.trim_end_matches([',', ':', ';'])));
    let word = |(at, word): (usize, &&str)| {
        let bare = word.trim_end_matches([',', ':', ';']);
        let is_number = bare.trim_end_matches("/s").parse::<f64>().is_ok();
        if at > 0 && is_unit(at) && words[at - 1].parse::<f64>().is_ok() {
            return word.replace(bare, "of it");
        }
        if is_number && (is_unit(at + 1) || bare.ends_with("/s") || at > 0 && words[at - 1] == "speed-up") {
            return word.replace(bare, "#");
        }
        if bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return "#".to_owned();
        }
        match word.split_once("\"milliseconds\":") {
            Some((before, after)) => {
                let after = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
                format!("{before}\"milliseconds\":#{after}")
            }
            None if word.starts_with("`/") && word.ends_with("/cache`") => "`#/cache`".to_owned(),
            None => (*word).to_owned(),
        }
    };
    words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
}

/// Whether lines are those expected, of which `…` may be any number.
fn is_alike(expected: &[String], lines: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "…" => (0..=lines.len()).any(|skipped| is_alike(rest, &lines[skipped..])),
        Some((first, rest)) => lines.split_first().is_some_and(|(line, lines)| first == line && is_alike(rest, lines)),
    }
}

#[test]
fn lines_are_compared_but_for_what_no_two_runs_have_in_common() {
    let check = |a: &str, b: &str, alike| {
        let lines = |text: &str| text.lines().map(normal).collect::<Vec<_>>();
        assert_eq!(is_alike(&lines(a), &lines(b)), alike, "{a} / {b}");
    };
    check("2 tasks in 84.5 ms: 2 done", "2 tasks in 9 ms: 2 done", true);
    check("2 tasks in 84.5 ms: 2 done", "2 tasks in 1.2 s: 2 done", true);
    check("2 tasks in 84.5 ms: 2 done", "3 tasks in 9 ms: 2 done", false);
    check("1 2 8", "1 2 9", false);
    let all = "The policy holds: every layer is in force and passed its self-test.";
    check(all, "The policy holds, without what this machine does not have: landlock, user.", true);
    check(all, "The policy does not hold.", false);
    check("a\n…\nd", "a\nb\nc\nd", true);
    check("a\n…\nd", "a\nb\nc", false);
    check("a", "a\nb", false);
}
