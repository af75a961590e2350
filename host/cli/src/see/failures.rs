//! What went wrong, by cause and with examples, and which tasks took longest: of the results, which know names and errors.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sandgate::{Outcome, OutcomeKind, TaskError, TaskResult, Timing};

use super::numbers::without_numbers;
use super::text;

/// Causes that are told apart; the rest is put together by kind.
const MOST_CAUSES: usize = 100;
/// Failures of one cause, and of all, that are kept with what they printed.
const MOST_OF_A_CAUSE: usize = 50;
const MOST_KEPT: usize = 1000;
const MOST_SLOW: usize = 10;
const MOST_STDERR: usize = 8 << 10;
const MOST_MESSAGE: usize = 4 << 10;
const MOST_FRAMES: usize = 64;
const MOST_FRAME: usize = 400;
const MOST_NAME: usize = 400;
const MOST_CAUSE: usize = 160;
/// Tasks of late whose lines are kept until it is known whether they fail.
const MOST_PRINTING: usize = 1000;

/// What is looked at of a result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) index: u64,
    pub(super) error: Option<&'a TaskError>,
    pub(super) attempts: u32,
    pub(super) gateway: Option<&'a str>,
    pub(super) timing: Timing,
}

/// One failure.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) task: u64,
    pub(super) name: String,
    pub(super) kind: OutcomeKind,
    pub(super) message: String,
    pub(super) location: Option<String>,
    pub(super) backtrace: Vec<String>,
    pub(super) stderr: String,
    pub(super) attempts: u32,
    pub(super) gateway: String,
    pub(super) took: Duration,
    pub(super) at: Duration,
}

/// Failures that look the same.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    pub(super) kind: OutcomeKind,
    pub(super) text: String,
    pub(super) count: u64,
    pub(super) examples: Vec<Failure>,
}

/// All that went wrong, and the slowest.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures {
    causes: Vec<Cause>,
    by_text: HashMap<(OutcomeKind, String), usize>,
    kept: usize,
    /// What tasks have printed of late that is not in their results.
    printed: BTreeMap<u64, String>,
    pub(super) count: u64,
    /// Inputs whose results are not as the pool's own counts have them.
    pub(super) apart: Apart,
    /// Longest first.
    pub(super) slowest: Vec<(Duration, u64, String)>,
}

/// Inputs whose results are not as the pool's own counts have them. With these, each input is counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Apart {
    /// The pool did not get them, for they are nothing that the task takes, or cannot be read.
    pub(super) bad: u64,
    /// They returned, but not what they have to.
    pub(super) spoiled: u64,
    /// The journal had their results: a value, or a failure.
    pub(super) known_done: u64,
    pub(super) known_failed: u64,
}

impl Apart {
    pub(super) fn known(self) -> u64 {
        self.known_done + self.known_failed
    }
}

impl Failures {
    pub(super) fn take<T>(&mut self, name: &str, result: &TaskResult<T>) {
        let TaskResult { task, value, attempts, gateway, timing, .. } = result;
        let gateway = gateway.as_deref();
        self.note(
            name,
            &Seen { index: *task, error: value.as_ref().err(), attempts: *attempts, gateway, timing: *timing },
        );
    }

    pub(super) fn note(&mut self, name: &str, result: &Seen<'_>) {
        let took = result.timing.run_time();
        if result.timing.started.is_some() && took > self.floor() {
            let at = self.slowest.partition_point(|(other, ..)| *other >= took);
            self.slowest.insert(at, (took, result.index, text::one_line(name, 200)));
            self.slowest.truncate(MOST_SLOW);
        }
        let printed = self.printed.remove(&result.index);
        // What was cancelled did nothing wrong.
        let Some(error) = result.error.filter(|error| error.kind() != OutcomeKind::Cancelled) else { return };
        let (location, backtrace, mut stderr) = details(error);
        stderr.push_str(&printed.unwrap_or_default());
        let failure = Failure {
            task: result.index,
            name: text::one_line(name, MOST_NAME),
            kind: error.kind(),
            message: chain(error),
            location: location.map(|at| text::one_line(at, MOST_FRAME)),
            backtrace: backtrace.iter().take(MOST_FRAMES).map(|frame| text::one_line(frame, MOST_FRAME)).collect(),
            stderr: text::lines(text::tail(stderr.trim_end(), MOST_STDERR)),
            attempts: result.attempts,
            gateway: result.gateway.unwrap_or_default().to_owned(),
            took,
            at: result.timing.finished,
        };
        self.add(failure);
    }

    /// A task has printed a line. It can come before its result or behind it.
    pub(super) fn printed(&mut self, task: u64, line: &str) {
        let text = self.printed.entry(task).or_default();
        text.push_str(line);
        text.push('\n');
        if text.len() > 2 * MOST_STDERR {
            *text = text::tail(text, MOST_STDERR).to_owned();
        }
        while self.printed.len() > MOST_PRINTING {
            self.printed.pop_first();
        }
    }

    /// Gives the failures that are kept what they have printed behind their results. To be told at the end.
    pub(super) fn complete(&mut self) {
        let Failures { causes, printed, .. } = self;
        for failure in causes.iter_mut().flat_map(|cause| &mut cause.examples) {
            if let Some(late) = printed.remove(&failure.task) {
                let stderr = format!("{}\n{late}", failure.stderr);
                failure.stderr = text::lines(text::tail(stderr.trim(), MOST_STDERR));
            }
        }
    }

    /// An input that the pool did not get.
    pub(super) fn rejected(&mut self, name: &str, task: u64, message: &str) {
        self.apart.bad += 1;
        self.unknown(name, task, OutcomeKind::Rejected, message);
    }

