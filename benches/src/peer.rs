//! The other side: runs `peers/execnet_peer.py` for one question at a time. The one place here that starts processes.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::fixtures::variable_of_xtask;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/execnet_peer.py");

/// A Python that has execnet.
#[derive(Debug)]
pub(crate) struct Peer {
    python: PathBuf,
    version: RefCell<Option<String>>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    execnet: String,
    python: String,
    samples: Vec<f64>,
}

impl Peer {
    pub(crate) fn from_environment() -> Result<Peer> {
        Ok(Peer { python: variable_of_xtask("SANDGATE_BENCH_PYTHON")?, version: RefCell::default() })
    }

    /// What it is, once it has answered a question.
    pub(crate) fn version(&self) -> Option<String> {
        self.version.borrow().clone()
    }

    /// The samples of one question.
    pub(crate) fn ask(&self, question: &str, parameters: &Value) -> Result<Vec<f64>> {
        let output = self.run(question, parameters)?;
        let answer: Answer = serde_json::from_slice(&output).with_context(|| format!("`{question}` gave no answer"))?;
        *self.version.borrow_mut() = Some(format!("execnet {} on Python {}", answer.execnet, answer.python));
        Ok(answer.samples)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place, and the call waits for the process")]
    fn run(&self, question: &str, parameters: &Value) -> Result<Vec<u8>> {
        let output = Command::new(&self.python)
            .args([SCRIPT, question, &parameters.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start `{}`", self.python.display()))?;
        ensure!(output.status.success(), "`{SCRIPT} {question} '{parameters}'` failed ({})", output.status);
        Ok(output.stdout)
    }
}
