//! One message to a task and its echo back, again and again: how long a small one takes, how much a large one carries.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Seconds from a message to its echo.
#[derive(Debug, Serialize)]
pub(crate) struct PingPong {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
    pub(crate) size: u32,
}

/// Megabytes a second, each byte counted once on its way there and back.
#[derive(Debug, Serialize)]
pub(crate) struct EchoLarge {
    pub(crate) count: u32,
    pub(crate) warm_up: u32,
    pub(crate) size: u32,
}

impl Question for PingPong {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let group = fixtures.group(1)?;
        let channel = group[0].remote_exec(&fixtures.module("echo")?)?;
        let message = vec![b'Z'; self.size as usize];
        let mut samples = Vec::new();
        for _ in 0..self.warm_up + self.count {
            let start = Instant::now();
            channel.send_bytes(&message[..])?;
            let answer = channel.receive_bytes()?;
            samples.push(start.elapsed().as_secs_f64());
            assert_eq!(answer.len(), message.len());
        }
        channel.close_send();
        channel.wait_close()?;
        Ok(samples.split_off(self.warm_up as usize))
    }
}

impl Question for EchoLarge {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let &EchoLarge { count, warm_up, size } = self;
        let samples = PingPong { count, warm_up, size }.measure(fixtures)?;
        Ok(samples.into_iter().map(|seconds| f64::from(size) / 1e6 / seconds).collect())
    }
}
