//! A fresh instance of a script interpreter that was initialised beforehand, and the first result of a script.

use std::time::Instant;

use anyhow::{Result, ensure};
use guest_protocol::ScriptValue;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Seconds from the call to the value of a script.
#[derive(Debug, Serialize)]
pub(crate) struct FreshScript {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
}

impl Question for FreshScript {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let module = fixtures.module("script")?.preinitialize("prepare", &(String::new(),))?;
        let group = fixtures.group(1)?;
        let gateway = &group[0];
        let mut samples = Vec::new();
        for _ in 0..self.warm_up + self.count {
            let start = Instant::now();
            let channel = gateway.remote_exec_fn(&module, "run", &("1",))?;
            let value: ScriptValue = channel.receive()?;
            samples.push(start.elapsed().as_secs_f64());
            ensure!(value == ScriptValue::Int(1), "the script's value is {value:?}");
            channel.wait_close()?;
        }
        Ok(samples.split_off(self.warm_up as usize))
    }
}
