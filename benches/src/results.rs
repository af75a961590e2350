//! The outcome of a run: a line for each figure, with both sides, their ratio, and whether the target is met.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::machine::Machine;
use crate::peer::Peers;
use crate::rounds::{AllMeasured, Measured};
use crate::rows::{Effort, Other, Point, Row, Target, Unit};
use crate::stats::{Spread, Statistic};

/// Everything that a run has found out; its form as JSON is what `--json` writes.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Which layers of the system's sandbox are around workers; for who asked them to say.
    pub(crate) sandbox: String,
    pub(crate) sandgate: &'static str,
    pub(crate) optimised: bool,
    pub(crate) peers: BTreeSet<String>,
    pub(crate) effort: Effort,
    pub(crate) rounds: u32,
    pub(crate) lines: Vec<Line>,
}

/// One figure of one row.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) row: String,
    pub(crate) title: String,
    pub(crate) note: &'static str,
    pub(crate) statistic: Statistic,
    /// Whether the row has other figures, too.
    #[serde(skip)]
    pub(crate) has_siblings: bool,
    pub(crate) in_table: bool,
    pub(crate) point: Option<Point>,
    pub(crate) unit: Unit,
    pub(crate) ours: Option<Spread>,
    /// Why there is none, or none of every round.
    pub(crate) ours_error: Option<String>,
    /// With whom it is compared.
    pub(crate) other_name: Option<String>,
    pub(crate) other: Option<Spread>,
    pub(crate) other_error: Option<String>,
    pub(crate) comparison: Option<Comparison>,
    pub(crate) target: Target,
    pub(crate) verdict: Verdict,
    /// Quantiles of all rounds' samples together, a hundred of them, where the distribution is plotted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) distributions: Option<[Vec<f64>; 2]>,
}

/// Ours against the other's, round by round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// The rounds' ratios, above 1 where ours is better; `None` where one side is zero.
    pub(crate) ratio: Option<Spread>,
    /// Rounds in which ours was better.
    pub(crate) ahead: usize,
    /// Rounds in which the other was.
    pub(crate) behind: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Nothing is aimed at.
    None,
    Met,
    Missed,
    /// One side could not be measured.
    Unknown,
}

impl Results {
    pub(crate) fn new(
        machine: Machine,
        effort: Effort,
        rounds: u32,
        peers: Option<&Peers>,
        rows: &[Row],
        measured: &AllMeasured,
    ) -> Results {
        let nothing = Measured::default();
        let lines = rows.iter().flat_map(|row| lines_of(row, measured.get(&row.key).unwrap_or(&nothing), peers));
        Results {
            machine,
            sandbox: String::new(),
            sandgate: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            peers: peers.map(Peers::described).unwrap_or_default(),
            effort,
            rounds,
            lines: lines.collect(),
        }
    }

    /// Whether our side of every row was measured.
    pub(crate) fn is_complete(&self) -> bool {
        self.lines.iter().all(|line| line.ours_error.is_none())
    }
}

fn lines_of(row: &Row, measured: &Measured, peers: Option<&Peers>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, &statistic) in row.statistics.iter().enumerate() {
        let figures = |rounds: &[Vec<f64>]| rounds.iter().filter_map(|samples| statistic.of(samples)).collect();
        let ours = Spread::of(figures(&measured.ours.rounds));
        let other = Spread::of(figures(&measured.other.rounds));
        let comparison = ours
            .as_ref()
            .zip(other.as_ref())
            .map(|(ours, other)| Comparison::of(&ours.rounds, &other.rounds, row.unit));
        let target = if index == 0 { row.target } else { Target::default() };
        let all = |rounds: &[Vec<f64>]| {
            let samples: Vec<f64> = rounds.concat();
            (0..=100).filter_map(|percent| crate::stats::quantile(&samples, f64::from(percent) / 100.0)).collect()
        };
        let point = row.point.filter(|_| index == 0);
        let is_distribution = point.is_some_and(|point| point.plot == crate::rows::Plot::Latency);
        lines.push(Line {
            row: row.key.clone(),
            title: row.title.clone(),
            note: if index == 0 { row.note } else { "" },
            statistic,
            has_siblings: row.statistics.len() > 1,
            in_table: row.in_table,
            point,
            unit: row.unit,
            verdict: verdict(target, ours.as_ref(), comparison.as_ref()),
            distributions: is_distribution.then(|| [all(&measured.ours.rounds), all(&measured.other.rounds)]),
            ours,
            ours_error: measured.ours.error.clone(),
            other_name: other_name(&row.other, peers),
            other,
            other_error: measured.other.error.clone(),
            comparison,
            target,
        });
    }
    lines
}

