//! [`Group`]: gateways that belong together, from their start to their common end.

use std::collections::HashSet;
use std::fmt;
use std::ops::Index;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sandgate_wire::outcome::WorkerLoss;
use serde::Serialize;

use crate::artefact::ArtefactStore;
use crate::call::Call;
use crate::connection::{Common, Connection};
use crate::deadline::Deadline;
use crate::error::{ExecError, GatewayError, InitError, LaunchError, MissingLayers, SpecError};
use crate::gateway::Gateway;
use crate::init::Init;
use crate::module::Module;
use crate::multi::MultiChannel;
use crate::output::{OutputRouter, OutputSink};
use crate::process::{Launch, launch};
use crate::recycle::Recycle;
use crate::remote::{Hosts, Remote, Running, ways};
use crate::schema::{DescribeError, ModuleDescription};
use crate::spec::Spec;
use crate::termination::{TerminationReport, terminate_all};
use crate::transport::{self, Connected};
use crate::workers::{Launcher, Workers, end_now};
use crate::{cache, worker_binary};

/// How long a group that is dropped lets its tasks finish, unless its builder says otherwise.
pub const DEFAULT_DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// Gateways in the order of their creation. `Send` and `Sync`; all methods take `&self`.
///
/// Dropping a group terminates it with a timeout of one second: no process, thread or descriptor of it is left.
pub struct Group {
    members: boxcar::Vec<Member>,
    /// The number of the next gateway that is not given an id; never used twice.
    next_id: Mutex<u64>,
    options: GroupBuilder,
    artefacts: Arc<ArtefactStore>,
    /// The other machines that it has reached.
    hosts: Arc<Hosts>,
    /// Gateways are made one call at a time, so that positions follow ids.
    making: Mutex<()>,
    terminated: AtomicBool,
}

#[derive(Debug)]
struct Member {
    gateway: Gateway,
    /// Whether a termination has reported it.
    reported: AtomicBool,
}

/// What a group's gateways have in common.
#[derive(Debug, Clone)]
pub struct GroupBuilder {
    default_spec: Spec,
    defaults: Spec,
    output: OutputSink,
    cache: Option<PathBuf>,
    drop_timeout: Duration,
    tenant: Option<Arc<str>>,
    /// Those of somebody else, who closes them.
    hosts: Option<Arc<Hosts>>,
    pub(crate) launcher: Arc<dyn Launcher>,
}

impl Default for GroupBuilder {
    fn default() -> Self {
        GroupBuilder {
            default_spec: Spec::popen(),
            defaults: Spec::popen(),
            output: OutputSink::default(),
            cache: cache::default_directory(),
            drop_timeout: DEFAULT_DROP_TIMEOUT,
            tenant: None,
            hosts: None,
            launcher: Arc::new(Popen),
        }
    }
}

impl GroupBuilder {
    /// What [`Group::make_default_gateway`] makes.
    #[must_use]
    pub fn default_spec(mut self, spec: Spec) -> GroupBuilder {
        self.default_spec = spec;
        self
    }

    /// Limits, grants, demands and all else that a gateway of this group has if its own spec does not say otherwise.
    #[must_use]
    pub fn defaults(mut self, defaults: Spec) -> GroupBuilder {
        self.defaults = defaults;
        self
    }

    /// Where guests' standard output and error go. Default: the host's standard error, with a prefix.
    #[must_use]
    pub fn output(mut self, sink: OutputSink) -> GroupBuilder {
        self.output = sink;
        self
    }

    /// The directory that keeps compiled modules, or `None` to keep them in memory alone. Default: `$SANDGATE_CACHE`,
    /// else `sandgate` in the user's cache directory. It must belong to this user and be writable to no other.
    /// How much it may hold is a limit of modules: [`ModuleLimits::cache_bytes`](crate::ModuleLimits::cache_bytes).
    #[must_use]
    pub fn cache(mut self, directory: Option<PathBuf>) -> GroupBuilder {
        self.cache = directory;
        self
    }

    /// How long the drop of the group lets its tasks finish. Default: 1 s.
    #[must_use]
    pub fn drop_timeout(mut self, timeout: Duration) -> GroupBuilder {
        self.drop_timeout = timeout;
        self
    }

    /// Whom the group works for. A process belongs to one group, and so to one tenant for all its life.
    ///
    /// What is not shared between tenants: worker processes; compiler processes, which serve one module each anyway; compiled
    /// modules, in memory and on disk, so that a tenant cannot tell from the time that `remote_exec` takes whether another one
    /// runs the same module. The gateways' workers are replaced as [`Recycle::for_tenant`] says, unless a spec or
    /// [`defaults`](Self::defaults) says otherwise.
    ///
    /// What is shared: the machine. Its processors, caches and memory tell a patient observer what else they are used for;
    /// tenants that must not learn that need machines of their own. This process is shared as well: its memory holds the
    /// messages of all, and callbacks of all groups run on the same threads. The cache's directory is: one tenant's modules can
    /// crowd out another's, which then are compiled again. Groups without a tenant share all of it, as one tenant does.
    #[must_use]
    pub fn tenant(mut self, name: impl Into<String>) -> GroupBuilder {
        self.tenant = Some(name.into().into());
        self
    }

