//! Pools over machines: which, and how much work each gateway gets.

use super::PoolBuilder;
use crate::pool::machines::Machines;
use crate::spec::Spec;

/// Most tasks that a gateway is given at once, unless the builder says otherwise. A gateway gets fewer if its tasks take
/// long: about 12 ms of work, and one task more than the one that runs at least.
pub const DEFAULT_IN_FLIGHT: usize = 1024;
/// The same of a gateway on another machine, for which the tasks of the time there and back are under way besides.
pub const DEFAULT_FAR_IN_FLIGHT: usize = 1024;

impl PoolBuilder {
    /// As many gateways of each of these specs as its machine has cores, instead of a number of equal ones.
    ///
    /// Work begins as soon as one of them is ready; the others join when they are. One that is lost gets its gateways again once
    /// it is back, and the others do its work meanwhile. One that is not reached has one gateway, of whose attempts to start
    /// [`PoolEvent::GatewayFailed`](crate::PoolEvent::GatewayFailed) tells, the first after a quarter of a second, later ones
    /// after 15 s. It is an error only if no machine is ready; and if none can be reached for eight attempts in a row later, about
    /// half a minute and whatever the attempts take, tasks end with
    /// [`TaskError::NoGateway`](crate::TaskError::NoGateway).
    ///
    /// [`Pool::machines`](super::Pool::machines) lets others join and leave later.
    #[must_use]
    pub fn machines(mut self, specs: impl IntoIterator<Item = Spec>) -> PoolBuilder {
        self.machines = specs.into_iter().collect();
        self
    }

    /// The same of a list that may change while the pool runs. If it is empty when the pool is built, there are gateways on this
    /// machine as without it; they stay when others join.
    #[must_use]
    pub fn machines_of(mut self, machines: &Machines) -> PoolBuilder {
        self.list = Some(machines.clone());
        self
    }
}
