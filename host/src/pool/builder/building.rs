//! From what users set to a pool: specs in full, the maker of gateways, the rules, the driver.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use sandgate_wire::Limits;
use sandgate_wire::limits::DEFAULT_TASK_WALL_TIME;

use super::starting::Begin;
use super::{
    DEFAULT_FAR_IN_FLIGHT, DEFAULT_IN_FLIGHT, HUNG_AFTER, Pool, PoolBuilder, REACH_ATTEMPTS, SPARES_AFTER,
    START_ATTEMPTS,
};
use crate::call::Call;
use crate::pool::core::{Core, Rules};
use crate::pool::driver::{Driver, Life, Shown};
use crate::pool::ground::{Ground, Maker};
use crate::pool::machines::{Machine, Machines};
use crate::pool::mailbox::mailbox;
use crate::pool::maker::{GroupMaker, Recipe, Site};
use crate::pool::result::PoolError;
use crate::pool::seat::{Seat, Told};
use crate::pool::work::Owners;
use crate::recycle::Recycle;
use crate::remote::ways;
use crate::spec::Spec;

impl PoolBuilder {
    /// Starts the gateways, all at once, and has the module compiled. Blocks until all of them are ready, or their machines were
    /// not reached; over [machines](Self::machines), until the first of them is.
    ///
    /// # Errors
    /// [`PoolError`] of the first that is not ready, or of one that was not reached if none was; over machines, of the first of
    /// them if none is ready, or that the module is refused if that is known before one is. Nothing is left running then.
    pub fn build(mut self) -> Result<Pool, PoolError> {
        let list = match self.list.clone() {
            Some(list) => list,
            None => Machines::new(std::mem::take(&mut self.machines))?,
        };
        let machines = list.all();
        let (sites, list, begin) = match machines.is_empty() {
            true => {
                let sites = self.sites_one_by_one()?;
                let list = self.list.take().unwrap_or_else(|| Machines::after(sites.len()));
                (sites, list, Begin::WithAll)
            }
            false => (self.recipe().sites_of(&machines, HashMap::new())?, list, Begin::WithFirst),
        };
        let specs: Vec<Spec> = sites.iter().map(|site| site.spec.clone()).collect();
        let known = machines.iter().map(|machine: &Machine| machine.number).collect();
        let (module, call, recipe) = (self.module.clone(), self.call_of(&specs), self.recipe());
        let maker = GroupMaker::new(self.group.clone(), recipe, sites, known, module, call);
        self.build_over(specs, Arc::new(maker), &list, begin)
    }

