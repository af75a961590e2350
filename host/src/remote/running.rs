//! The process at the other end of a connection, here or elsewhere.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::outcome::LossCause;

use super::host::RemoteWorker;
use crate::process::Process;

/// A process that serves a gateway or a link.
#[derive(Debug)]
pub(crate) enum Running {
    /// A child of this process.
    Local(Process),
    /// One that an agent has started.
    Remote(RemoteWorker),
}

impl Running {
    /// Its process id, where it runs, once that is known.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Running::Local(process) => Some(process.pid()),
            Running::Remote(worker) => worker.pid(),
        }
    }

    /// The process id of its parent.
    pub(crate) fn parent(&self) -> u32 {
        match self {
            Running::Local(_) => std::process::id(),
            Running::Remote(worker) => worker.parent(),
        }
    }

    /// Processors of its machine, if that is another one.
    pub(crate) fn processors(&self) -> Option<u32> {
        match self {
            Running::Local(_) => None,
            Running::Remote(worker) => Some(worker.processors()),
        }
    }

    /// How long something takes to its machine and back; nothing worth mentioning on this one.
    pub(crate) fn round_trip(&self) -> Duration {
        match self {
            Running::Local(_) => Duration::ZERO,
            Running::Remote(worker) => worker.round_trip(),
        }
    }

    /// Becomes readable when it has ended. There is none for one elsewhere, since its agent ends its connection then.
    pub(crate) fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        match self {
            Running::Local(process) => process.pidfd(),
            Running::Remote(_) => None,
        }
    }

    /// Kills it. Never blocks.
    pub(crate) fn kill(&self) {
        match self {
            Running::Local(process) => process.kill(),
            Running::Remote(worker) => worker.kill(),
        }
    }

    /// Waits for its end and kills it if that takes longer than `patience`.
    pub(crate) fn reap(&self, patience: Duration) -> LossCause {
        match self {
            Running::Local(process) => process.reap(patience).clone(),
            Running::Remote(worker) => worker.reap(patience),
        }
    }

    /// Whether there is nothing to wait for before [`reap`](Self::reap).
    pub(crate) fn has_exited(&self) -> bool {
        match self {
            Running::Local(process) => process.has_exited(),
            Running::Remote(worker) => worker.ended().is_some(),
        }
    }

    /// How it ended, if that is known.
    pub(crate) fn ended(&self) -> Option<LossCause> {
        match self {
            Running::Local(process) => process.ended().cloned(),
            Running::Remote(worker) => worker.ended(),
        }
    }

    /// The last lines that it wrote to its standard error. They are given once.
    pub(crate) fn take_stderr_tail(&self) -> String {
        match self {
            Running::Local(process) => process.take_stderr_tail(),
            Running::Remote(worker) => worker.take_stderr_tail(),
        }
    }

    /// Resident memory in bytes. Of one elsewhere it is what its agent said last, who is asked for the next time; so it never
    /// waits.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        match self {
            Running::Local(process) => process.resident_bytes(),
            Running::Remote(worker) => worker.resident_bytes(),
        }
    }
}
