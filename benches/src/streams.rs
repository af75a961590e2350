//! Small messages one after the other, in one direction: how many a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use sandgate::{Call, Event};
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// A task sends, the host receives; counted from the first message on.
#[derive(Debug, Serialize)]
pub(crate) struct StreamToHost {
    pub(crate) count: u32,
    pub(crate) size: u32,
}

/// A task sends, a callback of the host takes; counted from the call of the task to its end.
#[derive(Debug, Serialize)]
pub(crate) struct StreamToCallback {
    pub(crate) count: u32,
    pub(crate) size: u32,
}

/// The host sends, a task receives, until the task says that it has all.
#[derive(Debug, Serialize)]
pub(crate) struct StreamToGuest {
    pub(crate) count: u32,
    pub(crate) size: u32,
}

impl Question for StreamToHost {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let group = fixtures.group(1)?;
        let call = Call::start().args(&(self.count + 1, self.size))?;
        let channel = group[0].remote_exec_with(&fixtures.module("sends_bytes")?, &call)?;
        channel.receive_bytes()?;
        let start = Instant::now();
        for _ in 0..self.count {
            channel.receive_bytes()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        channel.wait_close()?;
        Ok(vec![f64::from(self.count) / seconds])
    }
}

impl Question for StreamToCallback {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let group = fixtures.group(1)?;
        let module = fixtures.module("sends_bytes")?;
        // The module is there before the clock starts.
        group[0].remote_exec_with(&module, &Call::start().args(&(0_u32, 0_u32))?)?.wait_close()?;

        let taken = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&taken);
        let call = Call::start().args(&(self.count, self.size))?;
        let start = Instant::now();
        let channel = group[0].remote_exec_with(&module, &call)?;
        channel.set_callback(move |event: Event<[u8; 16]>| {
            if let Event::Item(_) = event {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        channel.wait_close()?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(taken.load(Ordering::Relaxed) == self.count, "messages were lost");
        Ok(vec![f64::from(self.count) / seconds])
    }
}

impl Question for StreamToGuest {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let group = fixtures.group(1)?;
        let call = Call::start().args(&self.count)?;
        let channel = group[0].remote_exec_with(&fixtures.module("takes_bytes")?, &call)?;
        let message = vec![b'Z'; self.size as usize];
        let start = Instant::now();
        for _ in 0..self.count {
            channel.send_bytes(&message[..])?;
        }
        let bytes: u64 = channel.receive()?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(bytes == u64::from(self.count) * u64::from(self.size), "messages were lost");
        channel.wait_close()?;
        Ok(vec![f64::from(self.count) / seconds])
    }
}
