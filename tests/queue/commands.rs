//! The three commands, as the tests run them.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;
use std::time::Duration;

use sandgate_tests::{Running, cache_dir, feed, guest, start, worker};

use crate::server::Server;

/// How long a command may take that takes seconds on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Came {
    /// What it wrote, of a command that went well.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }
}

/// Runs `sandgate` to its end. A word of the form `@name` is the path of that guest.
pub(crate) fn run(words: &[&str], input: &[u8], more: &[(&str, &OsStr)], limit: Duration) -> Came {
    let words = words_of(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let variables = [&variables()[..], more].concat();
    let output = feed(worker(), &words, input, &variables, limit);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Came { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Starts `sandgate`.
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
    words.iter().map(word).collect()
}

/// The tests' own cache of compiled modules.
fn variables() -> [(&'static str, &'static OsStr); 1] {
    static CACHE: OnceLock<OsString> = OnceLock::new();
    [(sandgate::CACHE_VARIABLE, CACHE.get_or_init(|| cache_dir().into_os_string()))]
}

impl Server {
    #[track_caller]
    pub(crate) fn submit(&self, words: &[&str], input: &str) -> Came {
        let url = self.url();
        run(&[&["submit", "--nats", &url], words].concat(), input.as_bytes(), &[], LIMIT)
    }

    pub(crate) fn collect(&self, words: &[&str]) -> Came {
        let url = self.url();
        run(&[&["collect", "--nats", &url], words].concat(), b"", &[], LIMIT)
    }

    /// Starts a worker.
    pub(crate) fn work(&self, words: &[&str]) -> Running {
        let url = self.url();
        begin(&[&["work", "--nats", &url], words].concat())
    }
}

/// Lines for the numbers from 1.
pub(crate) fn lines(last: u64, line: impl Fn(u64) -> String) -> String {
    (1..=last).map(|number| line(number) + "\n").collect()
}