fn other_name(other: &Other, peers: Option<&Peers>) -> Option<String> {
    match other {
        Other::Nobody => None,
        Other::Script { script, .. } => peers.map(|peers| peers.name(script)),
        Other::Here { name, .. } => Some((*name).to_owned()),
    }
}

/// Whether the medians are what is aimed at.
fn verdict(target: Target, ours: Option<&Spread>, comparison: Option<&Comparison>) -> Verdict {
    if target == Target::default() {
        return Verdict::None;
    }
    let Some(ours) = ours else { return Verdict::Unknown };
    if target.most.is_some_and(|most| ours.median > most) {
        return Verdict::Missed;
    }
    if target.ratio.is_none() && !target.ahead {
        return Verdict::Met;
    }
    let Some(ratio) = comparison.and_then(|comparison| comparison.ratio.as_ref()) else { return Verdict::Unknown };
    let enough = target.ratio.is_none_or(|least| ratio.median >= least) && (!target.ahead || ratio.median > 1.0);
    if enough { Verdict::Met } else { Verdict::Missed }
}

impl Comparison {
    fn of(ours: &[f64], other: &[f64], unit: Unit) -> Comparison {
        let pairs = || {
            let pairs = ours.iter().copied().zip(other.iter().copied());
            // What is better is divided by what is worse where ours is ahead.
            pairs.map(|(ours, other)| if unit.more_is_better() { (ours, other) } else { (other, ours) })
        };
        let ratios: Vec<f64> = pairs().map(|(better, worse)| better / worse).collect();
        let finite = ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0);
        Comparison {
            ratio: if finite { Spread::of(ratios) } else { None },
            ahead: pairs().filter(|(better, worse)| better > worse).count(),
            behind: pairs().filter(|(better, worse)| better < worse).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_says_who_is_better() {
        let check = |ours: &[f64], other: &[f64], unit, ratio: Option<f64>, ahead, behind| {
            let comparison = Comparison::of(ours, other, unit);
            let of_medians = comparison.ratio.map(|ratio| ratio.median);
            assert_eq!((of_medians, comparison.ahead, comparison.behind), (ratio, ahead, behind), "{ours:?} {other:?}");
        };
        check(&[1.0, 1.0], &[2.0, 4.0], Unit::Seconds, Some(3.0), 2, 0);
        check(&[1.0, 1.0], &[2.0, 4.0], Unit::PerSecond, Some(0.375), 0, 2);
        check(&[1.0, 4.0], &[2.0, 2.0], Unit::Kilobytes, Some(1.25), 1, 1);
        check(&[0.0, 0.0], &[1.0, 0.0], Unit::SwitchesPerSecond, None, 1, 0);
    }

    #[test]
    fn a_target_is_met_missed_or_open() {
        let check = |target: Target, ours: Option<f64>, other: Option<f64>, expected| {
            let spread = |value: f64| Spread::of(vec![value]).unwrap();
            let comparison = ours.zip(other).map(|(ours, other)| Comparison::of(&[ours], &[other], Unit::Seconds));
            assert_eq!(
                verdict(target, ours.map(spread).as_ref(), comparison.as_ref()),
                expected,
                "{target:?} {ours:?}"
            );
        };
        let times = Target { ratio: Some(2.0), ..Target::default() };
        check(times, Some(1.0), Some(2.0), Verdict::Met);
        check(times, Some(1.1), Some(2.0), Verdict::Missed);
        check(times, Some(1.0), None, Verdict::Unknown);
        check(times, None, Some(2.0), Verdict::Unknown);
        let fast = Target { ahead: true, most: Some(0.05), ..Target::default() };
        check(fast, Some(0.04), Some(0.041), Verdict::Met);
        check(fast, Some(0.04), Some(0.04), Verdict::Missed);
        check(fast, Some(0.06), Some(1.0), Verdict::Missed);
        check(Target { most: Some(0.0), ..Target::default() }, Some(0.0), None, Verdict::Met);
        check(Target::default(), Some(1.0), Some(9.0), Verdict::None);
    }
}
