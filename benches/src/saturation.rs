//! How much of the processors tasks of a given length get: a pool, beside threads that run the same without sandgate.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sandgate::{Pool, Spec};
use serde::Serialize;

use crate::fixtures::{Fixtures, variable_of_xtask};
use crate::rows::Question;
use crate::{bare, busy};

/// Tasks a second of a pool, each in a fresh instance.
#[derive(Debug, Serialize)]
pub(crate) struct Saturation {
    pub(crate) micros: u32,
    pub(crate) gateways: usize,
    /// About how long it runs.
    pub(crate) seconds: f64,
    pub(crate) spec: &'static str,
}

/// The same on a machine that is so far away: its agent is started by a launcher that holds back whatever passes, in each
/// direction.
#[derive(Debug, Serialize)]
pub(crate) struct FarAway {
    pub(crate) micros: u32,
    pub(crate) gateways: usize,
    pub(crate) seconds: f64,
    pub(crate) delay_ms: u32,
}

/// The same by threads of this process.
#[derive(Debug, Serialize)]
pub(crate) struct BareThreads {
    pub(crate) micros: u32,
    pub(crate) threads: usize,
    pub(crate) seconds: f64,
}

/// What so many gateways would do if each did what one alone does.
#[derive(Debug, Serialize)]
pub(crate) struct OneGateway {
    pub(crate) micros: u32,
    pub(crate) times: usize,
    pub(crate) seconds: f64,
}

impl Saturation {
    pub(crate) fn new(micros: u32, gateways: usize, seconds: f64) -> Saturation {
        Saturation { micros, gateways, seconds, spec: "popen" }
    }
}

impl Question for Saturation {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        pooled(fixtures, self.spec.parse::<Spec>()?, self.gateways, self.micros, self.seconds)
    }
}

impl Question for FarAway {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let launcher = std::env::current_exe()?;
        let worker = variable_of_xtask("SANDGATE_WORKER")?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
        let delay = format!("{}ms", self.delay_ms);
        let command = [&text(&launcher)?, "delayed", &delay, &text(&worker)?, "agent"];
        pooled(fixtures, Spec::exec(command)?, self.gateways, self.micros, self.seconds)
    }
}

fn pooled(fixtures: &Fixtures, spec: Spec, gateways: usize, micros: u32, seconds: f64) -> Result<Vec<f64>> {
    let module = busy::module(busy::turns(micros)?)?;
    let pool = Pool::builder(&module).specs(vec![spec; gateways]).group(fixtures.builder()).build()?;
    let run = |count: u32| -> Result<f64> {
        let start = Instant::now();
        let mut done = 0;
        for result in pool.map_unordered::<_, ()>((0..count).map(|_| ())) {
            result.value?;
            done += 1;
        }
        ensure!(done == count, "{done} of {count} tasks have a result");
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    };
    let count = count(micros, gateways, seconds);
    run(warm_up(count))?;
    Ok(vec![run(count)?])
}

impl Question for BareThreads {
    fn measure(&self, _fixtures: &Fixtures) -> Result<Vec<f64>> {
        let tasks = bare::Tasks::compile(&busy::bytes(busy::turns(self.micros)?)?, self.threads)?;
        let count = count(self.micros, self.threads, self.seconds);
        tasks.per_second(self.threads, warm_up(count))?;
        Ok(vec![tasks.per_second(self.threads, count)?])
    }
}

impl Question for OneGateway {
    fn measure(&self, fixtures: &Fixtures) -> Result<Vec<f64>> {
        let one = Saturation::new(self.micros, 1, self.seconds).measure(fixtures)?;
        Ok(one.into_iter().map(|tasks| tasks * self.times as f64).collect())
    }
}

/// Tasks of this length that so many processors do in that time.
fn count(micros: u32, lanes: usize, seconds: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of tasks is neither")]
    let each = (seconds * 1e6 / f64::from(micros)) as u32;
    each.max(2) * u32::try_from(lanes).unwrap_or(1)
}

/// A few before the clock starts.
fn warm_up(count: u32) -> u32 {
    (count / 10).max(4)
}
