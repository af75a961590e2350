//! A task on a gateway that is there: a fresh instance, one result, its end.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Runs a task, receives its one value, and waits for its end: one sample each time.
#[derive(Debug, Serialize)]
pub(crate) struct RemoteExec {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

impl Question for RemoteExec {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let module = fixtures.module("send_one")?;
        let group = fixtures.group(1)?;
        let gateway = &group[0];
        let mut samples = Vec::new();
        for _ in 0..self.warm_up + self.count {
            let start = Instant::now();
            let channel = gateway.remote_exec(&module)?;
            let one: u32 = channel.receive()?;
            channel.wait_close()?;
            samples.push(start.elapsed().as_secs_f64());
            assert_eq!(one, 1);
        }
        Ok(samples.split_off(self.warm_up as usize))
    }
}
