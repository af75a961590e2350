//! What the machine's memory allows: a payload copied twice, once for each way.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::{Effort, Question};

/// Megabytes a second, each byte counted once for two copies of it, into memory that is there.
#[derive(Debug, Serialize)]
pub(crate) struct TwoCopies {
    count: u32,
    size: u32,
}

impl TwoCopies {
    /// As many as copy a gigabyte, or a fortieth of that; 5 at least, and 10,000 at most.
    pub(crate) fn of(size: u32, effort: Effort) -> TwoCopies {
        TwoCopies { count: (effort.of(25, 1000) * (1_u32 << 20) / size).clamp(5, 10_000), size }
    }
}

impl Question for TwoCopies {
    fn measure(&self, _fixtures: &Fixtures) -> Result<Vec<f64>> {
        let first = vec![b'Z'; self.size as usize];
        let (mut second, mut third) = (vec![1; first.len()], vec![2; first.len()]);
        let mut samples = Vec::new();
        for _ in 0..self.count {
            let start = Instant::now();
            second.copy_from_slice(black_box(&first));
            third.copy_from_slice(black_box(&second));
            black_box(&mut third);
            let seconds = start.elapsed().as_secs_f64();
            samples.push(f64::from(self.size) / 1e6 / seconds);
        }
        Ok(samples)
    }
}
