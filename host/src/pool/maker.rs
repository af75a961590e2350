//! Real gateways for a pool: each in a group of its own, with the module loaded.

use std::sync::Arc;

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
    pub(super) specs: Vec<Spec>,
    pub(super) module: Module,
    pub(super) call: Call,
}

impl GroupMaker {
    fn make_of(&self, spec: Spec) -> Result<Made, PoolError> {
        let group = self.group.clone().with_hosts(Arc::clone(&self.hosts)).build();
        let gateway = group.make_gateway(spec).map_err(PoolError::Gateway)?;
        gateway.connection().prepare(&self.module, &self.call).map_err(PoolError::Module)?;
        Ok(Made { gateway, group: Some(group) })
    }
}

impl Drop for GroupMaker {
    fn drop(&mut self) {
        self.hosts.close_for_good();
    }
}

impl Maker for GroupMaker {
    fn make(&self, lane: usize) -> Result<Made, PoolError> {
        self.make_of(self.specs[lane].clone())
    }

    fn make_spare(&self, number: u64) -> Result<Made, PoolError> {
        self.make_of(self.specs[0].clone().id(format!("spare{number}")))
    }
}
