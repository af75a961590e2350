//! What may stand in files, and which files may be there.

use crate::tree::{Source, assert_none, paths, sources};

const MAX_LINES: usize = 600;

/// Longer files, each with the reason why it is one file.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` is written, and for what.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("guest-sdk/src/sys.rs", "calls what the worker offers, and decides nothing"),
    ("guest-sdk/src/sys/wasm.rs", "declares the functions that the worker offers"),
    ("guest-sdk/src/sys/native.rs", "stands in for them where there is no worker"),
    ("guest-sdk/src/sys/loopback.rs", "stands in for them in the tests of the SDK"),
    ("guest-sdk/src/startup.rs", "an attribute: runs before `main`"),
    ("guest-sdk/macros/src/task.rs", "an attribute: the name under which the worker finds a task"),
    ("guest-sdk/macros/src/init.rs", "an attribute: the name under which the initializer finds an init function"),
    ("host/wire/src/ring/memory.rs", "maps memory that both sides share, and copies into it and out of it"),
    ("host/worker/src/artefact.rs", "maps what the compiler process made"),
    ("host/worker/src/lockdown/sys.rs", "system calls that have no safe wrapper"),
    ("host/worker/src/lockdown/violation.rs", "a signal handler"),
    ("host/worker/src/quit.rs", "ends the process at once"),
    ("host/worker/src/startup_pages.rs", "finds what of the program is for reading alone, and gives its pages back"),
    ("host/worker/tests/process/native.rs", "what a worker does that was taken over, so that it is stopped"),
    ("benches/src/bare.rs", "loads what the benchmark itself has compiled"),
    ("guests/programs/src/bin/traps.rs", "a guest that breaks every rule, to be caught at it"),
];

const BINARY_EXTENSIONS: [&str; 6] = ["wasm", "cwasm", "so", "a", "o", "rlib"];

// The words below are put together from halves, so that this file does not contain them.

const UNSAFE: &str = concat!("un", "safe");

/// Not in code.
const FORBIDDEN_CODE: &[(&str, &str)] = &[
    (concat!("#[", "ignore"), "a test that does not run is deleted"),
    (concat!("#[", "should_panic"), "say which panic: assert on `catch_unwind`"),
    (concat!("#[", "allow("), "use `#[expect(.., reason = \"..\")]`"),
    (concat!("#![", "allow("), "use `#![expect(.., reason = \"..\")]`"),
];

/// Not in the sources of the worker.
const FORBIDDEN_IN_WORKERS: &[(&str, &str)] =
    &[(concat!("std::process::", "exit("), "a second thread that does it dies of a forbidden call: use `quit`")];

/// Not at the head of an example in the documentation.
const FORBIDDEN_FENCES: &[&str] = &[concat!("```", "ignore"), concat!("```", "should_panic")];

/// Places that exist on one machine only. Nowhere, in no file.
const FORBIDDEN_PLACES: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

#[test]
fn every_rust_file_opens_with_what_it_is_for() {
    let offences: Vec<String> = rust_sources()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| format!("{}: the first line is no `//!`", source.path))
        .collect();
    assert_none("every file says at its top what it is for", &offences);
}

#[test]
fn files_are_short_or_have_a_reason() {
    let is_long = |source: &Source| source.text.lines().count() > MAX_LINES;
    let offences = against_list(rust_sources(), LONG_FILES, "LONG_FILES", "long", is_long);
    assert_none(&format!("files above {MAX_LINES} lines are split, or listed with a reason"), &offences);
}

#[test]
fn unsafe_stays_where_it_is_listed() {
    let has_unsafe = |source: &Source| source.code_lines().any(|(_, line)| has_word(&line, UNSAFE));
    let offences = against_list(rust_sources(), UNSAFE_FILES, "UNSAFE_FILES", UNSAFE, has_unsafe);
    assert_none("unsafe code is kept to a few small files that do nothing else", &offences);
}

#[test]
fn no_forbidden_attributes() {
    let mut offences = Vec::new();
    for source in rust_sources() {
        for (number, line) in source.code_lines() {
            // Generated code cannot expect a lint that only some of its users trip over; then a reason stands beside it.
            let reasoned = line.contains("reason = ");
            for (word, instead) in FORBIDDEN_CODE.iter().filter(|(word, _)| line.contains(word) && !reasoned) {
                offences.push(format!("{}:{number}: `{word}`: {instead}", source.path));
            }
        }
        if source.path.starts_with("host/worker/src/") {
            for (number, line) in source.code_lines() {
                for (word, instead) in FORBIDDEN_IN_WORKERS.iter().filter(|(word, _)| line.contains(*word)) {
                    offences.push(format!("{}:{number}: `{word}`: {instead}", source.path));
                }
            }
        }
        for (number, line) in source.lines() {
            for fence in FORBIDDEN_FENCES.iter().filter(|fence| line.contains(**fence)) {
                offences.push(format!("{}:{number}: `{fence}`: an example compiles, or is `text`", source.path));
            }
        }
    }
    assert_none("tests run, panics are named, exceptions to lints have reasons", &offences);
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in source.lines() {
            for place in FORBIDDEN_PLACES.iter().filter(|place| names_place(line, place)) {
                offences.push(format!("{}:{number}: `{place}`", source.path));
            }
        }
    }
    assert_none("absolute paths of somebody's machine do not belong into the tree", &offences);
}

#[test]
fn nothing_compiled_is_committed() {
    let is_binary = |path: &String| path.rsplit_once('.').is_some_and(|(_, end)| BINARY_EXTENSIONS.contains(&end));
    let offences: Vec<String> = paths().into_iter().filter(is_binary).collect();
    assert_none("binaries are built by the tests, never committed", &offences);
}

fn rust_sources() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(Source::is_rust)
}

/// Files that are `kind` and not on `list`, and files on the list that are not `kind` any more.
fn against_list(
    sources: impl Iterator<Item = Source>,
    list: &[(&str, &str)],
    list_name: &str,
    kind: &str,
    is_kind: impl Fn(&Source) -> bool,
) -> Vec<String> {
    let mut offences = Vec::new();
    for source in sources {
        let listed = list.iter().any(|(path, _)| *path == source.path);
        match (is_kind(&source), listed) {
            (true, false) => {
                offences.push(format!("{}: is {kind}, and not in {list_name} of {}", source.path, file!()))
            }
            (false, true) => offences.push(format!("{}: is not {kind}; take it out of {list_name}", source.path)),
            _ => {}
        }
    }
    offences
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// Whether `place` stands in `line` at the start of a path, and not in the middle of one.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}$>*~".contains(c))
    })
}

#[test]
fn words_and_places_are_told_from_parts_of_others() {
    let check_word = |line, expected| assert_eq!(has_word(line, "danger"), expected, "{line}");
    check_word("danger { f() }", true);
    check_word("#[danger(no_mangle)]", true);
    check_word("#![forbid(danger_code)]", false);
    check_word("endangered", false);

    let check_place = |line, expected| assert_eq!(names_place(line, "/here/"), expected, "{line}");
    check_place("cd /here/now", true);
    check_place("path = \"/here/\"", true);
    check_place("target/here/now and ./here/", false);
    check_place("/heres", false);
}
