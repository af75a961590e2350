//! A result as it is written: to standard output or a file if it is one to write, to standard error if it failed.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sandgate::durable::{Ending, JobResult};
use sandgate::text::printable;
use sandgate::{OutcomeKind, ProgramOutput, TaskError, TaskResult};
use serde::Serialize;
use serde_json::Value;

use super::arguments::Format;
use super::job::{Job, Task};
use super::journal::Record;
use super::ledger::Meta;

/// The most of a program's standard error that a message shows: its end.
const MAX_SHOWN_BYTES: usize = 1000;

/// A result as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) success: bool,
    /// What is written, or for a failure whose format has none, what is told of it.
    pub(crate) text: Vec<u8>,
    /// Why a task that returned has failed nevertheless.
    pub(crate) spoiled: Option<(OutcomeKind, String)>,
}

impl Rendered {
    pub(crate) fn of(record: Record) -> Rendered {
        Rendered { success: record.success, text: record.result, spoiled: None }
    }
}

/// A result of `--output json`.
#[derive(Debug, Default, Serialize)]
struct Row<'a> {
    index: u64,
    input: Option<String>,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    attempts: u32,
    milliseconds: f64,
    gateway: Option<&'a str>,
}

/// What came of a task, whatever it was.
struct Came {
    outcome: String,
    attempts: u32,
    milliseconds: f64,
    gateway: Option<Arc<str>>,
    error: Option<String>,
    spoiled: Option<(OutcomeKind, String)>,
}

impl Came {
    fn of<T>(result: &TaskResult<T>) -> Came {
        let outcome = result.value.as_ref().map_or_else(|error| error.kind().to_string(), |_| "returned".to_owned());
        let milliseconds = (result.timing.run_time().as_secs_f64() * 1e6).round() / 1e3;
        let error = result.value.as_ref().err().map(message);
        let (attempts, gateway) = (result.attempts, result.gateway.clone());
        Came { outcome, attempts, milliseconds, gateway, error, spoiled: None }
    }

    fn of_queued(result: &JobResult) -> Came {
        let milliseconds = (result.run_time.as_secs_f64() * 1e6).round() / 1e3;
        let failure = || result.error.clone().unwrap_or_else(|| result.ending.to_string());
        let error = (!result.ending.is_success()).then(failure);
        let (outcome, attempts, gateway) =
            (result.ending.to_string(), result.attempts, Some(result.worker.as_str().into()));
        Came { outcome, attempts, milliseconds, gateway, error, spoiled: None }
    }

    fn spoil(&mut self, kind: OutcomeKind, error: String) {
        (self.outcome, self.error) = (kind.to_string(), Some(error.clone()));
        self.spoiled = Some((kind, error));
    }

    fn row(&self, meta: &Meta) -> Row<'_> {
        Row {
            index: meta.index,
            input: meta.path.as_ref().map(|path| path.display().to_string()),
            outcome: self.outcome.clone(),
            error: self.error.clone(),
            attempts: self.attempts,
            milliseconds: self.milliseconds,
            gateway: self.gateway.as_deref(),
            ..Row::default()
        }
    }
}

