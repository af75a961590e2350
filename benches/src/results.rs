//! The outcome of a run: a line for each figure, with both sides, their ratio, and who is ahead.

use std::cmp::Ordering;

use serde::Serialize;

use crate::machine::Machine;
use crate::rounds::{AllMeasured, Measured};
use crate::rows::{Effort, Row, Unit};
use crate::stats::{Spread, Statistic};

/// Everything that a run has found out; its form as JSON is what `--json` writes.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) sandgate: &'static str,
    pub(crate) peer: Option<String>,
    pub(crate) effort: Effort,
    pub(crate) rounds: u32,
    pub(crate) lines: Vec<Line>,
    pub(crate) failures: Vec<Failure>,
}

/// One figure of one row.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) row: &'static str,
    pub(crate) title: &'static str,
    pub(crate) statistic: Statistic,
    /// Whether the row has other figures, too.
    #[serde(skip)]
    pub(crate) has_siblings: bool,
    pub(crate) unit: Unit,
    pub(crate) ours: Spread,
    pub(crate) peer: Option<Spread>,
    pub(crate) comparison: Option<Comparison>,
}

/// A row that could not be measured.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) row: &'static str,
    pub(crate) error: String,
}

/// Ours against the peer's, round by round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// The median of the rounds' ratios, above 1 where ours is better; `None` where one side is zero.
    pub(crate) ratio: Option<f64>,
    /// Rounds in which ours was better.
    pub(crate) ahead: usize,
    /// Rounds in which the peer was.
    pub(crate) behind: usize,
}

impl Results {
    pub(crate) fn new(
        machine: Machine,
        effort: Effort,
        rounds: u32,
        peer: Option<String>,
        rows: &[Row],
        measured: &AllMeasured,
    ) -> Results {
        let (mut lines, mut failures) = (Vec::new(), Vec::new());
        for row in rows {
            match &measured[row.key] {
                Ok(measured) => lines.extend(lines_of(row, measured)),
                Err(error) => failures.push(Failure { row: row.key, error: format!("{error:#}") }),
            }
        }
        Results { machine, sandgate: env!("CARGO_PKG_VERSION"), peer, effort, rounds, lines, failures }
    }
}

fn lines_of(row: &Row, measured: &Measured) -> impl Iterator<Item = Line> {
    row.statistics.iter().filter_map(|&statistic| {
        let figures = |rounds: &[Vec<f64>]| rounds.iter().filter_map(|samples| statistic.of(samples)).collect();
        let ours = Spread::of(figures(&measured.ours))?;
        let peer = Spread::of(figures(&measured.peer));
        let comparison = peer.as_ref().map(|peer| Comparison::of(&ours.rounds, &peer.rounds, row.unit));
        let has_siblings = row.statistics.len() > 1;
        let Row { key, title, unit, .. } = *row;
        Some(Line { row: key, title, statistic, has_siblings, unit, ours, peer, comparison })
    })
}

impl Comparison {
    fn of(ours: &[f64], peer: &[f64], unit: Unit) -> Comparison {
        let pairs: Vec<(f64, f64)> = ours.iter().copied().zip(peer.iter().copied()).collect();
        let gain = |&(ours, peer): &(f64, f64)| if unit.more_is_better() { (ours, peer) } else { (peer, ours) };
        let count = |ordering| {
            let gains = pairs.iter().map(gain);
            gains.filter(|(better, worse)| better.partial_cmp(worse) == Some(ordering)).count()
        };
        let ratios: Vec<f64> = pairs.iter().map(gain).map(|(better, worse)| better / worse).collect();
        let finite = ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0);
        let ratio = if finite { Statistic::Median.of(&ratios) } else { None };
        Comparison { ratio, ahead: count(Ordering::Greater), behind: count(Ordering::Less) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_says_who_is_better() {
        let check = |ours: &[f64], peer: &[f64], unit, ratio, ahead, behind| {
            assert_eq!(Comparison::of(ours, peer, unit), Comparison { ratio, ahead, behind }, "{ours:?} {peer:?}");
        };
        check(&[1.0, 1.0], &[2.0, 4.0], Unit::Seconds, Some(3.0), 2, 0);
        check(&[1.0, 1.0], &[2.0, 4.0], Unit::PerSecond, Some(0.375), 0, 2);
        check(&[1.0, 4.0], &[2.0, 2.0], Unit::Kilobytes, Some(1.25), 1, 1);
        check(&[0.0, 0.0], &[1.0, 0.0], Unit::SwitchesPerSecond, None, 1, 0);
    }
}
