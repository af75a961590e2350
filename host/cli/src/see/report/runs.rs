//! The runs that a report shows: recorded as they end, in a few bytes each, and put in order at the end.

use std::time::Duration;

use sandgate::OutcomeKind;

use crate::see::tally::Run;

/// Runs that are kept; beyond that those that ended well are left out, and beyond twice that all.
pub(super) const MOST_RUNS: usize = 1_000_000;
/// Bytes of names that are kept.
const MOST_NAMES: usize = 16 << 20;
/// Marks a run that was repeated, in its outcome's byte.
pub(super) const AGAIN: u8 = 0x80;
pub(super) const NO_NAME: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Row {
    start_us: u64,
    took_us: f32,
    task: u32,
    name: u32,
    gateway: u16,
    outcome: u8,
    attempt: u8,
}

/// Records runs.
#[derive(Debug, Default)]
pub(in crate::see) struct Recorder {
    rows: Vec<Row>,
    names: Vec<u8>,
    /// Where each name ends.
    ends: Vec<u32>,
    left_out: u64,
}

/// Runs by gateway and time, a column for each thing that is known of them.
#[derive(Debug, Default, PartialEq)]
pub(in crate::see) struct Runs {
    pub(super) start_us: Vec<f64>,
    pub(super) took_us: Vec<f32>,
    pub(super) task: Vec<u32>,
    pub(super) name: Vec<u32>,
    pub(super) outcome: Vec<u8>,
    pub(super) attempt: Vec<u8>,
    /// Where the runs of each gateway begin, and where the last one's end.
    pub(super) offsets: Vec<usize>,
    pub(super) names: Vec<u8>,
    pub(super) ends: Vec<u32>,
    pub(super) left_out: u64,
}

impl Recorder {
    pub(in crate::see) fn run(&mut self, run: &Run, name: Option<&str>) {
        let is_well = run.outcome == OutcomeKind::Returned;
        if self.rows.len() >= MOST_RUNS * if is_well { 1 } else { 2 } {
            self.left_out += 1;
            return;
        }
        let name = name.map_or(NO_NAME, |name| self.name(name));
        self.rows.push(Row {
            start_us: micros(run.start),
            took_us: run.end.saturating_sub(run.start).as_secs_f32() * 1e6,
            task: u32::try_from(run.task).unwrap_or(u32::MAX),
            name,
            gateway: u16::try_from(run.gateway).unwrap_or(u16::MAX),
            outcome: run.outcome as u8 | if run.again { AGAIN } else { 0 },
            attempt: u8::try_from(run.attempt).unwrap_or(u8::MAX),
        });
    }

    fn name(&mut self, name: &str) -> u32 {
        if self.names.len() + name.len() > MOST_NAMES {
            return NO_NAME;
        }
        self.names.extend_from_slice(name.as_bytes());
        self.ends.push(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        u32::try_from(self.ends.len() - 1).unwrap_or(NO_NAME)
    }

    pub(in crate::see) fn finish(mut self, gateways: usize) -> Runs {
        self.rows.sort_by_key(|row| (row.gateway, row.start_us));
        let rows = &self.rows;
        let offset = |gateway| rows.partition_point(|row| usize::from(row.gateway) < gateway);
        #[expect(clippy::cast_precision_loss, reason = "exact for two hundred years")]
        Runs {
            start_us: rows.iter().map(|row| row.start_us as f64).collect(),
            took_us: rows.iter().map(|row| row.took_us).collect(),
            task: rows.iter().map(|row| row.task).collect(),
            name: rows.iter().map(|row| row.name).collect(),
            outcome: rows.iter().map(|row| row.outcome).collect(),
            attempt: rows.iter().map(|row| row.attempt).collect(),
            offsets: (0..=gateways).map(offset).collect(),
            names: self.names,
            ends: self.ends,
            left_out: self.left_out,
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
