//! What becomes of a task: [`TaskResult`], with a value or a [`TaskError`]; and what becomes of a pool: [`PoolError`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::Outcome;
use sandgate_wire::outcome::{LossCause, WorkerLoss};

use crate::error::{CodecError, ExecError, GatewayError};

/// The one result of one input.
#[derive(Debug)]
#[non_exhaustive]
pub struct TaskResult<T> {
    /// The input's position in its iterator or feed, from 0. For a submitted task, its number in the pool.
    pub index: u64,
    /// Its number in the pool, by which events name it, whatever became of it. Inputs have one each, in the order in which
    /// they were pulled, so that it is the index as long as a pool serves one iterator or feed.
    pub task: u64,
    /// The task's value, or why there is none.
    pub value: Result<T, TaskError>,
    /// How many runs of it ended, or were alone on a worker that was lost.
    pub attempts: u32,
    /// The id of the gateway of its last run, if it ever ran.
    pub gateway: Option<Arc<str>>,
    /// When it was queued, started and finished.
    pub timing: Timing,
}

/// What a program brought: see [`PoolBuilder::program`](super::PoolBuilder::program).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProgramOutput {
    /// Standard output, as it was written.
    pub stdout: Vec<u8>,
    /// Standard error, as it was written.
    pub stderr: Vec<u8>,
    /// Its exit code, if it came to its end: 0 if it went well.
    pub exit_code: Option<i32>,
    /// Whether it reached its limit (setting `output=`) and what followed was dropped.
    pub truncated: bool,
}

/// When things happened to a task, since its pool was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Timing {
    /// When the pool got it.
    pub queued: Duration,
    /// When its last run began: when it was given to its gateway, or the one before it there ended, whichever was later.
    pub started: Option<Duration>,
    /// When the pool knew its result.
    pub finished: Duration,
}

impl Timing {
    /// How long its last run took.
    ///
    /// ```
    /// # use sandgate::Timing;
    /// assert_eq!(Timing::default().run_time(), std::time::Duration::ZERO);
    /// ```
    pub fn run_time(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |started| self.finished.saturating_sub(started))
    }
}

/// Why a task has no value.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It ended, but not well: see [`Outcome`].
    #[error("{0}")]
    Ended(Outcome),
    /// Its worker was lost under it again and again, while nothing else ran there.
    #[error("input has cost a worker `{attempts}` times, the last time: {loss}")]
    Poisonous {
        /// How often it was tried alone.
        attempts: u32,
        /// What became of the last worker.
        loss: WorkerLoss,
    },
    /// A program ended, but not well: see [`Outcome`]. What it had printed is here.
    #[error("{outcome}")]
    Program {
        /// How it ended.
        outcome: Outcome,
        /// What it had printed.
        output: Box<ProgramOutput>,
    },
    /// It was cancelled, or its pool was dropped.
    #[error("task was cancelled")]
    Cancelled,
    /// It returned well, without the value that was expected.
    #[error("task returned without a value")]
    NoValue,
    /// The input cannot be serialised.
    #[error("input cannot be serialised")]
    Encode(#[source] Arc<CodecError>),
    /// The value is not of the type asked for.
    #[error("value cannot be decoded as `{type_name}`")]
    Decode {
        /// The type asked for.
        type_name: &'static str,
        /// What the decoder says.
        #[source]
        source: Arc<CodecError>,
    },
    /// The call was refused: its input is too large, for instance.
    #[error("task was not accepted")]
    Refused(#[source] Arc<ExecError>),
    /// No worker can be started at all.
    #[error("no gateway can be started")]
    NoGateway(#[source] Arc<PoolError>),
}

impl TaskError {
    /// In one word.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            TaskError::Ended(outcome) | TaskError::Program { outcome, .. } => OutcomeKind::of(outcome),
            TaskError::Poisonous { .. } => OutcomeKind::WorkerLost,
            TaskError::Cancelled => OutcomeKind::Cancelled,
            TaskError::NoValue | TaskError::Decode { .. } => OutcomeKind::NoValue,
            TaskError::Encode(_) | TaskError::Refused(_) => OutcomeKind::Rejected,
            TaskError::NoGateway(_) => OutcomeKind::NoGateway,
        }
    }
}

/// How a task ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutcomeKind {
    /// With a value.
    Returned,
    /// It returned an error.
    Failed,
    /// It panicked.
    Panicked,
    /// It did what WebAssembly forbids.
    Trapped,
    /// It exited with a code other than 0.
    Exited,
    /// It reached its deadline.
    TimedOut,
    /// It used more than it may.
    LimitExceeded,
    /// Module, call or input were refused.
    Rejected,
    /// It returned without the value expected.
    NoValue,
    /// Its worker was lost.
    WorkerLost,
    /// It was cancelled.
    Cancelled,
    /// There was no gateway.
    NoGateway,
}

