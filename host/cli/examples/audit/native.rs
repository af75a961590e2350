//! The same analysis in this process, to compare with: numbers, and time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use audit_core::{Report, audit_bytes};

use crate::farm::FileResult;
use crate::load::own_cpu_time;
use crate::sources::SourceFile;

/// The parser recurses as deep as a file nests. Only what is used of it is ever backed by memory.
const STACK_BYTES: usize = 1 << 30;

/// The reports of all files that did not end a task in the sandbox; those would end this process.
#[derive(Debug)]
pub(crate) struct Native {
    reports: Vec<Option<Report>>,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

/// How many results are the same here and there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) equal: usize,
    pub(crate) different: usize,
    /// Only one side has a report.
    pub(crate) left_out: usize,
}

/// Audits `files` on as many threads, but not those that `sandboxed` says are dangerous.
pub(crate) fn run(files: &[SourceFile], sandboxed: &[FileResult], threads: usize) -> Result<Native> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let file = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = files.get(file) else { return reports };
            if matches!(sandboxed[file], FileResult::Audited(_))
                && let Ok(source) = std::fs::read(&source.path)
            {
                reports.push((file, audit_bytes(&source)));
            }
        }
    };
    let (start, cpu_before) = (Instant::now(), own_cpu_time());
    let mut reports = vec![None; files.len()];
    std::thread::scope(|scope| {
        let spawn = |number| {
            let name = format!("audit-{number}");
            std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn_scoped(scope, work)
        };
        let threads = (0..threads).map(spawn).collect::<std::io::Result<Vec<_>>>().context("cannot start a thread")?;
        for thread in threads {
            let done = thread.join().map_err(|_| anyhow::anyhow!("the parser panicked in this process"))?;
            done.into_iter().for_each(|(file, report)| reports[file] = Some(report));
        }
        anyhow::Ok(())
    })?;
    Ok(Native { reports, elapsed: start.elapsed(), cpu: own_cpu_time().saturating_sub(cpu_before) })
}

impl Native {
    /// Compares file by file.
    pub(crate) fn compare(&self, sandboxed: &[FileResult]) -> Comparison {
        let mut comparison = Comparison::default();
        for (native, sandboxed) in self.reports.iter().zip(sandboxed) {
            match (native, sandboxed) {
                (Some(native), FileResult::Audited(report)) if native == report => comparison.equal += 1,
                (Some(_), FileResult::Audited(_)) => comparison.different += 1,
                _ => comparison.left_out += 1,
            }
        }
        comparison
    }
}
