//! From nothing to a value: how long a new gateway takes to its first result.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Makes a gateway, runs a task on it, and receives one value. The end of both is not measured.
#[derive(Debug, Serialize)]
pub(crate) struct FirstResult {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

impl Question for FirstResult {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let module = fixtures.module("send_one")?;
        let mut samples = Vec::new();
        for _ in 0..self.warm_up + self.count {
            let start = Instant::now();
            let group = fixtures.group(1)?;
            let channel = group[0].remote_exec(&module)?;
            let one: u32 = channel.receive()?;
            samples.push(start.elapsed().as_secs_f64());
            assert_eq!(one, 1);
            channel.wait_close()?;
            group.terminate(Duration::MAX);
        }
        Ok(samples.split_off(self.warm_up as usize))
    }
}
