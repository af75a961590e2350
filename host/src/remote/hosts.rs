//! The machines that a group has reached: one link for each route, shared by all gateways that take it.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sandgate_wire::link::message::{HostGreeting, Start};

use super::artefacts::RemoteArtefacts;
use super::attempts::Attempts;
use super::error::ReachError;
use super::host::RemoteHost;
use super::route::Step;
use super::running::Running;
use crate::connection::{Common, Connection};
use crate::error::{GatewayError, LaunchError};
use crate::spec::Spec;
use crate::workers::Launcher;

/// Most processors that a machine is believed to have.
const MAX_PROCESSORS: usize = 1024;

/// The links of a group.
#[derive(Debug)]
pub(crate) struct Hosts {
    tenant: Option<Arc<str>>,
    keeps_modules: bool,
    by_route: Mutex<HashMap<Route, Arc<Place>>>,
    attempts: Attempts,
}

/// The steps, and how long the link may be silent.
type Route = (Vec<Step>, Duration);

/// Locked by the one caller that connects.
type Place = Mutex<Held>;

#[derive(Debug, Default)]
struct Held {
    host: Option<Arc<RemoteHost>>,
    /// When the last attempt to reach it began, and why it failed.
    failed: Option<(Instant, ReachError)>,
}

impl Hosts {
    pub(crate) fn new(tenant: Option<Arc<str>>, keeps_modules: bool) -> Arc<Hosts> {
        Arc::new(Hosts { tenant, keeps_modules, by_route: Mutex::default(), attempts: Attempts::default() })
    }

    /// The machine at the end of a route. Blocks while it is reached, if there is no link yet or the last one is gone. Whoever
    /// waits for somebody else's attempt shares what comes of it.
    pub(crate) fn reach(
        &self,
        route: &[Step],
        heartbeat: Duration,
        patience: Duration,
    ) -> Result<Arc<RemoteHost>, ReachError> {
        let Some((step, before)) = route.split_last() else { return Err(ReachError::Closed) };
        let place = Arc::clone(self.by_route.lock().entry((route.to_vec(), heartbeat)).or_default());
        let asked = Instant::now();
        let mut held = place.lock();
        if let Some(host) = held.host.as_ref().filter(|host| !host.is_over()) {
            return Ok(Arc::clone(host));
        }
        if let Some((_, error)) = held.failed.as_ref().filter(|(began, _)| *began >= asked) {
            return Err(error.clone());
        }
        if let Some(old) = held.host.take() {
            old.join();
        }
        let began = Instant::now();
        match self.go(step, before, heartbeat, patience) {
            Ok(host) => {
                *held = Held { host: Some(Arc::clone(&host)), failed: None };
                Ok(host)
            }
            Err(error) => {
                held.failed = Some((began, error.clone()));
                Err(error)
            }
        }
    }

    fn go(
        &self,
        step: &Step,
        before: &[Step],
        heartbeat: Duration,
        patience: Duration,
    ) -> Result<Arc<RemoteHost>, ReachError> {
        let base = if before.is_empty() { None } else { Some(self.reach(before, heartbeat, patience)?) };
        if self.attempts.are_over() {
            return Err(ReachError::Closed);
        }
        let greeting = HostGreeting {
            package_version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat,
            tenant: self.tenant.as_deref().map(str::to_owned),
            keeps_modules: self.keeps_modules,
        };
        let reached = RemoteHost::reach(step, base.as_ref(), &greeting, patience, &self.attempts);
        reached.map_err(|error| if self.attempts.are_over() { ReachError::Closed } else { error })
    }

    /// Processors of a spec's machine. Blocks while it is reached.
    pub(crate) fn processors(&self, spec: &Spec) -> Result<usize, GatewayError> {
        if spec.route().is_empty() {
            return Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        }
        let host = self.reach_for(spec)?;
        Ok(usize::try_from(host.processors()).unwrap_or(usize::MAX).clamp(1, MAX_PROCESSORS))
    }

    fn reach_for(&self, spec: &Spec) -> Result<Arc<RemoteHost>, GatewayError> {
        let route = spec.route();
        self.reach(route, spec.heartbeat(), spec.hello_deadline()).map_err(|source| GatewayError::Reach {
            id: spec.given_id().unwrap_or_default().to_owned(),
            host: route.last().map(Step::name).unwrap_or_default(),
            source,
        })
    }

    /// Ends the links that nobody needs any more, the longest routes first, and waits until their launchers are gone; or until
    /// an attempt to reach one has ended.
    pub(crate) fn keep(&self, is_needed: impl Fn(&[Step], Duration) -> bool) {
        let mut places: Vec<_> = {
            let mut by_route = self.by_route.lock();
            by_route.extract_if(|(route, heartbeat), _| !is_needed(route, *heartbeat)).collect()
        };
        close(&mut places);
    }

    /// Ends what is under way to a machine that is not reached yet, and makes no more links. Never blocks.
    pub(crate) fn give_up(&self) {
        self.attempts.end_for_good();
    }

    /// Ends all links, the longest routes first, and waits until their launchers are gone. Who waits for a machine waits no
    /// more.
    pub(crate) fn close(&self) {
        self.attempts.end();
        let mut places: Vec<_> = self.by_route.lock().drain().collect();
        close(&mut places);
    }

    /// Ends all links, and makes no more.
    pub(crate) fn close_for_good(&self) {
        self.give_up();
        self.close();
    }
}

/// The longest routes first.
fn close(places: &mut [(Route, Arc<Place>)]) {
    places.sort_by_key(|((route, _), _)| std::cmp::Reverse(route.len()));
    for (_, place) in places {
        if let Some(host) = place.lock().host.take() {
            host.close();
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts the workers of a gateway on another machine.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) hosts: Arc<Hosts>,
}

impl Launcher for Remote {
    fn launch(&self, spec: &Spec, common: &Common) -> Result<Arc<Connection>, GatewayError> {
        let id = spec.given_id().unwrap_or_default().to_owned();
        let host = self.hosts.reach_for(spec)?;
        let resources = |error| GatewayError::Launch { id: id.clone(), source: LaunchError::Resources(error) };
        let start = Start::Worker {
            program: spec.worker_path().map(|path| path.as_os_str().as_bytes().to_vec()),
            directory: spec.directory().map(|path| path.as_os_str().as_bytes().to_vec()),
        };
        let (send, receive, worker) = host.start(&start).map_err(resources)?;
        let mut common = common.clone();
        common.artefacts = Arc::new(RemoteArtefacts::new(host, id.clone()));
        let transport = (Box::new(send) as _, Box::new(receive) as _);
        let worker = Running::Remote(worker);
        Connection::start(id.clone(), spec.clone(), transport, Some(worker), common).map_err(resources)
    }
}
