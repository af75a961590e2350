//! How a task ended. Every accepted task ends exactly once, in one of these.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::LimitName;
use crate::module_limits::ModuleLimitName;
use crate::profile::Profile;
use crate::text::Escaping;

/// How an execution, or a channel without one, ended.
///
/// An outcome is *sticky*: once a channel has one, every later call reports the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The task returned, or called `exit(0)`.
    Returned,
    /// A channel that is not an execution's own was closed, by either side.
    Closed,
    /// The peer closed the channel and gave this error.
    ClosedWithError {
        /// The peer's text.
        message: String,
    },
    /// `main` or a named task returned an error.
    Failed {
        /// The error and its sources.
        message: String,
    },
    /// The task panicked.
    Panicked {
        /// What went wrong.
        message: String,
        /// `file:line:column`, where the guest knows it.
        location: Option<String>,
        /// Names of the guest's functions, innermost first.
        backtrace: Vec<String>,
    },
    /// The guest executed something WebAssembly forbids.
    Trapped {
        /// What it did.
        kind: TrapKind,
        /// Names of the guest's functions, innermost first.
        backtrace: Vec<String>,
        /// The bytes of the stack, if it is used up: [`Limits::stack_bytes`](crate::Limits::stack_bytes).
        stack_bytes: Option<u64>,
    },
    /// The task called `exit` with a code that is not 0.
    Exited {
        /// The code.
        code: i32,
    },
    /// The module or the call was refused before any of the task's code ran.
    Rejected {
        /// Why.
        reason: Rejection,
    },
    /// The task reached its deadline.
    TimedOut {
        /// The time it had.
        after: Duration,
    },
    /// The task used more than it may.
    LimitExceeded {
        /// Which limit.
        limit: LimitName,
        /// The limit's value, in its own unit.
        value: u64,
    },
    /// The host ended the task.
    Killed {
        /// On whose order.
        by: KilledBy,
        /// Whether it had begun to run; if not, it can be run again without harm.
        started: bool,
    },
    /// The callback set on the channel panicked or could not decode an item, so the channel was closed.
    CallbackFailed {
        /// What went wrong.
        message: String,
    },
    /// The worker process ended, or broke the protocol, while the task was with it.
    WorkerLost {
        /// What is known about the worker's end.
        loss: WorkerLoss,
    },
}

/// Who ordered a task's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KilledBy {
    /// `channel.kill()`.
    Kill,
    /// `gateway.exit()`, `gateway.terminate()`, `group.terminate()` or their drop.
    Terminate,
    /// A pool that has another worker for the task. It ends nothing that has begun.
    Recall,
}

/// What a guest did to trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TrapKind {
    /// The `unreachable` instruction: an abort.
    Unreachable,
    /// The guest's stack is used up.
    StackOverflow,
    /// An access outside linear memory.
    MemoryOutOfBounds,
    /// An access outside a table.
    TableOutOfBounds,
    /// An indirect call to an empty slot.
    IndirectCallToNull,
    /// An indirect call with the wrong signature.
    BadSignature,
    /// A division by zero.
    DivisionByZero,
    /// An integer overflow.
    IntegerOverflow,
    /// A float with no integer of its value.
    BadConversionToInteger,
    /// Another trap of the engine.
    Other,
}

/// Why nothing ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rejection {
    /// The bytes are no module that this profile accepts.
    InvalidModule {
        /// What the validator says, with an offset where it has one.
        message: String,
    },
    /// The module imports something no worker offers.
    UnknownImport {
        /// `module::name`.
        import: String,
        /// What to do about it, if anything is known.
        hint: String,
    },
    /// The module was built for another version of the guest ABI.
    AbiVersion {
        /// The import module it names.
        found: String,
        /// The import module this worker serves.
        supported: String,
    },
    /// There is no such task or entry point.
    UnknownTask {
        /// What was asked for.
        name: String,
        /// The module's tasks.
        available: Vec<String>,
    },
    /// The task could not decode its arguments.
    BadArguments {
        /// The guest's text: the types it wanted and the cause.
        message: String,
        /// The module's tasks.
        available: Vec<String>,
    },
    /// The module could not be instantiated within its limits.
    Instantiation {
        /// The engine's text.
        message: String,
    },
    /// The compiler gave up on the module.
    Compilation {
        /// What happened to it.
        message: String,
    },
    /// The module, or its compilation, is over a limit.
    ModuleLimit {
        /// Which limit.
        limit: ModuleLimitName,
        /// What was found; 0 if that is not known.
        found: u64,
        /// The limit's value, in its own unit.
        value: u64,
        /// The item, as in `function 7`; empty if it is the whole module.
        item: String,
    },
    /// The module needs a feature that its gateway does not take.
    Feature {
        /// The feature's name, as in `simd`.
        feature: String,
        /// What the gateway takes.
        profile: Profile,
        /// Whether a profile has it; otherwise no gateway takes it.
        offered: bool,
    },
    /// There is no such init function.
    UnknownInit {
        /// What was asked for.
        name: String,
        /// The module's init functions.
        available: Vec<String>,
    },
    /// No snapshot can be taken of the module.
    Snapshot {
        /// Why.
        message: String,
    },
}

