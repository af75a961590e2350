//! Figures made of samples. Knows numbers, not what they measure.

use serde::Serialize;

/// Which figure a round's samples are summed up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Statistic {
    Median,
    Mean,
    P99,
}

/// The figures of all rounds: the middle one, the quartiles, the extremes, and each of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) quartiles: [f64; 2],
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Statistic {
    /// The figure of these samples; `None` if there are none.
    pub(crate) fn of(self, samples: &[f64]) -> Option<f64> {
        match self {
            Statistic::Median => quantile(samples, 0.5),
            Statistic::P99 => quantile(samples, 0.99),
            Statistic::Mean if samples.is_empty() => None,
            Statistic::Mean => Some(samples.iter().sum::<f64>() / samples.len() as f64),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Statistic::Median => "median",
            Statistic::Mean => "mean",
            Statistic::P99 => "p99",
        }
    }
}

impl Spread {
    /// The spread of one figure over the rounds; `None` if there are none.
    pub(crate) fn of(rounds: Vec<f64>) -> Option<Spread> {
        let median = quantile(&rounds, 0.5)?;
        let quartiles = [quantile(&rounds, 0.25)?, quantile(&rounds, 0.75)?];
        let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Spread { median, quartiles, least, most, rounds })
    }
}

/// The value below which a share of the samples lies, between two neighbours in proportion.
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * sorted.len().checked_sub(1)? as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length of a vector")]
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    Some(sorted[below] + (sorted[above] - sorted[below]) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_samples() {
        let check = |samples: &[f64], expected: [Option<f64>; 3]| {
            let figures = [Statistic::Median, Statistic::Mean, Statistic::P99].map(|statistic| statistic.of(samples));
            assert_eq!(figures, expected, "{samples:?}");
        };
        check(&[], [None; 3]);
        check(&[3.0], [Some(3.0); 3]);
        check(&[5.0, 1.0], [Some(3.0), Some(3.0), Some(4.96)]);
        check(&[9.0, 1.0, 2.0], [Some(2.0), Some(4.0), Some(8.86)]);
    }

    #[test]
    fn a_spread_keeps_every_round() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            spread,
            Spread { median: 2.0, quartiles: [1.5, 2.5], least: 1.0, most: 3.0, rounds: vec![3.0, 1.0, 2.0] }
        );
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