    /// How many gateways the pool begins with: those of other machines are known when these are reached.
    pub fn gateway_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let machines = self.list.as_ref().map_or_else(|| self.machines.clone(), Machines::specs);
        match (machines.len(), self.specs.len()) {
            (0, 0) => self.gateways.unwrap_or_else(cores),
            (0, count) => count,
            _ => machines.iter().map(|spec| if spec.is_here() { cores() } else { 1 }).sum(),
        }
    }

    /// Gateways that were named or counted.
    fn sites_one_by_one(&self) -> Result<Vec<Site>, PoolError> {
        let specs = match self.specs.is_empty() {
            true => vec![Spec::popen(); self.gateway_count()],
            false => self.specs.clone(),
        };
        let recipe = self.recipe();
        let named = specs.into_iter().enumerate().map(|(lane, spec)| {
            let spec = recipe.complete(spec);
            if spec.given_id().is_some() { spec } else { spec.id(format!("gw{lane}")) }
        });
        let mut specs: Vec<Spec> = named.collect();
        ways::find(&mut specs, HashMap::new()).map_err(PoolError::Gateway)?;
        Ok(specs.into_iter().map(Site::of_nobody).collect())
    }

    fn recipe(&self) -> Recipe {
        let (common, _, has_tenant) = self.group.settings();
        let recycle = if has_tenant { Recycle::for_tenant() } else { Recycle::default() };
        let least = Spec::popen().executions(1).timeout(DEFAULT_TASK_WALL_TIME).recycle(recycle);
        Recipe { defaults: [self.spec.clone(), common.clone(), least], limits: self.limits.clone() }
    }

    fn call_of(&self, specs: &[Spec]) -> Call {
        let mut call = self.call.clone();
        let mut limits = self.limits_of(specs);
        if self.reuse {
            // The host watches each task, for the worker knows of one execution alone.
            limits.wall_time = None;
        }
        call.limits = Some(limits);
        call
    }

    fn limits_of(&self, specs: &[Spec]) -> Limits {
        let given = || specs.first().map_or_else(Limits::for_tasks, |spec| spec.limits().clone());
        let mut limits = self.limits.clone().unwrap_or_else(given);
        limits.wall_time = self.deadline.or(limits.wall_time);
        limits
    }

    pub(crate) fn build_over(
        self,
        specs: Vec<Spec>,
        maker: Arc<dyn Maker>,
        machines: &Machines,
        begin: Begin,
    ) -> Result<Pool, PoolError> {
        let lanes = specs.len();
        let wall_time = self.limits_of(&specs).wall_time;
        let grace = specs.iter().map(Spec::grace).max().unwrap_or_default();
        let (notes, inbox) = mailbox();
        let seat = Seat::new(inbox);
        let told = Told { notes, seat: Arc::downgrade(&seat) };
        let epoch = Instant::now();
        let rules = Rules {
            max_losses: self.max_losses,
            max_in_flight: self.in_flight.unwrap_or(DEFAULT_IN_FLIGHT),
            max_far_in_flight: self.in_flight.unwrap_or(DEFAULT_FAR_IN_FLIGHT),
            retries: self.retries,
            retry_on: self.retry_on,
            start_attempts: START_ATTEMPTS,
            reach_attempts: REACH_ATTEMPTS,
            patience: wall_time.and_then(|wall_time| wall_time.checked_add(grace + HUNG_AFTER)),
            grace,
            sessions: self.reuse,
            watched_deadline: wall_time.filter(|_| self.reuse),
            executions: match self.reuse {
                true => 1,
                false => specs.iter().map(Spec::max_executions).max().map_or(1, |most| most as usize),
            },
        };
        let unnamed = |spec: &Spec| spec.clone().id("spare");
        let are_alike = specs.windows(2).all(|pair| unnamed(&pair[0]) == unnamed(&pair[1]));
        let spares = if are_alike { self.spares } else { 0 };
        let call = self.call_of(&specs);
        let shown = Arc::new(Shown::default());
        let mut driver = Driver {
            core: Core::new(rules, lanes, epoch, self.events.is_some()),
            ground: Ground::new(lanes, maker, self.module, call, self.reuse, told.clone(), spares),
            own: told.notes.clone(),
            events: self.events,
            epoch,
            lanes,
            shown: Arc::clone(&shown),
            owners: Owners::default(),
            drop_timeout: self.group.settings().1,
            state: Life::Open,
            told_until: Duration::ZERO,
            batch: Vec::new(),
            spares_from: None,
        };
        driver.recount();
        driver.start_all(seat.notes(), begin)?;
        driver.spares_from = (spares > 0).then(|| Instant::now() + SPARES_AFTER);
        seat.begin(driver);
        machines.follow(&told);
        let seat_of_thread = Arc::clone(&seat);
        let thread = std::thread::Builder::new().name("sandgate-pool".to_owned()).spawn(move || seat_of_thread.run());
        Ok(Pool {
            told,
            thread: Some(thread.map_err(PoolError::Thread)?),
            cancelled: Arc::default(),
            next_task: Arc::default(),
            next_owner: AtomicU64::new(0),
            epoch,
            machines: machines.clone(),
            shown,
            window: self.window,
            buffer_bytes: self.buffer_bytes,
        })
    }
}
