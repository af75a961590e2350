//! What gateways cost that do nothing: memory, and wake-ups of their processes and of the host.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use sandgate::Group;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// How long gateways are left alone before they count as idle.
const SETTLE: Duration = Duration::from_millis(100);

/// Kilobytes of memory of a worker that has run a task, the mean of two. PSS: shared pages count by their share.
#[derive(Debug, Serialize)]
pub(crate) struct IdleMemory {}

/// Context switches a second of two workers that have run a task, and of the host's threads but the one that measures.
#[derive(Debug, Serialize)]
pub(crate) struct IdleWakeUps {
    pub(crate) seconds: f64,
}

impl Question for IdleMemory {
    const PEER: &'static str = "idle_memory";

    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let (_group, processes) = idle_gateways(fixtures)?;
        let sizes: Vec<u64> = processes
            .iter()
            .map(|process| field(&format!("/proc/{process}/smaps_rollup"), "Pss:"))
            .collect::<Result<_>>()?;
        Ok(vec![sizes.iter().sum::<u64>() as f64 / sizes.len() as f64])
    }
}

impl Question for IdleWakeUps {
    const PEER: &'static str = "idle_wake_ups";

    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let (group, mut processes) = idle_gateways(fixtures)?;
        let silent = group[0].new_channel()?;
        processes.push("self".to_owned());
        let all = || processes.iter().map(|process| switches(process)).sum::<Result<u64>>();

        // Whoever has just done something has to fall asleep first.
        let settled = silent.receive_bytes_timeout(SETTLE);
        let before = all()?;
        let nothing = silent.receive_bytes_timeout(Duration::from_secs_f64(self.seconds));
        let after = all()?;
        anyhow::ensure!(settled.is_err() && nothing.is_err(), "a message came from nowhere");
        Ok(vec![(after - before) as f64 / self.seconds])
    }
}

/// Two gateways that have run a task, and the ids of their processes.
fn idle_gateways(fixtures: &Fixtures) -> Result<(Group, Vec<String>)> {
    let group = fixtures.group(2)?;
    let channels = group.remote_exec(&fixtures.module("send_one")?)?;
    channels.receive_each::<u32>()?;
    channels.wait_close()?;
    let processes = group.iter().filter_map(|gateway| gateway.pid()).map(|pid| pid.to_string()).collect();
    Ok((group, processes))
}

/// Context switches of a process so far; those of this program's main thread, which measures, are left out.
fn switches(process: &str) -> Result<u64> {
    let main_thread = std::process::id().to_string();
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        if task.file_name() == main_thread.as_str() {
            continue;
        }
        let status = format!("{}/status", task.path().display());
        total += field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?;
    }
    Ok(total)
}

/// The number in the line of a `/proc` file that starts with `name`.
fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    number
        .with_context(|| format!("`{path}` has no `{name}`"))?
        .parse()
        .with_context(|| format!("`{name}` in `{path}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_counts_what_processes_do() {
        let parent = std::os::unix::process::parent_id().to_string();
        assert!(switches(&parent).unwrap() > 0);
        assert!(field("/proc/self/smaps_rollup", "Pss:").unwrap() > 0);
        let error = field("/proc/self/status", "Nonsense:").unwrap_err().to_string();
        assert_eq!(error, "`/proc/self/status` has no `Nonsense:`");
    }
}
