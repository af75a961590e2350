//! Measures all rows round by round: ours, the other, the other, ours.
//!
//! The machine's speed changes with time. So a round goes through all rows before any is measured again, what is compared
//! lies side by side, and who is first changes from round to round.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::fixtures::Fixtures;
use crate::peer::Peers;
use crate::rows::{Other, Row};
use crate::watchdog;

/// The longest that one side of one row may take in a round; compiling 26 MB is in it.
const LIMIT: Duration = Duration::from_secs(240);

/// The samples of one row, a vector for each round, and why there are no more.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) ours: Side,
    pub(crate) other: Side,
}

#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) rounds: Vec<Vec<f64>>,
    pub(crate) error: Option<String>,
}

/// What there is of each row, by its key.
pub(crate) type AllMeasured = BTreeMap<String, Measured>;

pub(crate) fn measure(rows: &[Row], fixtures: &Fixtures, peers: Option<&Peers>, rounds: u32) -> AllMeasured {
    let mut all = AllMeasured::new();
    for round in 0..rounds {
        for row in rows.iter().filter(|row| round < row.most_rounds) {
            let measured = all.entry(row.key.clone()).or_default();
            eprintln!("round {} of {rounds}: {}", round + 1, row.key);
            let ours_first = round % 2 == 0;
            if ours_first {
                measured.ours.take(|| (row.ours)(fixtures));
            }
            if measured.ours.error.is_none() || row.in_table {
                ask(row, fixtures, peers, &mut measured.other);
            }
            if !ours_first {
                measured.ours.take(|| (row.ours)(fixtures));
            }
        }
    }
    all
}

fn ask(row: &Row, fixtures: &Fixtures, peers: Option<&Peers>, side: &mut Side) {
    match (&row.other, peers) {
        (Other::Script { script, question, parameters }, Some(peers)) => {
            side.take(|| peers.ask(script, question, parameters));
        }
        (Other::Here { measure, .. }, _) => side.take(|| measure(fixtures)),
        (Other::Nobody, _) | (Other::Script { .. }, None) => {}
    }
}

impl Side {
    /// One more round, unless there was an error before.
    fn take(&mut self, measure: impl FnOnce() -> Result<Vec<f64>>) {
        if self.error.is_some() {
            return;
        }
        match watchdog::guard(LIMIT, measure) {
            Ok(samples) => self.rounds.push(samples),
            Err(error) => {
                eprintln!("    not measured: {error:#}");
                self.error = Some(format!("{error:#}"));
            }
        }
    }
}
