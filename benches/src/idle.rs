//! What gateways cost that do nothing: memory, processor time, and wake-ups of their processes and of the host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sandgate::Group;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::peer;
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

/// Kilobytes by which this process grows for each of so many gateways that have run a task.
#[derive(Debug, Serialize)]
pub(crate) struct HostMemory {
    pub(crate) gateways: usize,
}

/// Seconds that the processors worked for so many idle workers and for the host's threads but the one that measures.
#[derive(Debug, Serialize)]
pub(crate) struct IdleProcessor {
    pub(crate) gateways: usize,
    pub(crate) seconds: f64,
}

impl Question for IdleMemory {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let (_group, processes) = idle_gateways(fixtures, 2)?;
        let sizes: Vec<u64> = processes
            .iter()
            .map(|process| field(&format!("/proc/{process}/smaps_rollup"), "Pss:"))
            .collect::<Result<_>>()?;
        Ok(vec![sizes.iter().sum::<u64>() as f64 / sizes.len() as f64])
    }
}

impl Question for IdleWakeUps {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let (group, mut processes) = idle_gateways(fixtures, 2)?;
        let silent = group[0].new_channel()?;
        processes.push("self".to_owned());
        let all = || processes.iter().map(|process| switches(process)).collect::<Result<Vec<_>>>();

        // Whoever has just done something has to fall asleep first.
        let settled = silent.receive_bytes_timeout(SETTLE);
        let before = all()?;
        let nothing = silent.receive_bytes_timeout(Duration::from_secs_f64(self.seconds));
        let after = all()?;
        anyhow::ensure!(settled.is_err() && nothing.is_err(), "a message came from nowhere");
        let switches: u64 = before.iter().zip(&after).map(|(before, after)| between(before, after)).sum();
        Ok(vec![switches as f64 / self.seconds])
    }
}

impl Question for HostMemory {
    /// In a process of its own: what this one has allocated and freed before would hide it.
    fn measure(&self, _fixtures: &Fixtures) -> Result<Vec<f64>> {
        let answer = peer::ask_ourselves(&["host-memory", "--gateways", &self.gateways.to_string()])?;
        Ok(vec![answer.trim().parse().with_context(|| format!("no number: `{answer}`"))?])
    }
}

/// What [`HostMemory`] asks the other process.
pub(crate) fn host_memory(fixtures: &Fixtures, gateways: usize) -> Result<f64> {
    let size = || field("/proc/self/smaps_rollup", "Pss:");
    // With one gateway everything is there that there is once: the spawner, the module, the shared parts.
    let _one = idle_gateways(fixtures, 1)?;
    let before = size()?;
    let _all = idle_gateways(fixtures, gateways)?;
    Ok(size()?.saturating_sub(before) as f64 / gateways as f64)
}

impl Question for IdleProcessor {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let (group, mut processes) = idle_gateways(fixtures, self.gateways)?;
        let silent = group[0].new_channel()?;
        processes.push("self".to_owned());
        let all = || processes.iter().map(|process| processor_nanoseconds(process)).collect::<Result<Vec<_>>>();

        let settled = silent.receive_bytes_timeout(SETTLE);
        let before = all()?;
        let nothing = silent.receive_bytes_timeout(Duration::from_secs_f64(self.seconds));
        let after = all()?;
        anyhow::ensure!(settled.is_err() && nothing.is_err(), "a message came from nowhere");
        let nanoseconds: u64 = before.iter().zip(&after).map(|(before, after)| between(before, after)).sum();
        Ok(vec![nanoseconds as f64 * 1e-9])
    }
}

/// Gateways that have run a task, and the ids of their processes.
fn idle_gateways(fixtures: &Fixtures, gateways: usize) -> Result<(Group, Vec<String>)> {
    let group = fixtures.group(gateways)?;
    let channels = group.remote_exec(&fixtures.module("send_one")?)?;
    channels.receive_each::<u32>()?;
    channels.wait_close()?;
    let processes = group.iter().filter_map(|gateway| gateway.pid()).map(|pid| pid.to_string()).collect();
    Ok((group, processes))
}

/// Context switches so far of each thread of a process; this program's main thread, which measures, is left out.
fn switches(process: &str) -> Result<BTreeMap<PathBuf, u64>> {
    of_each_thread(process, |thread| {
        let status = format!("{}/status", thread.display());
        Ok(field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?)
    })
}

/// Nanoseconds that each thread of a process has had a processor; this program's main thread is left out.
fn processor_nanoseconds(process: &str) -> Result<BTreeMap<PathBuf, u64>> {
    of_each_thread(process, |thread| {
        let text = fs::read_to_string(thread.join("schedstat"))?;
        let first = text.split(' ').next().context("an empty line")?;
        Ok(first.parse()?)
    })
}

fn of_each_thread(process: &str, count: impl Fn(&Path) -> Result<u64>) -> Result<BTreeMap<PathBuf, u64>> {
    let main_thread = std::process::id().to_string();
    let mut counts = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        if task.file_name() == main_thread.as_str() {
            continue;
        }
        match count(&task.path()) {
            Ok(count) => drop(counts.insert(task.path(), count)),
            // It has ended just now.
            Err(_) if !task.path().exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(counts)
}

/// What came between two counts. Threads that have ended are left out.
fn between(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> u64 {
    after.iter().map(|(thread, count)| count - before.get(thread).copied().unwrap_or(0).min(*count)).sum()
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
    fn a_thread_that_has_ended_does_not_count() {
        let counts = |counts: &[(&str, u64)]| counts.iter().map(|&(thread, count)| (thread.into(), count)).collect();
        let (before, after) = (counts(&[("1", 5), ("2", 7)]), counts(&[("1", 6), ("3", 2)]));
        assert_eq!(between(&before, &after), 3);
    }

    #[test]
    fn the_system_counts_what_processes_do() {
        let parent = std::os::unix::process::parent_id().to_string();
        assert!(switches(&parent).unwrap().values().sum::<u64>() > 0);
        assert!(processor_nanoseconds(&parent).unwrap().values().sum::<u64>() > 0);
        assert!(field("/proc/self/smaps_rollup", "Pss:").unwrap() > 0);
        let error = field("/proc/self/status", "Nonsense:").unwrap_err().to_string();
        assert_eq!(error, "`/proc/self/status` has no `Nonsense:`");
    }
}
