//! What the audit has found, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use audit_core::Report;

use crate::farm::{FileResult, Load, Pass};
use crate::sources::{SourceFile, Sources};

/// Longest name of a crate, and longest outcome of a file, in columns.
const MAX_NAME: usize = 34;
const MAX_OUTCOME: usize = 150;

/// The sums of one crate, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    files: u64,
    lines: u64,
    functions: u64,
    unsafe_functions: u64,
    unsafe_blocks: u64,
    unsafe_impls: u64,
    not_parsed: u64,
    not_audited: u64,
}

impl Row {
    fn add(&mut self, result: &FileResult) {
        self.files += 1;
        let FileResult::Audited(report) = result else {
            self.not_audited += 1;
            return;
        };
        let Report { lines, functions, unsafe_functions, unsafe_blocks, unsafe_impls, .. } = report;
        self.lines += lines;
        self.functions += functions;
        self.unsafe_functions += unsafe_functions;
        self.unsafe_blocks += unsafe_blocks;
        self.unsafe_impls += unsafe_impls;
        self.not_parsed += u64::from(report.parse_error.is_some());
    }

    fn unsafe_total(&self) -> u64 {
        self.unsafe_functions + self.unsafe_blocks + self.unsafe_impls
    }

    fn write(&self, name: &str, text: &mut String) {
        let Row { files, lines, functions, .. } = self;
        let (blocks, fns, impls) = (self.unsafe_blocks, self.unsafe_functions, self.unsafe_impls);
        let (parse, audit) = (self.not_parsed, self.not_audited);
        let name = cut(name, MAX_NAME);
        let _ = writeln!(
            text,
            "{name:<MAX_NAME$} {files:>7} {lines:>9} {functions:>9} {blocks:>8} {fns:>8} {impls:>8} {parse:>8} {audit:>8}"
        );
    }
}

/// One line a crate, those with the most unsafe code first, `top` of them at most; then the sum of all.
pub(crate) fn crates(sources: &Sources, results: &[FileResult], top: usize) -> String {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut total = Row::default();
    for (file, result) in sources.files.iter().zip(results) {
        rows.entry(sources.crate_name(file.krate)).or_default().add(result);
        total.add(result);
    }
    let mut rows: Vec<(String, Row)> = rows.into_iter().collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse((row.unsafe_total(), row.lines)));

    let mut text = format!(
        "{:<MAX_NAME$} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}\n{:<MAX_NAME$} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "",
        "",
        "",
        "",
        "unsafe",
        "unsafe",
        "unsafe",
        "not",
        "not",
        "crate",
        "files",
        "lines",
        "functions",
        "blocks",
        "fns",
        "impls",
        "parsed",
        "audited",
    );
    rows.iter().take(top).for_each(|(name, row)| row.write(name, &mut text));
    if rows.len() > top {
        let _ = writeln!(text, "… and {} more (--all prints them)", rows.len() - top);
    }
    total.write(&format!("all {} crates", rows.len()), &mut text);
    text
}

/// The files that have no report, with their outcomes; empty if there is none.
pub(crate) fn bad_files(files: &[SourceFile], results: &[FileResult]) -> String {
    let mut text = String::new();
    for (file, result) in files.iter().zip(results) {
        let outcome = match result {
            FileResult::Audited(_) => continue,
            FileResult::Ended(outcome) => outcome.to_string(),
            FileResult::Unsent(error) => format!("not sent: {error}"),
        };
        let _ = writeln!(text, "  {} ({} bytes)\n    {}", file.path.display(), file.bytes, cut(&outcome, MAX_OUTCOME));
    }
    text
}

/// How much went through in how much time.
pub(crate) fn throughput(files: &[SourceFile], results: &[FileResult], elapsed: Duration) -> String {
    let lines: u64 =
        results.iter().map(|result| if let FileResult::Audited(report) = result { report.lines } else { 0 }).sum();
    let per_second = |amount: f64| amount / elapsed.as_secs_f64();
    format!(
        "{} files, {:.1} MB, {lines} lines in {:.2} s: {:.0} files/s, {:.1} MB/s, {:.0} lines/s",
        files.len(),
        megabytes(files),
        elapsed.as_secs_f64(),
        per_second(as_float(files.len() as u64)),
        per_second(megabytes(files)),
        per_second(as_float(lines)),
    )
}

/// What each gateway has done.
pub(crate) fn loads(pass: &Pass) -> String {
    let mut text = String::new();
    for Load { gateway, files, cpu } in &pass.loads {
        let share = cpu.map_or_else(|| "worker was lost".to_owned(), |cpu| share(cpu, pass.elapsed));
        let _ = writeln!(text, "  {gateway:<5} {files:>6} files {share}");
    }
    let _ = writeln!(text, "  {:<18} {}", "host", share(pass.host_cpu, pass.elapsed));
    text
}

fn share(cpu: Duration, elapsed: Duration) -> String {
    let percent = 100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64();
    format!("{:>7.2} s of processor time, {percent:>3.0} % of the time", cpu.as_secs_f64())
}

/// How many processors the pass had on average: less than there are where the machine does other things as well.
pub(crate) fn processors(pass: &Pass) -> f64 {
    let workers: Duration = pass.loads.iter().filter_map(|load| load.cpu).sum();
    (workers + pass.host_cpu).as_secs_f64() / pass.elapsed.as_secs_f64()
}

pub(crate) fn megabytes(files: &[SourceFile]) -> f64 {
    as_float(files.iter().map(|file| file.bytes).sum()) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "for three digits on a terminal")]
fn as_float(number: u64) -> f64 {
    number as f64
}

/// The text on one line, cut to `width` columns.
fn cut(text: &str, width: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() > width {
        line = line.chars().take(width - 1).chain(['…']).collect();
    }
    line
}
