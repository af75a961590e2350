//! The command `sandgate`, as tests run it.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;
use std::time::Duration;

use crate::command::{Running, feed, start};
use crate::fixtures::{guest, worker};
use crate::remote::cache_dir;

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Came {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said beside that.
    pub stderr: String,
}

impl Came {
    /// What it printed, of a command that went well.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }
}

/// Runs `sandgate` to its end, with the tests' own cache of compiled modules and `more` in its environment. A word of the form
/// `@name` is the path of that guest.
///
/// # Panics
///
/// When it does not end within `limit`, or prints what is no text.
#[track_caller]
pub fn sandgate(words: &[&str], input: &[u8], more: &[(&str, &OsStr)], limit: Duration) -> Came {
    let words = words_of(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let variables = [&variables()[..], more].concat();
    let output = feed(worker(), &words, input, &variables, limit);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Came { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Starts `sandgate` with words and a cache as for [`sandgate()`].
///
/// # Panics
///
/// When it cannot be started.
pub fn start_sandgate(words: &[&str]) -> Running {
    let words = words_of(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    start(worker(), &words, &variables())
}

/// A line for each number from 1.
pub fn lines(last: u64, line: impl Fn(u64) -> String) -> String {
    (1..=last).map(|number| line(number) + "\n").collect()
}

fn words_of(words: &[&str]) -> Vec<String> {
    let word = |word: &&str| match word.strip_prefix('@') {
        Some(name) => guest(name).display().to_string(),
        None => (*word).to_owned(),
    };
    words.iter().map(word).collect()
}

/// Its environment.
pub(crate) fn variables() -> [(&'static str, &'static OsStr); 1] {
    static CACHE: OnceLock<OsString> = OnceLock::new();
    [(sandgate::CACHE_VARIABLE, CACHE.get_or_init(|| cache_dir().into_os_string()))]
}
