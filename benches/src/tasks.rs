//! Many trivial tasks over two gateways: the task processors of execnet's documentation, fed from one receive queue, and the
//! same by a pool.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use sandgate::{Event, Pool};
use serde::Serialize;

use crate::fixtures::Fixtures;
use crate::rows::Question;

/// Tasks a second. A processor sits on each gateway and gets its next task when a result of it is taken from the queue.
#[derive(Debug, Serialize)]
pub(crate) struct Tasks {
    pub(crate) count: u32,
    /// Tasks that a processor has been sent and not answered.
    pub(crate) in_flight: u32,
}

/// Tasks a second of a pool, whose one instance on each gateway serves one task after the other.
#[derive(Debug, Serialize)]
pub(crate) struct Pooled {
    pub(crate) count: u32,
    pub(crate) gateways: usize,
}

impl Question for Pooled {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let pool = Pool::builder(&fixtures.module("pooled")?)
            .task("serves_double")
            .reuse(true)
            .gateways(self.gateways)
            .group(fixtures.builder())
            .build()?;
        let run = |count: u32| -> Result<()> {
            let mut done = 0;
            for result in pool.map::<_, u64>(0..u64::from(count)) {
                ensure!(result.value? == 2 * done, "the results are out of order");
                done += 1;
            }
            ensure!(done == u64::from(count), "{done} of {count} tasks have a result");
            Ok(())
        };
        run(64 * u32::try_from(self.gateways)?)?;
        let start = Instant::now();
        run(self.count)?;
        Ok(vec![f64::from(self.count) / start.elapsed().as_secs_f64()])
    }
}

impl Question for Tasks {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let group = fixtures.group(2)?;
        let channels = group.remote_exec_fn(&fixtures.module("tasks")?, "process_item", &(10_u32,))?;
        let queue = channels.make_receive_queue::<u32>()?;

        let start = Instant::now();
        let mut to_send = (1..=self.count).rev();
        for channel in &channels {
            for task in to_send.by_ref().take(self.in_flight as usize) {
                channel.send(&task)?;
            }
        }
        let mut done = 0;
        while done < self.count {
            let (channel, event) = queue.get()?;
            if let Event::End(outcome) = event {
                bail!("a task processor has ended too early: {outcome}");
            }
            done += 1;
            if let Some(task) = to_send.next() {
                channel.send(&task)?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();

        channels.iter().for_each(sandgate::Channel::close_send);
        channels.wait_close()?;
        Ok(vec![f64::from(self.count) / seconds])
    }
}
