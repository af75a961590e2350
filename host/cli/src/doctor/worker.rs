//! A worker as any gateway's is: does it start, compile, run a guest, and stop one?

use std::time::{Duration, Instant};

use sandgate::isolation::Report;
use sandgate::{Call, Group, Limits, Module, Outcome, OutputSink, WaitError};

/// `(module (func (export "_start")))`.
const RETURNS: &[u8] =
    b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b";
/// `(module (func (export "_start") (loop (br 0))))`.
const LOOPS: &[u8] =
    b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";

const DEADLINE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

/// What a worker could do.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerCheck {
    /// What it says of itself; `None` if it did not start.
    pub(crate) isolation: Option<Report>,
    /// In the order in which they were done; all that follow a failure are missing.
    pub(crate) steps: Vec<Step>,
}

/// One thing a worker has to be able to do.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) result: Result<String, String>,
}

impl WorkerCheck {
    pub(crate) fn passed(&self) -> bool {
        self.isolation.is_some() && self.steps.iter().all(|step| step.result.is_ok())
    }

    fn step(&mut self, name: &'static str, result: Result<String, String>) -> bool {
        let passed = result.is_ok();
        self.steps.push(Step { name, result });
        passed
    }
}

pub(crate) fn check() -> WorkerCheck {
    let mut check = WorkerCheck::default();
    // What is compiled here is of use to nobody else.
    let group = Group::builder().cache(None).output(OutputSink::Discard).build();
    let start = Instant::now();
    let gateway = match group.make_gateway("popen") {
        Ok(gateway) => gateway,
        Err(error) => {
            check.step("start a worker", Err(chain(&error)));
            return check;
        }
    };
    let pid = gateway.pid().map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
    check.step("start a worker", Ok(format!("process {pid} said hello after {:.1?}", start.elapsed())));
    check.isolation = Some(gateway.isolation());
    let run = |bytes: &[u8], limits: Limits| -> Result<Outcome, String> {
        let module = Module::from_bytes(bytes.to_vec()).map_err(|error| chain(&error))?;
        let channel =
            gateway.remote_exec_with(&module, &Call::start().limits(limits)).map_err(|error| chain(&error))?;
        match channel.wait_close_timeout(PATIENCE) {
            Ok(()) => Ok(Outcome::Returned),
            Err(WaitError::Ended(outcome)) => Ok(outcome),
            Err(error) => Err(chain(&error)),
        }
    };
    let start = Instant::now();
    let ran = run(RETURNS, Limits::default()).and_then(|outcome| match outcome {
        Outcome::Returned => Ok(format!("it returned; all took {:.1?}", start.elapsed())),
        other => Err(other.to_string()),
    });
    if !check.step("compile and run a guest", ran) {
        return check;
    }
    // Compiled first, so that the time is that of the stop alone.
    let warm = run(LOOPS, Limits { wall_time: Some(Duration::from_millis(1)), ..Limits::default() });
    let start = Instant::now();
    let stopped = warm.and_then(|_| run(LOOPS, Limits { wall_time: Some(DEADLINE), ..Limits::default() }));
    let stopped = stopped.and_then(|outcome| match outcome {
        Outcome::TimedOut { .. } => Ok(format!(
            "a loop ended {:.1?} after its deadline of {DEADLINE:?}",
            start.elapsed().saturating_sub(DEADLINE)
        )),
        other => Err(other.to_string()),
    });
    check.step("stop a guest", stopped);
    let ended = group.terminate(Duration::from_secs(2));
    let clean = if ended.is_clean() { Ok("it exited by itself".to_owned()) } else { Err(format!("{ended:?}")) };
    check.step("end the worker", clean);
    check
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