impl OutcomeKind {
    /// All of them, in order.
    pub const ALL: [OutcomeKind; 12] = [
        OutcomeKind::Returned,
        OutcomeKind::Failed,
        OutcomeKind::Panicked,
        OutcomeKind::Trapped,
        OutcomeKind::Exited,
        OutcomeKind::TimedOut,
        OutcomeKind::LimitExceeded,
        OutcomeKind::Rejected,
        OutcomeKind::NoValue,
        OutcomeKind::WorkerLost,
        OutcomeKind::Cancelled,
        OutcomeKind::NoGateway,
    ];

    pub(crate) fn of(outcome: &Outcome) -> OutcomeKind {
        match outcome {
            Outcome::Returned | Outcome::Closed => OutcomeKind::Returned,
            Outcome::Panicked { .. } => OutcomeKind::Panicked,
            Outcome::Trapped { .. } => OutcomeKind::Trapped,
            Outcome::Exited { .. } => OutcomeKind::Exited,
            Outcome::TimedOut { .. } => OutcomeKind::TimedOut,
            Outcome::LimitExceeded { .. } => OutcomeKind::LimitExceeded,
            Outcome::Rejected { .. } => OutcomeKind::Rejected,
            Outcome::WorkerLost { .. } => OutcomeKind::WorkerLost,
            Outcome::Killed { .. } => OutcomeKind::Cancelled,
            _ => OutcomeKind::Failed,
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OutcomeKind::Returned => "returned",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Panicked => "panicked",
            OutcomeKind::Trapped => "trapped",
            OutcomeKind::Exited => "exited",
            OutcomeKind::TimedOut => "timed out",
            OutcomeKind::LimitExceeded => "limit exceeded",
            OutcomeKind::Rejected => "rejected",
            OutcomeKind::NoValue => "no value",
            OutcomeKind::WorkerLost => "worker lost",
            OutcomeKind::Cancelled => "cancelled",
            OutcomeKind::NoGateway => "no gateway",
        })
    }
}

/// A set of failures after which a task is run again, if its pool has retries. The loss of a worker is not among them: see
/// [`PoolBuilder::max_losses`](super::PoolBuilder::max_losses).
///
/// ```
/// use sandgate::{OutcomeKind, RetryOn};
///
/// let set = RetryOn::none().and(OutcomeKind::TimedOut).and(OutcomeKind::Failed);
/// assert!(set.includes(OutcomeKind::Failed) && !set.includes(OutcomeKind::Panicked));
/// assert!(RetryOn::any_failure().includes(OutcomeKind::Panicked));
/// assert!(!RetryOn::any_failure().includes(OutcomeKind::Cancelled));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u16);

impl RetryOn {
    /// No failure.
    pub fn none() -> RetryOn {
        RetryOn(0)
    }

    /// Every failure of the guest: error, panic, trap, exit code, deadline, limit.
    pub fn any_failure() -> RetryOn {
        [
            OutcomeKind::Failed,
            OutcomeKind::Panicked,
            OutcomeKind::Trapped,
            OutcomeKind::Exited,
            OutcomeKind::TimedOut,
            OutcomeKind::LimitExceeded,
        ]
        .into_iter()
        .fold(RetryOn::none(), RetryOn::and)
    }

    /// These and one more.
    #[must_use]
    pub fn and(self, kind: OutcomeKind) -> RetryOn {
        RetryOn(self.0 | 1 << kind as u16)
    }

    /// Whether this kind is in the set.
    pub fn includes(self, kind: OutcomeKind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }
}

/// Why a pool cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A gateway was not made.
    #[error("pool has no gateway")]
    Gateway(#[source] GatewayError),
    /// The module is not accepted, or could not be compiled.
    #[error("pool cannot use its module")]
    Module(#[source] ExecError),
    /// A thread could not be started.
    #[error("pool has no thread")]
    Thread(#[source] std::io::Error),
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl PoolError {
    /// Its text, and those of its causes.
    pub(crate) fn with_causes(&self) -> String {
        with_causes(self)
    }

    /// The same of one gateway, where others may be there.
    pub(crate) fn of_gateway(&self) -> String {
        match self {
            PoolError::Gateway(error) => with_causes(error),
            error => with_causes(error),
        }
    }

    /// Whether a machine was not reached, which others may do without, and which may be there later.
    pub(crate) fn is_unreached(&self) -> bool {
        match self {
            PoolError::Gateway(GatewayError::Reach { .. }) => true,
            PoolError::Gateway(GatewayError::Handshake { loss }) => matches!(loss.cause, LossCause::Link { .. }),
            _ => false,
        }
    }
}
