//! Measures all rows round by round: ours, the peer, ours, the peer.
//!
//! The machine's speed changes with time. So a round goes through all rows before any is measured again, and what is
//! compared lies side by side.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::fixtures::Fixtures;
use crate::peer::Peer;
use crate::rows::Row;

/// The samples of one row, a vector for each round.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) ours: Vec<Vec<f64>>,
    pub(crate) peer: Vec<Vec<f64>>,
}

/// What there is of each row, by its key: the samples, or why there are none.
pub(crate) type AllMeasured = BTreeMap<&'static str, Result<Measured>>;

pub(crate) fn measure(rows: &[Row], fixtures: &Fixtures, peer: Option<&Peer>, rounds: u32) -> AllMeasured {
    let mut all: AllMeasured = rows.iter().map(|row| (row.key, Ok(Measured::default()))).collect();
    for round in 1..=rounds {
        for row in rows {
            let Some(slot) = all.get_mut(row.key) else { continue };
            let Ok(measured) = slot else { continue };
            eprintln!("round {round} of {rounds}: {}", row.key);
            if let Err(error) = measure_once(row, fixtures, peer, measured) {
                *slot = Err(error);
            }
        }
    }
    all
}

fn measure_once(row: &Row, fixtures: &Fixtures, peer: Option<&Peer>, measured: &mut Measured) -> Result<()> {
    measured.ours.push((row.ours)(fixtures).context("ours")?);
    if let Some(peer) = peer {
        measured.peer.push(peer.ask(row.peer, &row.parameters).context("the peer")?);
    }
    Ok(())
}