    /// A task that has returned, but not what it has to.
    pub(super) fn spoiled(&mut self, name: &str, task: u64, kind: OutcomeKind, message: &str) {
        self.apart.spoiled += 1;
        self.unknown(name, task, kind, message);
    }

    /// A failure of which the pool knows nothing.
    fn unknown(&mut self, name: &str, task: u64, kind: OutcomeKind, message: &str) {
        self.add(Failure {
            task,
            name: text::one_line(name, MOST_NAME),
            kind,
            message: message.to_owned(),
            location: None,
            backtrace: Vec::new(),
            stderr: String::new(),
            attempts: 0,
            gateway: String::new(),
            took: Duration::ZERO,
            at: Duration::ZERO,
        });
    }

    fn add(&mut self, mut failure: Failure) {
        self.count += 1;
        let cause = self.cause(failure.kind, &failure.message);
        self.causes[cause].count += 1;
        if self.kept < MOST_KEPT && self.causes[cause].examples.len() < MOST_OF_A_CAUSE {
            self.kept += 1;
            failure.message = text::lines(text::head(&failure.message, MOST_MESSAGE));
            self.causes[cause].examples.push(failure);
        }
    }

    /// How long a task must have taken to be among the slowest.
    pub(super) fn floor(&self) -> Duration {
        if self.slowest.len() < MOST_SLOW { Duration::ZERO } else { self.slowest[MOST_SLOW - 1].0 }
    }

    /// Most frequent first.
    pub(super) fn causes(&self) -> Vec<&Cause> {
        let mut causes: Vec<&Cause> = self.causes.iter().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        causes
    }

    fn cause(&mut self, kind: OutcomeKind, message: &str) -> usize {
        // These numbers are what it is about: a code, or a limit.
        let tells = matches!(kind, OutcomeKind::Exited | OutcomeKind::TimedOut | OutcomeKind::LimitExceeded);
        let first = text::one_line(message.lines().next().unwrap_or_default(), MOST_CAUSE);
        let mut key = (kind, if tells { first } else { without_numbers(&first) });
        if !self.by_text.contains_key(&key) && self.causes.len() >= MOST_CAUSES {
            key.1 = "other".to_owned();
        }
        let next = self.causes.len();
        let text = key.1.clone();
        let cause = *self.by_text.entry(key).or_insert(next);
        if cause == next {
            self.causes.push(Cause { kind, text, count: 0, examples: Vec::new() });
        }
        cause
    }
}

/// An error and what it was caused by.
fn chain(error: &TaskError) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

/// Place, backtrace and standard error, where there are any.
fn details(error: &TaskError) -> (Option<&str>, &[String], String) {
    let (outcome, stderr) = match error {
        TaskError::Ended(outcome) => (Some(outcome), String::new()),
        TaskError::Program { outcome, output } => {
            let stderr = &output.stderr;
            let from = stderr.len().saturating_sub(MOST_STDERR);
            (Some(outcome), String::from_utf8_lossy(&stderr[from..]).into_owned())
        }
        TaskError::Poisonous { loss, .. } => (None, loss.stderr_tail.clone()),
        _ => (None, String::new()),
    };
    match outcome {
        Some(Outcome::Panicked { location, backtrace, .. }) => (location.as_deref(), backtrace, stderr),
        Some(Outcome::Trapped { backtrace, .. }) => (None, backtrace, stderr),
        Some(Outcome::WorkerLost { loss }) => (None, &[], loss.stderr_tail.clone()),
        _ => (None, &[], stderr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_bounded() {
        let mut failures = Failures::default();
        let letters = |n: usize| char::from_u32(0x4e00 + u32::try_from(n).unwrap()).unwrap();
        for n in 0..500 {
            let cause = failures.cause(OutcomeKind::Failed, &letters(n).to_string());
            failures.causes[cause].count += 1;
        }
        let causes = failures.causes();
        assert_eq!(causes.len(), MOST_CAUSES + 1);
        assert_eq!((causes[0].text.as_str(), causes[0].count), ("other", 400));
    }

    #[test]
    fn what_a_task_printed_is_with_its_failure_whichever_comes_first() {
        let mut failures = Failures::default();
        let error = TaskError::Ended(Outcome::Failed { message: "no".to_owned() });
        let seen = |index| Seen { index, error: Some(&error), attempts: 1, gateway: None, timing: Timing::default() };
        failures.printed(1, "before");
        failures.note("one", &seen(1));
        failures.printed(1, "behind\x1b[2J");
        failures.note("two", &seen(2));
        failures.complete();
        let stderr: Vec<&str> = failures.causes()[0].examples.iter().map(|failure| &*failure.stderr).collect();
        assert_eq!(stderr, ["before\nbehind\\u{1b}[2J", ""]);
        (10..5000).for_each(|task| failures.printed(task, "of no interest"));
        failures.printed(5000, &"long ".repeat(10_000));
        assert_eq!(failures.printed.len(), MOST_PRINTING);
        assert!(failures.printed.values().all(|text| text.len() <= 2 * MOST_STDERR));
    }

    #[test]
    fn what_is_kept_of_failures_is_bounded() {
        let mut failures = Failures::default();
        for task in 0..200 {
            failures.rejected("a\nname", task, &"long ".repeat(10_000));
        }
        let causes = failures.causes();
        assert_eq!((causes[0].count, causes[0].examples.len()), (200, MOST_OF_A_CAUSE));
        let example = &causes[0].examples[0];
        assert_eq!((example.name.as_str(), example.message.len()), ("a\\nname", MOST_MESSAGE));
    }
}
