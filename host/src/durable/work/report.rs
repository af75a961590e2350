//! What becomes of a task's run: a result to be stored, a task that nobody should try again, or one for somebody else to try.

use crate::durable::message::{Ending, JobResult};
use crate::pool::{OutcomeKind, ProgramOutput, TaskError, TaskResult};

/// What becomes of a task.
#[derive(Debug)]
pub(super) enum Fate {
    /// It has this result.
    Result(JobResult),
    /// It has this result, and is a dead letter.
    Dead(JobResult),
    /// It is given back.
    Returned,
    /// It is given back, for this worker can do nothing more.
    Unable(String),
}

/// The most of standard error that a result keeps: its end.
const MAX_STDERR_BYTES: usize = 64 << 10;

pub(super) fn of_program(result: TaskResult<ProgramOutput>, worker: &str) -> Fate {
    let frame = frame(&result, worker);
    match result.value {
        Ok(output) => Fate::Result(with(frame, output)),
        Err(TaskError::Program { outcome, output }) => {
            let kind = OutcomeKind::of(&outcome);
            failed(with(frame, *output), kind, outcome.to_string())
        }
        Err(error) => of_error(frame, &error),
    }
}

pub(super) fn of_task(result: TaskResult<Vec<u8>>, worker: &str) -> Fate {
    let frame = frame(&result, worker);
    match result.value {
        Ok(value) => Fate::Result(JobResult { value, ..frame }),
        Err(error) => of_error(frame, &error),
    }
}

/// A result that says when, where and how often, and nothing of what.
fn frame<T>(result: &TaskResult<T>, worker: &str) -> JobResult {
    let mut frame = JobResult::failed(0, 0, None, Ending::Ran(OutcomeKind::Returned), String::new());
    frame.error = None;
    frame.attempts = result.attempts;
    frame.run_time = result.timing.run_time();
    frame.worker = match &result.gateway {
        Some(gateway) => format!("{worker}/{gateway}"),
        None => worker.to_owned(),
    };
    frame
}

fn with(frame: JobResult, output: ProgramOutput) -> JobResult {
    let ProgramOutput { stdout, mut stderr, exit_code, truncated } = output;
    stderr.drain(..stderr.len().saturating_sub(MAX_STDERR_BYTES));
    JobResult { value: stdout, stderr, exit_code, truncated, ..frame }
}

fn of_error(frame: JobResult, error: &TaskError) -> Fate {
    match error.kind() {
        OutcomeKind::Cancelled => Fate::Returned,
        OutcomeKind::NoGateway => Fate::Unable(told(error)),
        kind => failed(frame, kind, told(error)),
    }
}

/// A worker that is lost again and again is what nobody else should try.
fn failed(frame: JobResult, kind: OutcomeKind, error: String) -> Fate {
    let result = JobResult { ending: Ending::Ran(kind), error: Some(error), ..frame };
    match kind {
        OutcomeKind::Cancelled => Fate::Returned,
        OutcomeKind::WorkerLost => Fate::Dead(result),
        _ => Fate::Result(result),
    }
}

/// An error and its causes.
pub(super) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
