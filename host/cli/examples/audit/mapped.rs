//! Results that `sandgate map --task audit --output json` has printed, so that they can be compared like the demo's own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use audit_core::Report;
use serde::Deserialize;

use crate::farm::FileResult;
use crate::sources::SourceFile;

/// One line.
#[derive(Debug, Deserialize)]
struct Line {
    input: PathBuf,
    outcome: String,
    result: Option<Report>,
}

/// The files of a run, which are looked for from here, and what became of each.
pub(crate) fn read(path: &Path) -> Result<(Vec<SourceFile>, Vec<FileResult>)> {
    let lines = File::open(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    let read = |(number, line): (usize, std::io::Result<String>)| {
        let line: Line = serde_json::from_str(&line?).with_context(|| format!("line {number} is no result"))?;
        let bytes = line.input.metadata().with_context(|| format!("there is no `{}`", line.input.display()))?.len();
        let result = match line.result {
            Some(report) => FileResult::Audited(report),
            None => FileResult::Unsent(line.outcome),
        };
        Ok((SourceFile { path: line.input, bytes, krate: 0 }, result))
    };
    (1..).zip(BufReader::new(lines).lines()).map(read).collect()
}