/// What is known about a worker that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLoss {
    /// The gateway's id.
    pub gateway: String,
    /// The worker's process id, if it had one.
    pub pid: Option<u32>,
    /// What happened.
    pub cause: LossCause,
    /// The last lines the worker wrote to its standard error.
    pub stderr_tail: String,
}

/// What happened to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LossCause {
    /// It exited by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// It sent something the protocol forbids, and was killed.
    ProtocolViolation {
        /// What it sent.
        message: String,
    },
    /// It did not answer in time, and was killed.
    Unresponsive {
        /// What it did not do.
        message: String,
    },
    /// It did what no worker does, and the operating system stopped it.
    PolicyViolation {
        /// The name of the system call it tried, if it is known.
        call: Option<String>,
    },
    /// The link to the machine on which it ran is gone, and it with it.
    Link {
        /// What happened to the link.
        problem: LinkProblem,
        /// What is known of it: the launcher's end, and its last words.
        message: String,
    },
    /// Its process could not be waited for.
    Unknown {
        /// The system's text.
        message: String,
    },
}

/// What happened to the link to another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LinkProblem {
    /// It ended: the launcher, the connection under it or the agent is gone.
    Ended,
    /// Nothing was heard for this long, here or there: the cable is cut, or the machine frozen.
    Silent {
        /// How long that is.
        after: Duration,
    },
    /// What arrived here or there is not what was sent, or not what is ever sent. Over ssh its client tells of it; a server
    /// that finds it hangs up, which is [`Ended`](Self::Ended).
    Corrupt,
}

impl fmt::Display for LinkProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkProblem::Ended => f.write_str("ended"),
            LinkProblem::Silent { after } => write!(f, "was silent for {after:?} (setting `heartbeat=`)"),
            LinkProblem::Corrupt => f.write_str("is corrupt"),
        }
    }
}

