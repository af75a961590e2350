//! Pools over real workers: results, their order and number, under failures, kills and cancellation.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod chaos;
mod feeds;
mod hostile;
mod limits_of_laziness;
mod programs;
mod results;

use sandgate::{Pool, PoolBuilder};
use sandgate_tests::{builder, module, popen};

/// The start of a pool of two gateways over one of the tasks of the guest `pooled`.
fn pool_of(task: &str) -> PoolBuilder {
    Pool::builder(&module("pooled")).task(task).group(builder()).spec(popen()).gateways(2)
}
