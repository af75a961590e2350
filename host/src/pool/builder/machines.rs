//! Pools over machines: how many gateways each gets, and how much work each of these.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use super::PoolBuilder;
use crate::error::GatewayError;
use crate::pool::PoolError;
use crate::remote::{Hosts, ReachError, ways};
use crate::spec::Spec;

/// Most tasks that a gateway is given at once, unless the builder says otherwise. A gateway gets fewer if its tasks take
/// long: about 4 ms of work, and one task more than the one that runs at least.
pub const DEFAULT_IN_FLIGHT: usize = 64;
/// The same of a gateway whose instance is [reused](PoolBuilder::reuse): one more is a message more, and what travels together
/// costs as much as a single one.
pub const DEFAULT_REUSED_IN_FLIGHT: usize = 256;
/// The same of a gateway on another machine, for which the tasks of the time there and back are under way besides.
pub const DEFAULT_FAR_IN_FLIGHT: usize = 1024;

impl PoolBuilder {
    /// As many gateways of each of these specs as its machine has cores, instead of a number of equal ones.
    ///
    /// Machines may leave and join. One that is lost gets its gateways again once it is back, and the others do its work
    /// meanwhile. One that cannot be reached when the pool is built joins later: it has one gateway until then, of whose
    /// attempts to start [`PoolEvent::GatewayFailed`](crate::PoolEvent::GatewayFailed) tells, the first after a quarter of a
    /// second, later ones after 15 s. It is an error only if no machine can be reached; and if none can for eight attempts in a
    /// row later, about half a minute and whatever the attempts take, tasks end with
    /// [`TaskError::NoGateway`](crate::TaskError::NoGateway).
    #[must_use]
    pub fn machines(mut self, specs: impl IntoIterator<Item = Spec>) -> PoolBuilder {
        self.machines = specs.into_iter().collect();
        self
    }

    /// Reaches the [`machines`](Self::machines), if there are any, to see how many cores they have. [`build`](Self::build) does
    /// that otherwise. Blocks for the specs' `hello=` at most, and while a binary is copied.
    ///
    /// # Errors
    /// [`PoolError::Gateway`] of the first, if none is reached.
    pub fn reach_machines(mut self) -> Result<PoolBuilder, PoolError> {
        if self.machines.is_empty() {
            return Ok(self);
        }
        let hosts = self.group.common_hosts();
        let named = std::mem::take(&mut self.machines);
        let mut machines: Vec<Spec> = self.all_specs(named);
        ways::find(&mut machines, HashMap::new()).map_err(PoolError::Gateway)?;
        for (spec, count) in machines.iter().zip(processors(&machines, &hosts)) {
            let count = match count {
                Ok(count) => count,
                Err(GatewayError::Reach { id, host, source }) => {
                    self.absent.push(Absent { lane: self.specs.len(), id, host, source });
                    1
                }
                Err(error) => return Err(PoolError::Gateway(error)),
            };
            self.specs.push(spec.clone());
            self.specs.extend(others(spec, count));
        }
        if self.absent.len() == machines.len()
            && let Some(first) = self.absent.first()
        {
            return Err(first.error());
        }
        self.hosts = Some(hosts);
        Ok(self)
    }

    /// Tasks under way that keep all gateways busy.
    pub(super) fn enough(&self, specs: &[Spec]) -> usize {
        let most_on = |spec: &Spec| match spec.route() {
            [] => self.near_in_flight(),
            _ => self.in_flight.unwrap_or(DEFAULT_FAR_IN_FLIGHT),
        };
        specs.iter().map(most_on).sum()
    }

    /// Most tasks of a gateway on this machine.
    pub(super) fn near_in_flight(&self) -> usize {
        self.in_flight.unwrap_or(if self.reuse { DEFAULT_REUSED_IN_FLIGHT } else { DEFAULT_IN_FLIGHT })
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

/// A machine that was not reached when the pool was built, and its one lane.
#[derive(Debug, Clone)]
pub(super) struct Absent {
    pub(super) lane: usize,
    id: String,
    host: String,
    source: ReachError,
}

impl Absent {
    pub(super) fn error(&self) -> PoolError {
        let Absent { id, host, source, .. } = self.clone();
        PoolError::Gateway(GatewayError::Reach { id, host, source })
    }
}

/// The gateways of a machine with so many cores besides the first.
pub(in crate::pool) fn others(first: &Spec, cores: usize) -> impl Iterator<Item = Spec> + use<> {
    let id = first.given_id().unwrap_or_default().to_owned();
    let first = first.clone();
    (1..cores).map(move |core| first.clone().id(format!("{id}.{core}")))
}

/// The cores of all machines, which are reached at once.
fn processors(machines: &[Spec], hosts: &Hosts) -> Vec<Result<usize, GatewayError>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = machines.iter().map(|spec| scope.spawn(move || hosts.processors(spec))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|count| count.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
