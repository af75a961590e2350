//! The command: what `sandgate run` and `sandgate map` print and exit with, on good input and bad, and when they are cut short.
mod bad_input;
mod endings;
mod endpoint;
mod hostile;
mod journal;
mod seeing;
mod table;

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use sandgate_tests::{Running, cache_dir, feed, guest, start, worker};

/// How long a command may take that takes a second on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A word that lets a run print its summary.
const SUMMARY: &str = "--summary";

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the command. A word of the form `@name` is the path of that guest. `map` tells neither progress nor a summary, unless
/// the words say otherwise: there are times in it.
#[track_caller]
pub(crate) fn sandgate(words: &[&str], input: &[u8]) -> Came {
    let words = words_of(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = feed(worker(), &words, input, &variables(), LIMIT);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Came { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Starts the command.
pub(crate) fn begin(words: &[&str]) -> Running {
    let words = words_of(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    start(worker(), &words, &variables())
}

fn words_of(words: &[&str]) -> Vec<String> {
    let word = |word: &&str| match word.strip_prefix('@') {
        Some(name) => guest(name).display().to_string(),
        None => (*word).to_owned(),
    };
    let mut words: Vec<String> = words.iter().map(word).collect();
    // The summary has a test of its own; the others read what else there is on standard error.
    match words.iter().position(|word| word == SUMMARY) {
        Some(position) => drop(words.remove(position)),
        None if words.first().is_some_and(|word| word == "map") => {
            words.insert(1, "--no-summary".to_owned());
            words.insert(1, "--progress=never".to_owned());
        }
        None => {}
    }
    words
}

/// The tests' own cache of compiled modules.
fn variables() -> [(&'static str, &'static OsStr); 1] {
    static CACHE: std::sync::OnceLock<OsString> = std::sync::OnceLock::new();
    [(sandgate::CACHE_VARIABLE, CACHE.get_or_init(|| cache_dir().into_os_string()))]
}

/// Lines from 1 up to a number.
pub(crate) fn numbers(last: u64) -> Vec<u8> {
    lines(last, |number| number.to_string()).into_bytes()
}

/// A line for each number from 1.
pub(crate) fn lines(last: u64, line: impl Fn(u64) -> String) -> String {
    (1..=last).map(|number| line(number) + "\n").collect()
}