    /// The common settings, the time to end, and whether there is a tenant.
    pub(crate) fn settings(&self) -> (&Spec, Duration, bool) {
        (&self.defaults, self.drop_timeout, self.tenant.is_some())
    }

    /// What reaches other machines for several groups like this one.
    pub(crate) fn common_hosts(&self) -> Arc<Hosts> {
        Hosts::new(self.tenant.clone(), self.cache.is_some())
    }

    pub(crate) fn with_hosts(mut self, hosts: Arc<Hosts>) -> GroupBuilder {
        self.hosts = Some(hosts);
        self
    }

    /// A group without gateways.
    pub fn build(mut self) -> Group {
        if self.tenant.is_some() {
            self.defaults = self.defaults.or(&Spec::popen().recycle(Recycle::for_tenant()));
        }
        Group {
            members: boxcar::Vec::new(),
            next_id: Mutex::default(),
            artefacts: ArtefactStore::shared(self.cache.clone(), self.tenant.clone()),
            hosts: self.hosts.clone().unwrap_or_else(|| self.common_hosts()),
            making: Mutex::default(),
            terminated: AtomicBool::new(false),
            options: self,
        }
    }
}

impl Group {
    /// A group with one gateway per spec, in their order. They start in parallel; blocks until all are ready.
    ///
    /// # Errors
    /// [`GatewayError`] of the first that was not made; none is left running then.
    pub fn new<S>(specs: impl IntoIterator<Item = S>) -> Result<Group, GatewayError>
    where
        S: TryInto<Spec>,
        SpecError: From<S::Error>,
    {
        let group = Group::builder().build();
        group.make_gateways(specs)?;
        Ok(group)
    }

    /// Sets up a group.
    pub fn builder() -> GroupBuilder {
        GroupBuilder::default()
    }

    /// Makes one gateway. Blocks until its worker is ready, for the spec's `hello=` at most.
    ///
    /// # Errors
    /// [`GatewayError`]; nothing of it is left running then.
    pub fn make_gateway<S>(&self, spec: S) -> Result<Gateway, GatewayError>
    where
        S: TryInto<Spec>,
        SpecError: From<S::Error>,
    {
        let mut made = self.make_gateways([spec])?;
        made.pop().ok_or(GatewayError::Terminated)
    }

