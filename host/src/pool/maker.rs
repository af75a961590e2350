//! Real gateways for a pool: each in a group of its own, with the module loaded; and on which machine each lane is.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use parking_lot::Mutex;
use sandgate_wire::Limits;

use super::ground::{Change, Made, Maker};
use super::machines::Machine;
use super::result::PoolError;
use crate::call::Call;
use crate::group::GroupBuilder;
use crate::module::Module;
use crate::recycle::Recycle;
use crate::remote::{Hosts, Step, ways};
use crate::spec::Spec;

/// What is in a pool's specs besides what was named.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// The first that says something counts.
    pub(super) defaults: [Spec; 3],
    /// Workers have room for what they were told when they started.
    pub(super) limits: Option<Limits>,
}

/// Where a lane is.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) spec: Spec,
    /// The machine's number, if it is one of [`Machines`](super::Machines).
    machine: Option<u64>,
    /// It is the one lane of a machine of which nobody knows yet how many cores it has.
    is_unmeasured: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    There,
    Leaving,
    Gone,
}

impl Site {
    /// One that no machine's comings and goings concern.
    pub(super) fn of_nobody(spec: Spec) -> Site {
        Site { spec, machine: None, is_unmeasured: false, state: State::There }
    }
}

impl Recipe {
    pub(super) fn complete(&self, spec: Spec) -> Spec {
        let spec = self.defaults.iter().fold(spec, |spec, defaults| spec.or(defaults));
        let spec = self.limits.iter().fold(spec, |spec, limits| spec.with_limits(limits.clone()));
        // A worker that is lost is the pool's to replace; one that has served its time the gateway's.
        let recycle = Recycle { after_loss: false, ..spec.recycling() };
        spec.recycle(recycle)
    }

    /// Lanes for machines that are new: one for each core of this one, one of each other for now. `known` has the ways to
    /// machines that are there.
    pub(super) fn sites_of(
        &self,
        machines: &[Machine],
        known: HashMap<String, Vec<Step>>,
    ) -> Result<Vec<Site>, PoolError> {
        let mut specs: Vec<Spec> = machines.iter().map(|machine| self.complete(machine.spec.clone())).collect();
        ways::find(&mut specs, known).map_err(PoolError::Gateway)?;
        let sites = machines.iter().zip(specs).flat_map(|(machine, spec)| {
            let is_here = spec.route().is_empty();
            let cores = if is_here { std::thread::available_parallelism().map_or(1, NonZeroUsize::get) } else { 1 };
            let first = Site { spec, machine: Some(machine.number), is_unmeasured: !is_here, state: State::There };
            let others = others(&first, cores - 1);
            std::iter::once(first).chain(others)
        });
        Ok(sites.collect())
    }
}

/// So many more lanes on the machine of one.
fn others(first: &Site, more: usize) -> impl Iterator<Item = Site> + use<> {
    let id = first.spec.given_id().unwrap_or_default().to_owned();
    let first = Site { is_unmeasured: false, ..first.clone() };
    (1..=more).map(move |core| Site { spec: first.spec.clone().id(format!("{id}.{core}")), ..first.clone() })
}

/// Makes real gateways.
#[derive(Debug)]
pub(super) struct GroupMaker {
    /// Links are the pool's: each gateway has a group of its own, and machines have one agent for all.
    hosts: Arc<Hosts>,
    group: GroupBuilder,
    recipe: Recipe,
    sites: Mutex<Sites>,
    module: Module,
    call: Call,
}

#[derive(Debug)]
struct Sites {
    /// One for each lane.
    lanes: Vec<Site>,
    /// Machines that have, or had, lanes.
    known: HashSet<u64>,
}

impl GroupMaker {
    pub(super) fn new(
        group: GroupBuilder,
        recipe: Recipe,
        lanes: Vec<Site>,
        known: HashSet<u64>,
        module: Module,
        call: Call,
    ) -> GroupMaker {
        let hosts = group.common_hosts();
        GroupMaker { hosts, group, recipe, sites: Mutex::new(Sites { lanes, known }), module, call }
    }

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
        let Site { spec, is_unmeasured, .. } = self.sites.lock().lanes[lane].clone();
        let mut made = self.make_of(spec.clone())?;
        if is_unmeasured {
            made.more = self.hosts.processors(&spec).map_err(PoolError::Gateway)?.saturating_sub(1);
            self.sites.lock().lanes[lane].is_unmeasured = false;
        }
        Ok(made)
    }

    fn make_spare(&self, number: u64) -> Result<Made, PoolError> {
        let spec = self.sites.lock().lanes[0].spec.clone();
        self.make_of(spec.id(format!("spare{number}")))
    }

    fn grow(&self, lane: usize, more: usize) {
        let mut sites = self.sites.lock();
        let others = others(&sites.lanes[lane], more);
        sites.lanes.extend(others);
    }

    fn change(&self, machines: &[Machine]) -> Change {
        let mut sites = self.sites.lock();
        let is_listed = |number: u64| machines.iter().any(|machine| machine.number == number);
        let mut leave = Vec::new();
        for (lane, site) in sites.lanes.iter_mut().enumerate().filter(|(_, site)| site.state == State::There) {
            if site.machine.is_some_and(|number| !is_listed(number)) {
                site.state = State::Leaving;
                leave.push(lane);
            }
        }
        let new: Vec<Machine> = machines.iter().filter(|it| !sites.known.contains(&it.number)).cloned().collect();
        sites.known.extend(new.iter().map(|machine| machine.number));
        let there = sites.lanes.iter().filter(|site| site.state == State::There);
        let ways = there.map(|site| (site.spec.given_id().unwrap_or_default().to_owned(), site.spec.route().to_vec()));
        let join = self.recipe.sites_of(&new, ways.collect()).unwrap_or_else(|error| {
            tracing::error!("machines do not join: {error}");
            Vec::new()
        });
        let count = join.len();
        sites.lanes.extend(join);
        Change { leave, join: count }
    }

    fn left(&self, lane: usize) {
        let needed: HashSet<_> = {
            let mut sites = self.sites.lock();
            sites.lanes[lane].state = State::Gone;
            let there = sites.lanes.iter().filter(|site| site.state != State::Gone);
            there.map(|site| (site.spec.route().to_vec(), site.spec.heartbeat())).collect()
        };
        let is_needed = |route: &[Step], heartbeat| {
            needed.iter().any(|(longer, their)| *their == heartbeat && longer.starts_with(route))
        };
        self.hosts.keep(is_needed);
    }

    fn is_far(&self, lane: usize) -> bool {
        !self.sites.lock().lanes[lane].spec.route().is_empty()
    }

    fn id(&self, lane: usize) -> Option<String> {
        self.sites.lock().lanes[lane].spec.given_id().map(str::to_owned)
    }

    fn give_up(&self) {
        self.hosts.give_up();
    }
}