impl Outcome {
    /// Whether the task did what it was asked to: it returned, or its channel was closed without an error.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Returned | Outcome::Closed)
    }

    /// Whether the worker went away under the task, so that another worker might do it.
    pub fn is_worker_lost(&self) -> bool {
        matches!(self, Outcome::WorkerLost { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most texts in it are a guest's or a worker's.
        let f = &mut Escaping(f);
        match self {
            Outcome::Returned => f.write_str("task returned"),
            Outcome::Closed => f.write_str("channel was closed"),
            Outcome::ClosedWithError { message } => {
                write!(f, "channel was closed with an error: {message}")
            }
            Outcome::Failed { message } => write!(f, "task failed: {message}"),
            Outcome::Panicked { message, location: Some(at), .. } => write!(f, "task panicked at {at}: {message}"),
            Outcome::Panicked { message, location: None, .. } => write!(f, "task panicked: {message}"),
            Outcome::Trapped { kind, backtrace, stack_bytes } => {
                write!(f, "task trapped: {kind}")?;
                if let Some(frame) = backtrace.first() {
                    write!(f, " in `{frame}`")?;
                }
                match stack_bytes {
                    Some(bytes) => write!(f, " (limit of {bytes} bytes, setting `{}`)", LimitName::Stack.setting()),
                    None => Ok(()),
                }
            }
            Outcome::Exited { code } => write!(f, "task exited with code {code}"),
            Outcome::Rejected { reason } => write!(f, "task was rejected: {reason}"),
            Outcome::TimedOut { after } => {
                let setting = LimitName::WallTime.setting();
                write!(f, "task reached its deadline of {after:?} (setting `{setting}`)")
            }
            Outcome::LimitExceeded { limit, value } => {
                write!(f, "task exceeded its limit of {value} for {limit} (setting `{}`)", limit.setting())
            }
            Outcome::Killed { by, started } => {
                let by = match by {
                    KilledBy::Kill => "killed",
                    KilledBy::Terminate => "ended by the termination of its gateway",
                    KilledBy::Recall => "taken back",
                };
                write!(f, "task was {by}{}", if *started { "" } else { " before it started" })
            }
            Outcome::CallbackFailed { message } => write!(f, "callback failed: {message}"),
            Outcome::WorkerLost { loss } => write!(f, "{loss}"),
        }
    }
}

impl std::error::Error for Outcome {}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrapKind::Unreachable => "unreachable code was executed",
            TrapKind::StackOverflow => "stack overflow",
            TrapKind::MemoryOutOfBounds => "memory access out of bounds",
            TrapKind::TableOutOfBounds => "table access out of bounds",
            TrapKind::IndirectCallToNull => "indirect call to an empty table slot",
            TrapKind::BadSignature => "indirect call with the wrong signature",
            TrapKind::DivisionByZero => "integer division by zero",
            TrapKind::IntegerOverflow => "integer overflow",
            TrapKind::BadConversionToInteger => "float cannot be converted to an integer",
            TrapKind::Other => "trap of the engine",
        })
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = &mut Escaping(f);
        match self {
            Rejection::InvalidModule { message } => {
                write!(f, "not an acceptable module: {message}")
            }
            Rejection::UnknownImport { import, hint } if hint.is_empty() => {
                write!(f, "unknown import `{import}`")
            }
            Rejection::UnknownImport { import, hint } => {
                write!(f, "unknown import `{import}`: {hint}")
            }
            Rejection::AbiVersion { found, supported } => {
                write!(
                    f,
                    "module is built for guest ABI `{found}`, this worker serves `{supported}`: rebuild it with the matching `sandgate-guest`"
                )
            }
            Rejection::UnknownTask { name, available } => {
                write!(f, "no task `{name}`; the module has {}", TaskList(available))
            }
            Rejection::BadArguments { message, available } => {
                write!(f, "{message}; the module has {}", TaskList(available))
            }
            Rejection::Instantiation { message } => {
                write!(f, "module cannot be instantiated: {message}")
            }
            Rejection::Compilation { message } => write!(f, "module cannot be compiled: {message}"),
            Rejection::ModuleLimit { limit, found, value, item } => {
                let setting = limit.setting();
                let found = if *found == 0 { "more".to_owned() } else { found.to_string() };
                let item = if item.is_empty() { "module" } else { item };
                write!(f, "{item} takes {found}, its limit for {limit} is {value} (setting `{setting}`)")
            }
            Rejection::Feature { feature, profile, offered: true } => {
                write!(f, "module needs `{feature}`, its gateway's profile is `{profile}` (setting `profile=`)")
            }
            Rejection::Feature { feature, .. } => {
                write!(f, "module needs `{feature}`, which no profile has: build it without")
            }
            Rejection::UnknownInit { name, available } if available.is_empty() => {
                write!(f, "no init function `{name}`; the module has none")
            }
            Rejection::UnknownInit { name, available } => {
                write!(f, "no init function `{name}`; the module has {}", TaskList(available))
            }
            Rejection::Snapshot { message } => write!(f, "no snapshot can be taken: {message}"),
        }
    }
}

struct TaskList<'a>(&'a [String]);

impl fmt::Display for TaskList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no tasks");
        }
        for (position, name) in self.0.iter().enumerate() {
            write!(f, "{}`{name}`", if position == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for WorkerLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = &mut Escaping(f);
        write!(f, "worker of gateway `{}`", self.gateway)?;
        if let Some(pid) = self.pid {
            write!(f, " (pid {pid})")?;
        }
        match &self.cause {
            LossCause::Exited { code } => write!(f, " exited with code {code}")?,
            LossCause::Signaled { signal } => write!(f, " was ended by signal {signal}")?,
            LossCause::ProtocolViolation { message } => write!(f, " broke the protocol: {message}")?,
            LossCause::Unresponsive { message } => write!(f, " did not answer: {message}")?,
            LossCause::PolicyViolation { call: Some(call) } => {
                write!(f, " tried the system call `{call}`, which no worker makes, and was stopped")?;
            }
            LossCause::PolicyViolation { call: None } => {
                f.write_str(" tried a system call that no worker makes, and was stopped")?;
            }
            LossCause::Link { problem, message } => write!(f, " is lost, its link {problem}: {message}")?,
            LossCause::Unknown { message } => write!(f, " is lost: {message}")?,
        }
        match self.stderr_tail.trim_end() {
            "" => Ok(()),
            tail => write!(f, "; its last words: {tail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_that_overflows_names_its_limit_and_no_other_trap_does() {
        let text =
            |kind, stack_bytes| Outcome::Trapped { kind, backtrace: vec!["f".to_owned()], stack_bytes }.to_string();
        let overflow = "task trapped: stack overflow in `f` (limit of 65536 bytes, setting `stack=`)";
        assert_eq!(text(TrapKind::StackOverflow, Some(65_536)), overflow);
        assert_eq!(text(TrapKind::Unreachable, None), "task trapped: unreachable code was executed in `f`");
    }
}
