//! Prints results: as a table for a terminal, and as the page benches/RESULTS.md.

use std::fmt::Write;

use crate::results::{Line, Results, Verdict};
use crate::rows::{Effort, Target, Unit};
use crate::stats::Spread;

const HEADINGS: [&str; 7] = ["", "sandgate", "beside", "", "ratio", "target", ""];

/// The table for a terminal.
pub(crate) fn text(results: &Results) -> String {
    let mut out = format!("{}\n{}\n\n", results.machine.summary(), run(results));
    let rows: Vec<[String; 7]> =
        std::iter::once(HEADINGS.map(str::to_owned)).chain(lines(results).map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [title, ours, name, other, ratio, target, _] = [0, 1, 2, 3, 4, 5, 6].map(width);
    for [a, b, c, d, e, f, g] in &rows {
        let line = format!("{a:<title$}  {b:>ours$}  {c:<name$}  {d:>other$}  {e:>ratio$}  {f:<target$}  {g}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
    for error in errors(results) {
        let _ = writeln!(out, "{error}");
    }
    let _ = writeln!(out, "{}", summary(results));
    out
}

/// The page for the repository.
pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::from(
        "# sandgate beside its peers\n\n\
         Written by `cargo xtask bench -- --write-results`; [README.md](README.md) says how to run it again, and what is compared. \
         Each figure is the median over the rounds, with the quartiles in brackets; a ratio above 1 means that sandgate is \
         better, and is the median of the rounds' ratios.\n\n",
    );
    let _ = writeln!(out, "- Machine: {}", results.machine.summary());
    let _ = writeln!(out, "- Sandbox around workers: {}", results.sandbox);
    let _ = writeln!(out, "- Run: {}", run(results));
    let peers: Vec<&str> = results.peers.iter().map(String::as_str).collect();
    let _ = writeln!(out, "- Peers: {}", if peers.is_empty() { "none".to_owned() } else { peers.join("; ") });
    let _ = writeln!(out, "- {}\n", summary(results));
    let _ = writeln!(out, "| {} |\n|---|---:|---|---:|---:|---|---|", HEADINGS.join(" | "));
    for line in lines(results) {
        let _ = writeln!(out, "| {} |", cells(line).join(" | "));
    }
    out.push('\n');
    for line in lines(results).filter(|line| !line.note.is_empty()) {
        let beside = line.other_name.as_ref().map(|name| format!(", beside {name}")).unwrap_or_default();
        let _ = writeln!(out, "- {}{beside}: {}.", line.title, line.note);
    }
    out.push('\n');
    for error in errors(results) {
        let _ = writeln!(out, "- {error}");
    }
    out
}

fn lines(results: &Results) -> impl Iterator<Item = &Line> {
    results.lines.iter().filter(|line| line.in_table)
}

/// What could not be measured, once for each row and side.
fn errors(results: &Results) -> Vec<String> {
    let mut errors = Vec::new();
    for line in &results.lines {
        let of_peer = line.other_name.as_deref().unwrap_or("the other side");
        for (side, error) in [("sandgate", &line.ours_error), (of_peer, &line.other_error)] {
            let text =
                error.as_ref().map(|error| format!("`{}` was not measured to its end, {side}: {error}", line.row));
            errors.extend(text.filter(|text| !errors.contains(text)));
        }
    }
    errors
}

fn summary(results: &Results) -> String {
    let count = |verdict| lines(results).filter(|line| line.verdict == verdict).count();
    let missed: Vec<&str> =
        lines(results).filter(|line| line.verdict == Verdict::Missed).map(|line| line.row.as_str()).collect();
    let mut text = format!("Targets: {} met, {} missed", count(Verdict::Met), missed.len());
    if !missed.is_empty() {
        let _ = write!(text, " ({})", missed.join(", "));
    }
    match count(Verdict::Unknown) {
        0 => text,
        unknown => format!("{text}, {unknown} not measured"),
    }
}

fn run(results: &Results) -> String {
    let effort = match results.effort {
        Effort::Full => "",
        Effort::Quick => ", few samples in each",
    };
    let profile = if results.optimised { "" } else { ", not optimised: no figure counts" };
    format!(
        "sandgate {} and who it is compared with in turn, {} rounds{effort}{profile}",
        results.sandgate, results.rounds
    )
}

fn cells(line: &Line) -> [String; 7] {
    let title =
        if line.has_siblings { format!("{}, {}", line.title, line.statistic.name()) } else { line.title.clone() };
    let nothing = || "–".to_owned();
    let side = |figures: &Option<Spread>, error: &Option<String>| match (figures, error) {
        (Some(figures), _) => spread(figures, line.unit),
        (None, Some(_)) => "not measured".to_owned(),
        (None, None) => nothing(),
    };
    let ratio = line.comparison.as_ref().and_then(|comparison| comparison.ratio.as_ref());
    let verdict = match line.verdict {
        Verdict::None => String::new(),
        Verdict::Met => "met".to_owned(),
        Verdict::Missed => "**missed**".to_owned(),
        Verdict::Unknown => "not measured".to_owned(),
    };
    [
        title,
        side(&line.ours, &line.ours_error),
        line.other_name.clone().unwrap_or_else(nothing),
        side(&line.other, &line.other_error),
        ratio.map_or_else(nothing, |ratio| format!("{}×", significant(ratio.median))),
        target(line.target, line.unit),
        verdict,
    ]
}

fn target(target: Target, unit: Unit) -> String {
    let ratio = target.ratio.map(|ratio| if ratio < 2.0 { format!("{ratio:.2}×") } else { format!("{ratio:.0}×") });
    let most = target.most.map(|most| {
        let (factor, name) = scale(most, unit);
        format!("at most {:.0} {name}", most / factor)
    });
    let ahead = target.ahead.then(|| "ahead".to_owned());
    [ratio, ahead, most].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn spread(spread: &Spread, unit: Unit) -> String {
    let (factor, name) = scale(spread.median, unit);
    let number = |value: f64| significant(value / factor);
    let [first, third] = spread.quartiles;
    format!("{} {name} [{}–{}]", number(spread.median), number(first), number(third))
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
        Unit::Kilobytes if value >= 1e3 => (1e3, "MB"),
        Unit::Kilobytes => (1.0, "kB"),
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
            let rounds = vec![0.0, value / 2.0, value, value * 2.0, value * 9.0];
            let spread = super::spread(&Spread::of(rounds).unwrap(), unit);
            assert_eq!(spread, expected);
        };
        check(0.0422, Unit::Seconds, "42.2 ms [21.1–84.4]");
        check(126e-6, Unit::Seconds, "126 µs [63.0–252]");
        check(2.0, Unit::Seconds, "2.00 s [1.00–4.00]");
        check(1_230_000.0, Unit::PerSecond, "1.23 M/s [0.61–2.46]");
        check(61_000.0, Unit::PerSecond, "61.0 k/s [30.5–122]");
        check(440.0, Unit::MegabytesPerSecond, "440 MB/s [220–880]");
        check(10_068.0, Unit::Kilobytes, "10.1 MB [5.03–20.1]");
        check(55.0, Unit::Kilobytes, "55.0 kB [27.5–110]");
        check(0.0, Unit::SwitchesPerSecond, "0 /s [0–0]");
    }

    #[test]
    fn targets_are_said_as_they_are_compared() {
        let check = |target: Target, expected| assert_eq!(super::target(target, Unit::Seconds), expected);
        check(Target { ratio: Some(15.0), ..Target::default() }, "15×");
        check(Target { ratio: Some(1.0 / 1.05), ..Target::default() }, "0.95×");
        check(Target { ahead: true, most: Some(0.05), ..Target::default() }, "ahead, at most 50 ms");
        check(Target::default(), "");
    }
}
