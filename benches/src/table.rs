//! Prints results: as a table for a terminal, and as the page benches/RESULTS.md.

use std::fmt::Write;

use crate::results::{Comparison, Line, Results};
use crate::rows::{Effort, Unit};
use crate::stats::Spread;

const HEADINGS: [&str; 5] = ["", "sandgate", "execnet", "ratio", "ahead?"];

/// The table for a terminal.
pub(crate) fn text(results: &Results) -> String {
    let mut out = format!("{}\n{}\n\n", results.machine.summary(), run(results));
    let cells: Vec<[String; 5]> = results.lines.iter().map(cells).collect();
    let rows = || std::iter::once(HEADINGS.map(str::to_owned)).chain(cells.iter().cloned());
    let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [title, ours, peer, ratio, ahead] = [0, 1, 2, 3, 4].map(width);
    for row in rows() {
        let [a, b, c, d, e] = row;
        let line = format!("{a:<title$}  {b:>ours$}  {c:>peer$}  {d:>ratio$}  {e:<ahead$}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for failure in &results.failures {
        let _ = writeln!(out, "\n{} was not measured: {}", failure.row, failure.error);
    }
    out
}

/// The page for the repository.
pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::from(
        "# sandgate beside execnet\n\n\
         Written by `cargo xtask bench -- --write-results`. Each figure is the median over the rounds, with the least and the most \
         of them in brackets; a ratio above 1 means that sandgate is better, and is the median of the rounds' ratios.\n\n",
    );
    let _ = writeln!(out, "- Machine: {}", results.machine.summary());
    let _ = writeln!(out, "- Run: {}\n", run(results));
    let _ = writeln!(out, "| {} |\n|---|---:|---:|---:|---|", HEADINGS.join(" | "));
    for line in &results.lines {
        let _ = writeln!(out, "| {} |", cells(line).join(" | "));
    }
    for failure in &results.failures {
        let _ = writeln!(out, "\n`{}` was not measured: {}", failure.row, failure.error);
    }
    out
}

fn run(results: &Results) -> String {
    let peer = results.peer.as_deref().unwrap_or("no peer");
    let effort = match results.effort {
        Effort::Full => "",
        Effort::Quick => ", few samples in each",
    };
    format!("sandgate {} and {peer}, in turn, {} rounds{effort}", results.sandgate, results.rounds)
}

fn cells(line: &Line) -> [String; 5] {
    let title =
        if line.has_siblings { format!("{}, {}", line.title, line.statistic.name()) } else { line.title.to_owned() };
    let nothing = || "–".to_owned();
    let peer = line.peer.as_ref().map_or_else(nothing, |peer| spread(peer, line.unit));
    let ratio = line.comparison.and_then(|comparison| comparison.ratio);
    let ratio = ratio.map_or_else(nothing, |ratio| format!("{}×", significant(ratio)));
    [title, spread(&line.ours, line.unit), peer, ratio, line.comparison.map_or_else(nothing, ahead)]
}

fn ahead(comparison: Comparison) -> String {
    match comparison {
        Comparison { ahead: 0, behind: 0, .. } => "even".to_owned(),
        Comparison { behind: 0, .. } => "yes".to_owned(),
        Comparison { ahead: 0, .. } => "no".to_owned(),
        Comparison { ahead, behind, .. } => format!("in {ahead} of {}", ahead + behind),
    }
}

fn spread(spread: &Spread, unit: Unit) -> String {
    let (factor, name) = scale(spread.median, unit);
    let number = |value: f64| significant(value / factor);
    format!("{} {name} [{}–{}]", number(spread.median), number(spread.least), number(spread.most))
}

/// The unit that gives a readable number, and how much of the base unit it is.
fn scale(value: f64, unit: Unit) -> (f64, &'static str) {
    match unit {
        Unit::Seconds if value >= 1.0 => (1.0, "s"),
        Unit::Seconds if value >= 1e-3 => (1e-3, "ms"),
        Unit::Seconds => (1e-6, "µs"),
        Unit::PerSecond if value >= 1e6 => (1e6, "M/s"),
        Unit::PerSecond if value >= 1e3 => (1e3, "k/s"),
        Unit::PerSecond | Unit::SwitchesPerSecond => (1.0, "/s"),
        Unit::MegabytesPerSecond => (1.0, "MB/s"),
        Unit::Kilobytes => (1e3, "MB"),
    }
}

/// Three digits, or all of those before the point.
fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable_in_every_unit() {
        let check = |value: f64, unit, expected| {
            let spread = super::spread(&Spread::of(vec![value / 2.0, value, value * 2.0]).unwrap(), unit);
            assert_eq!(spread, expected);
        };
        check(0.0422, Unit::Seconds, "42.2 ms [21.1–84.4]");
        check(126e-6, Unit::Seconds, "126 µs [63.0–252]");
        check(2.0, Unit::Seconds, "2.00 s [1.00–4.00]");
        check(1_230_000.0, Unit::PerSecond, "1.23 M/s [0.61–2.46]");
        check(61_000.0, Unit::PerSecond, "61.0 k/s [30.5–122]");
        check(440.0, Unit::MegabytesPerSecond, "440 MB/s [220–880]");
        check(10_068.0, Unit::Kilobytes, "10.1 MB [5.03–20.1]");
        check(0.0, Unit::SwitchesPerSecond, "0 /s [0–0]");
    }

    #[test]
    fn who_is_ahead_is_said_of_all_rounds() {
        let check = |ahead, behind, expected| {
            assert_eq!(super::ahead(Comparison { ratio: None, ahead, behind }), expected);
        };
        check(7, 0, "yes");
        check(0, 7, "no");
        check(5, 2, "in 5 of 7");
        check(0, 0, "even");
    }
}
