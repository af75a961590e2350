//! The command: what `sandgate run` and `sandgate map` print and exit with, on good input and bad, and when they are cut short.
mod bad_input;
mod endings;
mod endpoint;
mod hostile;
mod journal;
mod seeing;
mod table;

use std::time::Duration;

pub(crate) use sandgate_tests::{Came, lines};
use sandgate_tests::{Running, start_sandgate};

/// How long a command may take that takes a second on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A word that lets a run print its summary.
const SUMMARY: &str = "--summary";

/// Runs the command. A word of the form `@name` is the path of that guest. `map` tells neither progress nor a summary, unless
/// the words say otherwise: there are times in it.
#[track_caller]
pub(crate) fn sandgate(words: &[&str], input: &[u8]) -> Came {
    sandgate_tests::sandgate(&quiet(words), input, &[], LIMIT)
}

/// Starts the command.
pub(crate) fn begin(words: &[&str]) -> Running {
    start_sandgate(&quiet(words))
}

/// The summary has a test of its own; the others read what else there is on standard error.
fn quiet<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut words = words.to_vec();
    match words.iter().position(|word| *word == SUMMARY) {
        Some(position) => drop(words.remove(position)),
        None if words.first() == Some(&"map") => drop(words.splice(1..1, ["--progress=never", "--no-summary"])),
        None => {}
    }
    words
}

/// Lines from 1 up to a number.
pub(crate) fn numbers(last: u64) -> Vec<u8> {
    lines(last, |number| number.to_string()).into_bytes()
}
