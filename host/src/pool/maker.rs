//! Real gateways for a pool: each in a group of its own, with the module loaded.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::builder::machines;
use super::ground::{Made, Maker};
use super::result::PoolError;
use crate::call::Call;
use crate::group::GroupBuilder;
use crate::module::Module;
use crate::remote::Hosts;
use crate::spec::Spec;

/// Makes real gateways.
#[derive(Debug)]
pub(super) struct GroupMaker {
    /// Links are the pool's: each gateway has a group of its own, and machines have one agent for all.
    pub(super) hosts: Arc<Hosts>,
    pub(super) group: GroupBuilder,
    /// One for each lane.
    pub(super) specs: Mutex<Vec<Spec>>,
    /// The lanes of machines that nobody has reached yet: the one that each is believed to have a core for.
    pub(super) unmeasured: Mutex<HashSet<usize>>,
    pub(super) module: Module,
    pub(super) call: Call,
}

impl GroupMaker {
    fn make_of(&self, spec: Spec) -> Result<Made, PoolError> {
        let group = self.group.clone().with_hosts(Arc::clone(&self.hosts)).build();
        let gateway = group.make_gateway(spec).map_err(PoolError::Gateway)?;
        gateway.connection().prepare(&self.module, &self.call).map_err(PoolError::Module)?;
        Ok(Made { gateway, group: Some(group), more: 0 })
    }
}

impl Drop for GroupMaker {
    fn drop(&mut self) {
        self.hosts.close_for_good();
    }
}

impl Maker for GroupMaker {
    fn make(&self, lane: usize) -> Result<Made, PoolError> {
        let spec = self.specs.lock()[lane].clone();
        let mut made = self.make_of(spec.clone())?;
        if self.unmeasured.lock().contains(&lane) {
            made.more = self.hosts.processors(&spec).map_err(PoolError::Gateway)?.saturating_sub(1);
            self.unmeasured.lock().remove(&lane);
        }
        Ok(made)
    }

    fn make_spare(&self, number: u64) -> Result<Made, PoolError> {
        let spec = self.specs.lock()[0].clone();
        self.make_of(spec.id(format!("spare{number}")))
    }

    fn grow(&self, lane: usize, more: usize) {
        let mut specs = self.specs.lock();
        let others = machines::others(&specs[lane], more + 1);
        specs.extend(others);
    }

    fn give_up(&self) {
        self.hosts.give_up();
    }
}
