//! Pools over real workers: results, their order and number, under failures, kills and cancellation.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod chaos;
mod feeds;
mod hostile;
mod limits_of_laziness;
mod numbers;
mod programs;
mod replacing;
mod results;

use std::str::FromStr;

use sandgate::{Pool, PoolBuilder};
use sandgate_tests::{builder, module, popen};

/// The start of a pool of two gateways over one of the tasks of the guest `pooled`.
fn pool_of(task: &str) -> PoolBuilder {
    Pool::builder(&module("pooled")).task(task).group(builder()).spec(popen()).gateways(2)
}

/// A number that the environment may set: tests are small where all are run, and large where one is.
fn setting<T: FromStr>(variable: &str, default: T) -> T {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("`{variable}` is `{text}`, which is no number")))
}