    /// Makes a gateway of the group's default spec.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn make_default_gateway(&self) -> Result<Gateway, GatewayError> {
        self.make_gateway(self.options.default_spec.clone())
    }

    /// Makes several gateways, which start in parallel. All of them become members, or none.
    ///
    /// # Errors
    /// [`GatewayError`] of the first that was not made.
    pub fn make_gateways<S>(&self, specs: impl IntoIterator<Item = S>) -> Result<Vec<Gateway>, GatewayError>
    where
        S: TryInto<Spec>,
        SpecError: From<S::Error>,
    {
        let specs = specs.into_iter().map(|spec| spec.try_into().map_err(SpecError::from));
        let specs: Vec<Spec> = specs.collect::<Result<_, _>>()?;
        let _making = self.making.lock();
        let specs = self.name(specs)?;
        let gateways = self.start_all(specs)?;
        for gateway in &gateways {
            self.members.push(Member { gateway: gateway.clone(), reported: AtomicBool::new(false) });
        }
        Ok(gateways)
    }

    /// Gives every spec an id, or refuses all before anything is started.
    fn name(&self, mut specs: Vec<Spec>) -> Result<Vec<Spec>, GatewayError> {
        if self.terminated.load(Ordering::Acquire) {
            return Err(GatewayError::Terminated);
        }
        let mut next = self.next_id.lock();
        let mut taken: HashSet<String> = self.iter().map(|gateway| gateway.id().to_owned()).collect();
        for id in specs.iter().filter_map(Spec::given_id) {
            if !taken.insert(id.to_owned()) {
                return Err(GatewayError::DuplicateId { id: id.to_owned() });
            }
        }
        for spec in &mut specs {
            *spec = spec.clone().or(&self.options.defaults);
            while spec.given_id().is_none() {
                let id = format!("gw{next}");
                *next += 1;
                if taken.insert(id.clone()) {
                    *spec = spec.clone().id(id);
                }
            }
        }
        let known = self.iter().map(|gateway| (gateway.id().to_owned(), gateway.spec().route().to_vec())).collect();
        ways::find(&mut specs, known)?;
        Ok(specs)
    }

    fn start_all(&self, specs: Vec<Spec>) -> Result<Vec<Gateway>, GatewayError> {
        // The time to say hello runs for each from its own start, so that many silent workers take no longer than one.
        let start = |spec: &Spec| {
            let gateway = self.start(spec);
            (Deadline::after(spec.hello_deadline()), gateway)
        };
        let started: Vec<_> = if specs.iter().all(|spec| spec.route().is_empty()) {
            specs.iter().map(start).collect()
        } else {
            // Other machines are reached at the same time.
            std::thread::scope(|scope| {
                let threads: Vec<_> = specs.iter().map(|spec| scope.spawn(move || start(spec))).collect();
                let joined = threads.into_iter().map(|thread| thread.join());
                joined.map(|started| started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
            })
        };
        let ready = started.into_iter().map(|(deadline, gateway)| {
            let gateway = gateway?;
            check_hello(&gateway.connection(), deadline).map(|()| gateway)
        });
        // All are waited for, also when one has failed: then the others are ended.
        let (ready, failed): (Vec<_>, Vec<_>) = ready.partition(Result::is_ok);
        let ready: Vec<Gateway> = ready.into_iter().flatten().collect();
        match failed.into_iter().find_map(Result::err) {
            None => Ok(ready),
            Some(error) => {
                terminate_all(&ready, Deadline::after(Duration::ZERO));
                if self.is_empty() {
                    self.close_hosts();
                }
                Err(error)
            }
        }
    }

    fn start(&self, spec: &Spec) -> Result<Gateway, GatewayError> {
        let id = spec.given_id().unwrap_or_default().to_owned();
        let output = OutputRouter::new(id, self.options.output.clone());
        let common = Common::new(output, self.artefacts.clone(), self.options.tenant.clone());
        let launcher: Arc<dyn Launcher> = match spec.route() {
            [] => Arc::clone(&self.options.launcher),
            _ => Arc::new(Remote { hosts: Arc::clone(&self.hosts) }),
        };
        let first = launcher.launch(spec, &common)?;
        Ok(Gateway::new(Workers::new(first, launcher, common)))
    }

    fn close_hosts(&self) {
        if self.options.hosts.is_none() {
            self.hosts.close();
        }
    }

    /// Whom the group works for, if [`GroupBuilder::tenant`] said so.
    pub fn tenant(&self) -> Option<&str> {
        self.options.tenant.as_deref()
    }

    // ---- members ----

    /// The members in the order of their creation. A gateway whose worker has died is one until the group is terminated;
    /// see [`Gateway::is_alive`].
    pub fn iter(&self) -> impl Iterator<Item = &Gateway> {
        let members = self.members.iter().map(|(_, member)| &member.gateway);
        members.filter(|gateway| !gateway.workers().is_ending())
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member with this id.
    pub fn get(&self, id: &str) -> Option<&Gateway> {
        self.iter().find(|gateway| gateway.id() == id)
    }

    /// Whether this gateway is a member.
    pub fn contains(&self, gateway: &Gateway) -> bool {
        self.iter().any(|member| member == gateway)
    }

    // ---- executions ----

    /// Runs an init function of a module once, and returns the module that it has become, as
    /// [`Module::preinitialize_with`] does, for this group: with its defaults where the spec of `init` says nothing, its
    /// output, its cache, and for its tenant alone. No gateway is needed.
    ///
    /// # Errors
    /// [`InitError`].
    pub fn preinitialize(&self, module: &Module, init: &Init) -> Result<Module, InitError> {
        init.preinitialize_for(module, &self.options.defaults, &self.artefacts, self.tenant(), &self.options.output)
    }

    /// What a module says of itself; see [`Gateway::describe`]. The first living member's limits and profile decide whether
    /// the module is acceptable.
    ///
    /// # Errors
    /// [`DescribeError`].
    pub fn describe(&self, module: &Module) -> Result<ModuleDescription, DescribeError> {
        let living = self.iter().find(|gateway| gateway.is_alive()).ok_or(DescribeError::NoGateway)?;
        living.describe(module)
    }

    /// Runs the module's `main` on every member and returns the channels in their order. Blocks only while the module is
    /// compiled.
    ///
    /// # Errors
    /// [`ExecError`] of the first member that refuses; executions that had begun on others are closed.
    pub fn remote_exec(&self, module: &Module) -> Result<MultiChannel, ExecError> {
        self.remote_exec_with(module, &Call::start())
    }

    /// Runs one named task on every member; see [`Gateway::remote_exec_fn`].
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn remote_exec_fn<T: Serialize + ?Sized>(
        &self,
        module: &Module,
        task: &str,
        arguments: &T,
    ) -> Result<MultiChannel, ExecError> {
        let call = Call::task(task).args(arguments);
        let call = call.map_err(|error| ExecError::Arguments(crate::error::SendError::Encode(error)))?;
        self.remote_exec_with(module, &call)
    }

    /// Runs what a [`Call`] says on every member.
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn remote_exec_with(&self, module: &Module, call: &Call) -> Result<MultiChannel, ExecError> {
        self.iter().map(|gateway| gateway.remote_exec_with(module, call)).collect()
    }

    // ---- the end ----

    /// Ends every gateway that this group ever made, those that were asked to [`exit`](Gateway::exit) included, all under
    /// one deadline: see [`Gateway::terminate`]. The group has no members afterwards, and new ones can be made.
    ///
    /// Can be called from anywhere, callbacks included, and again. Of several calls at once each holds its own deadline,
    /// and each gateway is in the report of the first.
    pub fn terminate(&self, timeout: Duration) -> TerminationReport {
        let deadline = Deadline::after(timeout);
        let members: Vec<&Member> = self.members.iter().map(|(_, member)| member).collect();
        // Those that an earlier call has reported and that are gone need no second look.
        let members = members
            .into_iter()
            .filter(|member| !member.reported.load(Ordering::Acquire) || !member.gateway.workers().have_ended());
        let (mine, gateways): (Vec<bool>, Vec<Gateway>) =
            members.map(|member| (!member.reported.swap(true, Ordering::AcqRel), member.gateway.clone())).unzip();
        let reports = terminate_all(&gateways, deadline).into_iter().zip(mine);
        self.close_hosts();
        TerminationReport { gateways: reports.filter_map(|(report, mine)| mine.then_some(report)).collect() }
    }
}

/// Starts workers as processes of this machine.
#[derive(Debug)]
struct Popen;

impl Launcher for Popen {
    fn launch(&self, spec: &Spec, common: &Common) -> Result<Arc<Connection>, GatewayError> {
        let id = spec.given_id().unwrap_or_default().to_owned();
        let failed = |source| GatewayError::Launch { id: id.clone(), source };
        let resources = |error| failed(LaunchError::Resources(error));
        let program = worker_binary::find(spec.worker_path()).map_err(failed)?;
        let Connected { ours, theirs } = transport::connect(spec.asked_for_transport()).map_err(failed)?;
        let directory = spec.directory().map(ToOwned::to_owned);
        let argument = sandgate_wire::launch::WORKER_ARGUMENT;
        let process = launch(Launch { program, arguments: vec![argument], directory }, theirs).map_err(failed)?;
        let process = Some(Running::Local(process));
        Connection::start(id.clone(), spec.clone(), ours, process, common.clone()).map_err(resources)
    }
}

/// Waits for a worker's hello and refuses a worker that is not what it has to be; nothing of it is left then.
pub(crate) fn check_hello(connection: &Arc<Connection>, deadline: Deadline) -> Result<(), GatewayError> {
    let ready = connection.wait_ready(deadline);
    let hello = ready.map_err(|loss: WorkerLoss| {
        connection.join();
        GatewayError::Handshake { loss }
    })?;
    let ours = env!("CARGO_PKG_VERSION");
    if hello.package_version != ours {
        end_now(connection);
        let id = connection.id.clone();
        return Err(GatewayError::Version { id, theirs: hello.package_version, ours });
    }
    let below = hello.isolation.below(connection.spec.policy());
    if !below.is_empty() {
        end_now(connection);
        let id = connection.id.clone();
        let found = below.into_iter().map(|layer| (layer, hello.isolation.state(layer).cloned()));
        return Err(GatewayError::Isolation { id, missing: MissingLayers(found.collect()) });
    }
    Ok(())
}

impl Drop for Group {
    fn drop(&mut self) {
        self.terminated.store(true, Ordering::Release);
        self.terminate(self.options.drop_timeout);
        if self.options.hosts.is_none() {
            self.hosts.close_for_good();
        }
    }
}

impl Index<usize> for Group {
    type Output = Gateway;

    /// # Panics
    /// If there are not so many members.
    fn index(&self, position: usize) -> &Gateway {
        match self.iter().nth(position) {
            Some(gateway) => gateway,
            None => panic!("group has {} gateways, there is none at position {position}", self.len()),
        }
    }
}

impl Index<&str> for Group {
    type Output = Gateway;

    /// # Panics
    /// If there is no member of this id.
    fn index(&self, id: &str) -> &Gateway {
        match self.get(id) {
            Some(gateway) => gateway,
            None => panic!("group has no gateway `{id}`: {self:?}"),
        }
    }
}

impl fmt::Debug for Group {
    /// `<Group [gw0, gw1]>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.iter().map(Gateway::id).collect();
        write!(f, "<Group [{}]>", ids.join(", "))
    }
}
