//! When a gateway replaces its worker.

use std::fmt;

/// When a gateway replaces its worker by a new one. Callers notice nothing but the [status](crate::Gateway::status):
/// executions that run go on where they are, with their channels, and later ones go to the new worker. The old one ends when
/// nothing of it is left; its channels cannot be sent to the new one, but an execution whose arguments hold them runs
/// where they are.
///
/// At most [`MAX_DRAINING_WORKERS`](crate::MAX_DRAINING_WORKERS) replaced workers finish what they run; while there are so
/// many, the current one goes on. If no new worker can be started, `remote_exec` fails with
/// [`ExecError::NoWorker`](crate::ExecError::NoWorker), and later calls try again, after a pause that doubles from 100 ms to
/// 30 s.
///
/// Default: never, as in execnet, but in a group with a tenant, where it is [`Recycle::for_tenant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recycle {
    /// When its worker was killed or lost; otherwise the gateway is then dead.
    pub after_loss: bool,
    /// When it has been given this many executions, at least 1: then each has a process of its own. The new worker is started
    /// a little ahead.
    pub executions: Option<u64>,
    /// When its resident memory has reached this many bytes. It is looked at when executions begin and end, every 100 ms at
    /// most.
    pub memory_bytes: Option<u64>,
}

impl Recycle {
    /// What groups with a tenant do: after a loss, after 10,000 executions, and at 1 GiB.
    pub fn for_tenant() -> Recycle {
        Recycle { after_loss: true, executions: Some(10_000), memory_bytes: Some(1 << 30) }
    }
}

/// How often a gateway has replaced its worker, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recycled {
    /// Because it was killed or lost.
    pub losses: u64,
    /// Because it had run as many executions as it may.
    pub executions: u64,
    /// Because it held as much memory as it may.
    pub memory: u64,
}

/// Why a worker is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Loss,
    Executions,
    Memory,
}

impl Recycled {
    pub(crate) fn count(&mut self, reason: Reason) {
        *match reason {
            Reason::Loss => &mut self.losses,
            Reason::Executions => &mut self.executions,
            Reason::Memory => &mut self.memory,
        } += 1;
    }
}

impl fmt::Display for Recycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.after_loss.then(|| "loss".to_owned()),
            self.executions.map(|count| format!("executions:{count}")),
            self.memory_bytes.map(|bytes| format!("memory:{bytes}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "off" } else { "" })?;
        f.write_str(&parts.join(","))
    }
}