/// An error and its causes.
fn message(error: &TaskError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What a program printed.
pub(crate) fn program(format: Format, meta: &Meta, result: TaskResult<ProgramOutput>) -> Rendered {
    let came = Came::of(&result);
    let output = match result.value {
        Ok(output) => output,
        Err(TaskError::Program { output, .. }) => *output,
        Err(_) => ProgramOutput::default(),
    };
    printed(format, meta, came, Printed { stdout: output.stdout, stderr: output.stderr, truncated: output.truncated })
}

/// What came of an input of a queue.
pub(crate) fn queued(format: Format, job: &Job, meta: &Meta, result: JobResult) -> Rendered {
    let came = Came::of_queued(&result);
    match job {
        _ if result.ending == Ending::BadInput => bad(format, meta, result.error.as_deref().unwrap_or_default()),
        Job::Program => {
            let JobResult { value: stdout, stderr, truncated, .. } = result;
            printed(format, meta, came, Printed { stdout, stderr, truncated })
        }
        Job::Task(task) => {
            let value = came.error.is_none().then_some(&result.value[..]);
            given(format, task, meta, came, value)
        }
    }
}

struct Printed {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

fn printed(format: Format, meta: &Meta, mut came: Came, output: Printed) -> Rendered {
    if came.error.is_none() && output.truncated {
        came.spoil(
            OutcomeKind::LimitExceeded,
            "program printed more than its limit (setting `output=`, here `--max-output`)".to_owned(),
        );
    }
    let success = came.error.is_none();
    let text = match (format, &came.error) {
        (Format::Json, _) => {
            let mut row = came.row(meta);
            row.stderr = Some(String::from_utf8_lossy(&output.stderr).into_owned());
            match String::from_utf8(output.stdout) {
                Ok(text) => row.result = Some(Value::String(text)),
                Err(error) => row.result_base64 = Some(BASE64_STANDARD.encode(error.as_bytes())),
            }
            line(&row)
        }
        (Format::Lines, None) => output.stdout,
        (Format::Lines, Some(error)) => told(meta, error, &output.stderr),
    };
    Rendered { success, text, spoiled: came.spoiled }
}

/// What a task gave.
pub(crate) fn task(format: Format, task: &Task, meta: &Meta, result: TaskResult<Vec<u8>>) -> Rendered {
    let came = Came::of(&result);
    given(format, task, meta, came, result.value.as_deref().ok())
}

fn given(format: Format, task: &Task, meta: &Meta, mut came: Came, bytes: Option<&[u8]>) -> Rendered {
    let mut value = None;
    if let Some(bytes) = bytes {
        match task.decode(bytes) {
            Ok(decoded) => value = decoded,
            Err(error) => came.spoil(OutcomeKind::NoValue, format!("{error:#}")),
        }
    }
    let success = came.error.is_none();
    let text = match (format, &came.error) {
        (Format::Json, _) => {
            let mut row = came.row(meta);
            row.result = success.then(|| value.unwrap_or(Value::Null));
            line(&row)
        }
        (Format::Lines, None) => value.map(|value| task.line(&value) + "\n").unwrap_or_default().into_bytes(),
        (Format::Lines, Some(error)) => told(meta, error, &[]),
    };
    Rendered { success, text, spoiled: came.spoiled }
}

/// An input that no task was given.
pub(crate) fn bad(format: Format, meta: &Meta, error: &str) -> Rendered {
    let text = match format {
        Format::Lines => told(meta, error, &[]),
        Format::Json => {
            let (outcome, error) = ("bad input".to_owned(), Some(error.to_owned()));
            let came = Came { outcome, attempts: 0, milliseconds: 0.0, gateway: None, error, spoiled: None };
            line(&came.row(meta))
        }
    };
    Rendered { success: false, text, spoiled: None }
}

fn line(row: &Row<'_>) -> Vec<u8> {
    // Texts and numbers alone: there is nothing in it that JSON does not have.
    let mut line = serde_json::to_vec(row).unwrap_or_default();
    line.push(b'\n');
    line
}

/// What standard error is told of a failure.
fn told(meta: &Meta, error: &str, stderr: &[u8]) -> Vec<u8> {
    let mut text = format!("{}: {error}", meta.name());
    let shown = &stderr[stderr.len().saturating_sub(MAX_SHOWN_BYTES)..];
    let shown = String::from_utf8_lossy(shown);
    for line in shown.lines().filter(|line| !line.trim().is_empty()) {
        text.push_str("\n    ");
        // A guest's text must not reach a terminal as commands.
        text.push_str(&printable(line));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::ledger::Fate;

    #[test]
    fn failures_are_told_on_lines_without_commands_for_terminals() {
        let meta = Meta { index: 3, path: None, digest: [0; 16], bytes: 0, fate: Fate::Runs };
        let path = Some("a\n\x1b[31m".into());
        let file = Meta { index: 3, path, digest: [0; 16], bytes: 0, fate: Fate::Runs };
        assert_eq!(told(&file, "task trapped", b""), b"`a\\n\\u{1b}[31m`: task trapped");
        let text = String::from_utf8(told(&meta, "task trapped", b"a\n\x1b[31mred\xff\n\n")).unwrap();
        assert_eq!(text, "input 3: task trapped\n    a\n    \\u{1b}[31mred\u{fffd}");
        let row = bad(Format::Json, &meta, "it is \"no\" JSON");
        assert_eq!(
            String::from_utf8(row.text).unwrap(),
            "{\"index\":3,\"input\":null,\"outcome\":\"bad input\",\"error\":\"it is \\\"no\\\" JSON\",\"attempts\":0,\
             \"milliseconds\":0.0,\"gateway\":null}\n"
        );
    }
}
