//! Pools over machines: how many gateways each gets.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use super::PoolBuilder;
use crate::error::GatewayError;
use crate::pool::PoolError;
use crate::remote::{Hosts, ways};
use crate::spec::Spec;

impl PoolBuilder {
    /// As many gateways of each of these specs as its machine has cores, instead of a number of equal ones. A machine that
    /// cannot be reached when the pool is built is an error; one that is lost later gets its gateways again once it is back,
    /// and the others do its work meanwhile.
    #[must_use]
    pub fn machines(mut self, specs: impl IntoIterator<Item = Spec>) -> PoolBuilder {
        self.machines = specs.into_iter().collect();
        self
    }

    /// Reaches the [`machines`](Self::machines), if there are any, to see how many cores they have. [`build`](Self::build) does
    /// that otherwise. Blocks for the specs' `hello=` at most, and while a binary is copied.
    ///
    /// # Errors
    /// [`PoolError::Gateway`] of the first that is not reached.
    pub fn reach_machines(mut self) -> Result<PoolBuilder, PoolError> {
        if self.machines.is_empty() {
            return Ok(self);
        }
        let hosts = self.group.common_hosts();
        let named = std::mem::take(&mut self.machines);
        let mut machines: Vec<Spec> = self.all_specs(named);
        ways::find(&mut machines, HashMap::new()).map_err(PoolError::Gateway)?;
        for (spec, count) in machines.iter().zip(processors(&machines, &hosts)) {
            let id = spec.given_id().unwrap_or_default();
            self.specs.push(spec.clone());
            let others = 1..count.map_err(PoolError::Gateway)?;
            self.specs.extend(others.map(|core| spec.clone().id(format!("{id}.{core}"))));
        }
        self.hosts = Some(hosts);
        Ok(self)
    }

    /// How many gateways the pool will have, once its [machines were reached](Self::reach_machines).
    pub fn gateway_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self.specs.len() {
            0 => self.gateways.unwrap_or_else(cores),
            count => count,
        }
    }
}

/// The cores of all machines, which are reached at once.
fn processors(machines: &[Spec], hosts: &Hosts) -> Vec<Result<usize, GatewayError>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = machines.iter().map(|spec| scope.spawn(move || hosts.processors(spec))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|count| count.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
