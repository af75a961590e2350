//! One call of a task: of one that is there and waits for it, and of one in a fresh instance.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Seconds from a number to the answer of a task that serves.
#[derive(Debug, Serialize)]
pub(crate) struct SessionCall {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

/// Seconds from the call of a task to its end, with its result in between.
#[derive(Debug, Serialize)]
pub(crate) struct FreshCall {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

impl Question for SessionCall {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let group = fixtures.group(1)?;
        let channel = group[0].remote_exec_fn(&fixtures.module("tasks")?, "process_item", &(3_u32,))?;
        let mut samples = Vec::new();
        for _ in 0..self.warm_up + self.count {
            let start = Instant::now();
            channel.send(&1_u32)?;
            let value: u32 = channel.receive()?;
            samples.push(start.elapsed().as_secs_f64());
            assert_eq!(value, 3);
        }
        channel.close_send();
        channel.wait_close()?;
        Ok(samples.split_off(self.warm_up as usize))
    }
}

impl Question for FreshCall {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let (group, module) = (fixtures.group(1)?, fixtures.module("tasks")?);
        let mut samples = Vec::new();
        for _ in 0..self.warm_up + self.count {
            let start = Instant::now();
            let channel = group[0].remote_exec_fn(&module, "add", &(1_u32, 2_u32))?;
            let value: u32 = channel.receive()?;
            channel.wait_close()?;
            samples.push(start.elapsed().as_secs_f64());
            assert_eq!(value, 3);
        }
        Ok(samples.split_off(self.warm_up as usize))
    }
}
