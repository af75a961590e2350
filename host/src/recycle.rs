//! When a gateway replaces its worker.

use std::fmt;

/// When a gateway replaces its worker by a new one. Callers notice nothing but the status: executions that run go on where
/// they are, and later ones go to the new worker.
///
/// Default: never, as in execnet, but in a group with a tenant, where it is [`Recycle::for_tenant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recycle {
    /// When its worker was killed or lost; otherwise the gateway is then dead.
    pub after_loss: bool,
    /// When it has run this many executions.
    pub executions: Option<u64>,
    /// When its resident memory has reached this many bytes.
    pub memory_bytes: Option<u64>,
}

impl Recycle {
    /// What groups with a tenant do: after a loss, after 10,000 executions, and at 1 GiB.
    pub fn for_tenant() -> Recycle {
        Recycle { after_loss: true, executions: Some(10_000), memory_bytes: Some(1 << 30) }
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
