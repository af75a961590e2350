//! The end of gateways whose tasks wait for a message that never comes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sandgate::Ending;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// What `terminate` is given, on both sides. Neither should need it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Gateways are blocked for so long before they are ended, so that nothing of their start is counted; for the peer as well.
const BLOCKED: Duration = Duration::from_millis(300);

/// Seconds from the call of `terminate` to its return.
#[derive(Debug, Serialize)]
pub(crate) struct Terminate {
    pub(crate) count: u32,
    pub(crate) gateways: u32,
}

impl Question for Terminate {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let module = fixtures.module("echo")?;
        let mut samples = Vec::new();
        for _ in 0..self.count {
            let group = fixtures.group(self.gateways as usize)?;
            let channels = group.remote_exec(&module)?;
            channels.send_each(&1_u32)?;
            channels.receive_each::<u32>()?;
            thread::park_timeout(BLOCKED);
            let start = Instant::now();
            let report = group.terminate(TIMEOUT);
            samples.push(start.elapsed().as_secs_f64());
            let unclean: Vec<_> = report.gateways.iter().filter(|gateway| gateway.ending != Ending::Clean).collect();
            ensure!(report.is_clean(), "not all gateways ended gently: {unclean:?}");
        }
        Ok(samples)
    }
}
