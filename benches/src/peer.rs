//! The other side: runs a script of `peers/` for one question at a time. The one place here that starts processes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// A Python that has the peers, as many of them as could be installed.
#[derive(Debug)]
pub(crate) struct Peers {
    python: Option<PathBuf>,
    /// What each script said it measures.
    described: RefCell<BTreeMap<&'static str, String>>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    peer: String,
    samples: Vec<f64>,
}

impl Peers {
    pub(crate) fn from_environment() -> Peers {
        let python = std::env::var_os("SANDGATE_BENCH_PYTHON").filter(|python| !python.is_empty());
        Peers { python: python.map(PathBuf::from), described: RefCell::default() }
    }

    /// What they are, of those that have answered.
    pub(crate) fn described(&self) -> BTreeSet<String> {
        self.described.borrow().values().cloned().collect()
    }

    /// What the peer of a script is called: with its version, once it has answered.
    pub(crate) fn name(&self, script: &str) -> String {
        let known =
            self.described.borrow().get(script).map(|name| name.split(" on ").next().unwrap_or(name).to_owned());
        known.unwrap_or_else(|| script.trim_end_matches("_peer.py").to_owned())
    }

    /// The samples of one question.
    pub(crate) fn ask(&self, script: &'static str, question: &str, parameters: &Value) -> Result<Vec<f64>> {
        let python = self.python.as_ref().context("no Python with the peers; `cargo xtask bench` makes one")?;
        let path = Path::new(SCRIPTS).join(script);
        let output = run(python, &[path.as_os_str(), question.as_ref(), parameters.to_string().as_ref()])?;
        ensure!(
            output.status.success(),
            "`{script} {question}` failed ({}): {}",
            output.status,
            last_line(&output.stderr)
        );
        let answer: Answer =
            serde_json::from_slice(&output.stdout).with_context(|| format!("`{script} {question}` gave no answer"))?;
        self.described.borrow_mut().insert(script, answer.peer);
        Ok(answer.samples)
    }
}

/// What this very program prints when it is given these arguments.
pub(crate) fn ask_ourselves(arguments: &[&str]) -> Result<String> {
    let output = run(&std::env::current_exe()?, arguments)?;
    ensure!(output.status.success(), "{arguments:?} failed ({}): {}", output.status, last_line(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What a program printed; it is waited for, and [`watchdog`](crate::watchdog) ends one that never ends.
#[expect(clippy::disallowed_methods, reason = "this is the one place, and the call waits for the process")]
pub(crate) fn run(program: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.output().with_context(|| format!("cannot start `{}`", program.display()))
}

/// The last line of what a program had to say: Python's name of an exception.
pub(crate) fn last_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim_end().lines().last().unwrap_or_default().to_owned()
}
