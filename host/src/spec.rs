//! [`Spec`]: what a gateway is to be, built or read from a string ([`text`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandgate_wire::grants::{Clock, Directory, ExecutionGrants, Grants, Random};
use sandgate_wire::isolation::{Demand, Layer, Policy};
use sandgate_wire::link::message::DEFAULT_HEARTBEAT;
use sandgate_wire::message::HELLO_DEADLINE;
use sandgate_wire::{Limits, ModuleLimits, Profile};

use crate::error::SpecError;
use crate::recycle::Recycle;
use crate::remote::Step;
use crate::transport::Transport;

mod text;

/// Executions that one worker runs at once, unless the spec says otherwise; more wait in its queue.
pub const DEFAULT_EXECUTIONS: u32 = 64;
/// Time that an interrupted execution has before its worker is killed, unless the spec says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(1);

/// How to make a gateway.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `popen` | a process of this machine, or with `via=` of that of another gateway | one of these three |
/// | `exec=COMMAND` | a process of the machine to which a launcher connects its standard input and output, where the command has to start `sandgate agent`, as in `docker run -i IMAGE sandgate agent`; split as a shell does, run by none | |
/// | `ssh=[USER@]HOST[:PORT]` | a process of a host, by the system's ssh client | |
/// | `ssh_config=PATH` | the configuration of ssh, instead of the user's and the system's | ssh's |
/// | `agent=PATH` | the `sandgate` binary that is copied to a host of ssh that does not have it; one for another platform has to be named | this machine's own |
/// | `via=ID` | the gateway of the group on whose machine the worker, ssh client or launcher is started | this machine |
/// | `heartbeat=TIME` | how long the link to another machine may be silent before it counts as lost; longer than anything waits on its way there and back | 10s |
/// | `id=NAME` | the gateway's id | `gw0`, `gw1`, … |
/// | `nice=N` | added to the worker's nice value | 0 |
/// | `chdir=PATH` | the directory in which the worker process starts, which must exist; guests do not see it, and a worker that is locked in leaves it | the host's |
/// | `worker=PATH` | the executable that becomes the worker | see [`LaunchError`](crate::LaunchError) |
/// | `executions=N` | executions at once, and so instances, of which each has one; more wait, first come first served | 64; 1 in a pool |
/// | `grace=TIME` | time that an interrupted execution has before its worker is killed | 1s |
/// | `hello=TIME` | time that a worker has to start, and before it each step to another machine | 10s |
/// | `memory=`, `table=`, `stack=`, `message=`, `channels=`, `window=`, `window-messages=`, `output=`, `timeout=`, `cpu=`, `fuel=` | what an execution may use: [`Limits`] | see there |
/// | `module=`, `functions=`, `function=`, `locals=`, `nesting=`, `jumps=`, `items=`, `compile-time=`, `compile-memory=`, `cache=` | what a module may be: [`ModuleLimits`] | see there |
/// | `profile=NAMES` | the WebAssembly that is taken: [`Profile`] | `minimal` |
/// | `epochs=off` | guests that compute are not interrupted, only killed with their worker, within `grace=` and 50 ms at most; faster code | `on` |
/// | `env:NAME=VALUE` | an environment variable that guests see | none |
/// | `dir:GUEST=HOST`, `dir-rw:GUEST=HOST` | a directory that guests read, or also change; what they write there has no limit but the disk's | none |
/// | `clock=TIME`, `clock=off` | how coarse guests' clocks are | 100us |
/// | `random=SEED`, `random=off` | where guests' random numbers come from | the system |
/// | `deterministic=SEED` | the same output for the same input: [`ExecutionGrants::deterministic`] | off |
/// | `sandbox=DEMAND`, `sandbox:LAYER=DEMAND` | `require`, `prefer` or `off`, for all [`Layer`]s or one | `prefer` |
/// | `modules=one` | the worker takes one module, and can make no native code afterwards | `many` |
/// | `transport=ring`, `transport=socket` | what carries the bytes to and from the worker: [`Transport`] | a ring, and a socket where memory cannot be shared; or what `SANDGATE_TRANSPORT` says |
/// | `recycle=WHEN` | when the worker is replaced, as in `loss,executions:1000,memory:256M`: [`Recycle`] | `off` |
///
/// Sizes are bytes, or take `K`, `M` or `G`; times are as in `1s 500ms`. `cpu=off` and `timeout=off` take a limit away.
///
/// ```
/// use sandgate::Spec;
///
/// let parsed: Spec = "popen//id=worker1//memory=256M//env:MODE=fast".parse()?;
/// let built = Spec::popen().id("worker1").memory(256 << 20).env("MODE", "fast");
/// assert_eq!(parsed, built);
/// # Ok::<(), sandgate::SpecError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Spec {
    settings: Settings,
    /// The keys that were set; the others are the group's to say.
    given: BTreeSet<&'static str>,
}

/// What a group has made of `via`; it says nothing new, so that specs with and without it are equal.
#[derive(Debug, Clone, Default)]
struct Route(Option<Vec<Step>>);

impl PartialEq for Route {
    fn eq(&self, _other: &Route) -> bool {
        true
    }
}

impl Eq for Route {}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    id: Option<String>,
    /// The last step to its machine; `None` for the machine where it starts.
    step: Option<Step>,
    via: Option<String>,
    /// The whole way, once the group has found it.
    route: Route,
    ssh_config: Option<PathBuf>,
    agent: Option<PathBuf>,
    heartbeat: Duration,
    nice: i32,
    directory: Option<PathBuf>,
    worker: Option<PathBuf>,
    executions: u32,
    grace: Duration,
    hello: Duration,
    limits: Limits,
    module_limits: ModuleLimits,
    profile: Profile,
    epochs: bool,
    grants: Grants,
    policy: Policy,
    one_module: bool,
    recycle: Recycle,
    transport: Option<Transport>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec::popen()
    }
}

impl PartialEq for Spec {
    /// Whether both make the same gateway.
    fn eq(&self, other: &Spec) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Spec {}

/// Copies one setting.
type Copy = fn(&mut Settings, &Settings);

/// Every key, with how a gateway that does not say it gets it from its group.
const COMMON: [(&str, Copy); 46] = [
    ("heartbeat", |to, from| to.heartbeat = from.heartbeat),
    ("ssh_config", |to, from| to.ssh_config.clone_from(&from.ssh_config)),
    ("agent", |to, from| to.agent.clone_from(&from.agent)),
    ("nice", |to, from| to.nice = from.nice),
    ("chdir", |to, from| to.directory.clone_from(&from.directory)),
    ("worker", |to, from| to.worker.clone_from(&from.worker)),
    ("executions", |to, from| to.executions = from.executions),
    ("grace", |to, from| to.grace = from.grace),
    ("hello", |to, from| to.hello = from.hello),
    ("memory", |to, from| to.limits.memory_bytes = from.limits.memory_bytes),
    ("table", |to, from| to.limits.table_elements = from.limits.table_elements),
    ("stack", |to, from| to.limits.stack_bytes = from.limits.stack_bytes),
    ("message", |to, from| to.limits.message_bytes = from.limits.message_bytes),
    ("channels", |to, from| to.limits.channels = from.limits.channels),
    ("window", |to, from| to.limits.window_bytes = from.limits.window_bytes),
    ("window-messages", |to, from| to.limits.window_messages = from.limits.window_messages),
    ("output", |to, from| to.limits.output_bytes = from.limits.output_bytes),
    ("timeout", |to, from| to.limits.wall_time = from.limits.wall_time),
    ("cpu", |to, from| to.limits.cpu_time = from.limits.cpu_time),
    ("fuel", |to, from| to.limits.fuel = from.limits.fuel),
    ("module", |to, from| to.module_limits.module_bytes = from.module_limits.module_bytes),
    ("functions", |to, from| to.module_limits.functions = from.module_limits.functions),
    ("function", |to, from| to.module_limits.function_bytes = from.module_limits.function_bytes),
    ("locals", |to, from| to.module_limits.locals = from.module_limits.locals),
    ("nesting", |to, from| to.module_limits.nesting = from.module_limits.nesting),
    ("jumps", |to, from| to.module_limits.jump_targets = from.module_limits.jump_targets),
    ("items", |to, from| to.module_limits.items = from.module_limits.items),
    ("compile-time", |to, from| to.module_limits.compile_time = from.module_limits.compile_time),
    ("compile-memory", |to, from| to.module_limits.compile_memory_bytes = from.module_limits.compile_memory_bytes),
    ("cache", |to, from| to.module_limits.cache_bytes = from.module_limits.cache_bytes),
    ("profile", |to, from| to.profile = from.profile),
    ("epochs", |to, from| to.epochs = from.epochs),
    ("env", |to, from| to.grants.environment.clone_from(&from.grants.environment)),
    ("dir", |to, from| to.grants.directories.clone_from(&from.grants.directories)),
    ("clock", |to, from| to.grants.execution.clock = from.grants.execution.clock),
    ("random", |to, from| to.grants.execution.random = from.grants.execution.random),
    ("deterministic", |to, from| to.grants.execution.deterministic = from.grants.execution.deterministic),
    ("sandbox", |to, from| to.policy = from.policy.clone()),
    ("modules", |to, from| to.one_module = from.one_module),
    ("recycle", |to, from| to.recycle = from.recycle),
    ("transport", |to, from| to.transport = from.transport),
    // Each gateway says these itself.
    ("popen", |_, _| {}),
    ("exec", |_, _| {}),
    ("ssh", |_, _| {}),
    ("via", |_, _| {}),
    ("id", |_, _| {}),
];

impl Spec {
    /// A process of this machine.
    pub fn popen() -> Spec {
        let settings = Settings {
            id: None,
            step: None,
            via: None,
            route: Route::default(),
            ssh_config: None,
            agent: None,
            heartbeat: DEFAULT_HEARTBEAT,
            nice: 0,
            directory: None,
            worker: None,
            executions: DEFAULT_EXECUTIONS,
            grace: DEFAULT_GRACE,
            hello: HELLO_DEADLINE,
            limits: Limits::default(),
            module_limits: ModuleLimits::default(),
            profile: Profile::MINIMAL,
            epochs: true,
            grants: Grants::default(),
            policy: Policy::default(),
            one_module: false,
            recycle: Recycle::default(),
            transport: None,
        };
        Spec { settings, given: BTreeSet::new() }
    }

    /// A process of the machine to which `command` connects its standard input and output, by starting `sandgate agent` there.
    ///
    /// # Errors
    /// The command has no program.
    pub fn exec(command: impl IntoIterator<Item = impl Into<String>>) -> Result<Spec, SpecError> {
        let command: Vec<String> = command.into_iter().map(Into::into).collect();
        if command.first().is_none_or(String::is_empty) {
            let problem = "needs a program".to_owned();
            return Err(SpecError::Value { key: "exec".to_owned(), spec: "exec=…".to_owned(), problem });
        }
        Ok(Spec::popen().setting("exec", |it| it.step = Some(Step::Exec { command })))
    }

    /// A process of a host, `[user@]host[:port]`, by the system's ssh client.
    ///
    /// # Errors
    /// The text names no host.
    pub fn ssh(host: &str) -> Result<Spec, SpecError> {
        let step = Step::ssh(host).map_err(|problem| {
            let (key, spec) = ("ssh".to_owned(), host.to_owned());
            SpecError::Value { key, spec, problem: problem.to_owned() }
        })?;
        Ok(Spec::popen().setting("ssh", |it| it.step = Some(step)))
    }

    /// The configuration of ssh, instead of the user's and the system's.
    #[must_use]
    pub fn ssh_config(self, path: impl Into<PathBuf>) -> Spec {
        self.setting("ssh_config", |it| it.ssh_config = Some(path.into()))
    }

    /// The `sandgate` binary that is copied to a host of ssh that does not have it.
    #[must_use]
    pub fn agent(self, path: impl Into<PathBuf>) -> Spec {
        self.setting("agent", |it| it.agent = Some(path.into()))
    }

    /// Starts it from the machine of another gateway of the group.
    #[must_use]
    pub fn via(self, gateway: impl Into<String>) -> Spec {
        self.setting("via", |it| it.via = Some(gateway.into()))
    }

    /// How long the link to another machine may be silent. That has to be longer than anything waits on its way there and back,
    /// in the queue of a road that is full for example.
    #[must_use]
    pub fn with_heartbeat(self, heartbeat: Duration) -> Spec {
        self.setting("heartbeat", |it| it.heartbeat = heartbeat)
    }

    /// The way to its machine, after that of the gateway where it starts.
    pub(crate) fn follow(mut self, before: &[Step]) -> Spec {
        let mut route = before.to_vec();
        let (config, agent) = (self.settings.ssh_config.as_deref(), self.settings.agent.as_deref());
        route.extend(self.settings.step.clone().map(|step| step.with(config, agent)));
        self.settings.route = Route(Some(route));
        self
    }

    /// The way to its machine; empty for this one.
    pub(crate) fn route(&self) -> &[Step] {
        self.settings.route.0.as_deref().unwrap_or_default()
    }

    /// Whether it is on this machine, as far as can be seen without the others.
    pub(crate) fn is_here(&self) -> bool {
        self.settings.step.is_none() && self.settings.via.is_none()
    }

    pub(crate) fn has_way(&self) -> bool {
        self.settings.route.0.is_some()
    }

    pub(crate) fn starts_from(&self) -> Option<&str> {
        self.settings.via.as_deref()
    }

    /// How long the link to another machine may be silent. That has to be longer than anything waits on its way there and back,
    /// in the queue of a road that is full for example.
    pub fn heartbeat(&self) -> Duration {
        self.settings.heartbeat
    }

    fn setting(mut self, key: &'static str, set: impl FnOnce(&mut Settings)) -> Spec {
        set(&mut self.settings);
        self.given.insert(key);
        self
    }

    /// Takes what was not set here from `defaults`.
    pub(crate) fn or(mut self, defaults: &Spec) -> Spec {
        for (key, copy) in COMMON {
            if !self.given.contains(key) && defaults.given.contains(key) {
                copy(&mut self.settings, &defaults.settings);
                self.given.insert(key);
            }
        }
        self
    }

    /// Names the gateway.
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Spec {
        self.setting("id", |it| it.id = Some(id.into()))
    }

    /// Added to the worker's nice value; a negative one needs privilege.
    #[must_use]
    pub fn nice(self, nice: i32) -> Spec {
        self.setting("nice", |it| it.nice = nice)
    }

    /// Sets an environment variable for guests. The host's own variables are never passed on.
    #[must_use]
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Spec {
        let (name, value) = (name.into(), value.into());
        self.setting("env", |it| {
            it.grants.environment.retain(|(other, _)| *other != name);
            it.grants.environment.push((name, value));
        })
    }

    /// Lets guests read the directory `host`, which they call `guest`. Only what lies beneath it can be reached.
    #[must_use]
    pub fn dir(self, guest: impl Into<String>, host: impl Into<PathBuf>) -> Spec {
        self.directory_granted(Directory { host: host.into(), guest: guest.into(), writable: false })
    }

    /// Lets guests read and change the directory `host`, which they call `guest`.
    #[must_use]
    pub fn dir_rw(self, guest: impl Into<String>, host: impl Into<PathBuf>) -> Spec {
        self.directory_granted(Directory { host: host.into(), guest: guest.into(), writable: true })
    }

    fn directory_granted(self, directory: Directory) -> Spec {
        self.setting("dir", |it| {
            it.grants.directories.retain(|other| other.guest != directory.guest);
            it.grants.directories.push(directory);
        })
    }

    /// What guests' clocks tell.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Spec {
        self.setting("clock", |it| it.grants.execution.clock = clock)
    }

    /// Where guests' random numbers come from.
    #[must_use]
    pub fn random(self, random: Random) -> Spec {
        self.setting("random", |it| it.grants.execution.random = random)
    }

    /// The same output for the same input: see [`ExecutionGrants::deterministic`].
    #[must_use]
    pub fn deterministic(self, seed: u64) -> Spec {
        let ExecutionGrants { clock, random, deterministic } = ExecutionGrants::deterministic(seed);
        self.clock(clock)
            .random(random)
            .setting("deterministic", |it| it.grants.execution.deterministic = deterministic)
    }

    /// The directory that the worker process runs in.
    #[must_use]
    pub fn chdir(self, directory: impl Into<PathBuf>) -> Spec {
        self.setting("chdir", |it| it.directory = Some(directory.into()))
    }

    /// The executable that becomes the worker.
    #[must_use]
    pub fn worker(self, worker: impl Into<PathBuf>) -> Spec {
        self.setting("worker", |it| it.worker = Some(worker.into()))
    }

    /// Most executions at once. At least 1.
    #[must_use]
    pub fn executions(self, executions: u32) -> Spec {
        self.setting("executions", |it| it.executions = executions.max(1))
    }

    /// Time that an interrupted execution has before its worker is killed.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Spec {
        self.setting("grace", |it| it.grace = grace)
    }

    /// Time that a worker has from its start to its hello.
    #[must_use]
    pub fn with_hello_deadline(self, deadline: Duration) -> Spec {
        self.setting("hello", |it| it.hello = deadline)
    }

    /// Bytes that a task may take; see [`Limits::memory_bytes`].
    #[must_use]
    pub fn memory(self, bytes: u64) -> Spec {
        self.setting("memory", |it| it.limits.memory_bytes = bytes)
    }

    /// Time that an execution has; see [`Limits::wall_time`].
    #[must_use]
    pub fn timeout(self, wall_time: Duration) -> Spec {
        self.setting("timeout", |it| it.limits.wall_time = Some(wall_time))
    }

    /// Processor time that an execution has; see [`Limits::cpu_time`].
    #[must_use]
    pub fn cpu(self, cpu_time: Duration) -> Spec {
        self.setting("cpu", |it| it.limits.cpu_time = Some(cpu_time))
    }

    /// All limits of executions at once.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Spec {
        self.settings.limits = limits;
        let keys = ["memory", "table", "stack", "message", "channels", "window", "window-messages", "output"];
        self.given.extend(keys);
        self.given.extend(["timeout", "cpu", "fuel"]);
        self
    }

    /// All limits of modules at once.
    #[must_use]
    pub fn with_module_limits(mut self, limits: ModuleLimits) -> Spec {
        self.settings.module_limits = limits;
        self.given.extend(["module", "functions", "function", "locals", "nesting", "jumps", "items"]);
        self.given.extend(["compile-time", "compile-memory", "cache"]);
        self
    }

    /// The WebAssembly that is taken.
    #[must_use]
    pub fn profile(self, profile: Profile) -> Spec {
        self.setting("profile", |it| it.profile = profile)
    }

    /// Whether guests can be interrupted. Without, their code has no checks for it, and a guest that does not end is
    /// stopped by killing its worker, all of whose executions are lost.
    #[must_use]
    pub fn epochs(self, on: bool) -> Spec {
        self.setting("epochs", |it| it.epochs = on)
    }

    /// What is demanded of all layers of the operating system's sandbox.
    #[must_use]
    pub fn sandbox(self, demand: Demand) -> Spec {
        self.setting("sandbox", |it| it.policy = Policy::all(demand))
    }

    /// What is demanded of one layer.
    #[must_use]
    pub fn sandbox_layer(self, layer: Layer, demand: Demand) -> Spec {
        self.setting("sandbox", |it| it.policy = it.policy.clone().with(layer, demand))
    }

    /// The worker takes one module, the first that is sent to it, and can make no executable memory afterwards.
    #[must_use]
    pub fn one_module(self) -> Spec {
        self.setting("modules", |it| it.one_module = true)
    }

    /// When the worker is replaced.
    #[must_use]
    pub fn recycle(self, recycle: Recycle) -> Spec {
        self.setting("recycle", |it| it.recycle = recycle)
    }

    /// What carries the bytes to and from the worker. A gateway is not made without it.
    #[must_use]
    pub fn transport(self, transport: Transport) -> Spec {
        self.setting("transport", |it| it.transport = Some(transport))
    }

    /// The id, if one was given.
    pub fn given_id(&self) -> Option<&str> {
        self.settings.id.as_deref()
    }

    /// The limits of executions on this gateway.
    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// The limits of modules on this gateway.
    pub fn module_limits(&self) -> &ModuleLimits {
        &self.settings.module_limits
    }

    /// The WebAssembly that is taken.
    pub fn taken_profile(&self) -> Profile {
        self.settings.profile
    }

    /// Whether guests can be interrupted.
    pub fn has_epochs(&self) -> bool {
        self.settings.epochs
    }

    /// What guests are given.
    pub fn grants(&self) -> &Grants {
        &self.settings.grants
    }

    /// What is demanded of the operating system's sandbox.
    pub fn policy(&self) -> &Policy {
        &self.settings.policy
    }

    /// Whether the worker takes one module.
    pub fn takes_one_module(&self) -> bool {
        self.settings.one_module
    }

    /// When the worker is replaced.
    pub fn recycling(&self) -> Recycle {
        self.settings.recycle
    }

    /// The transport, if one was asked for.
    pub fn asked_for_transport(&self) -> Option<Transport> {
        self.settings.transport
    }

    /// Most executions at once.
    pub fn max_executions(&self) -> u32 {
        self.settings.executions
    }

    /// Time that an interrupted execution has before its worker is killed.
    pub fn grace(&self) -> Duration {
        self.settings.grace
    }

    /// The environment that guests see.
    pub fn environment(&self) -> &[(String, String)] {
        &self.settings.grants.environment
    }

    pub(crate) fn hello_deadline(&self) -> Duration {
        self.settings.hello
    }

    pub(crate) fn nice_value(&self) -> i32 {
        self.settings.nice
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.settings.directory.as_deref()
    }

    pub(crate) fn worker_path(&self) -> Option<&Path> {
        self.settings.worker.as_deref()
    }
}

impl TryFrom<&str> for Spec {
    type Error = SpecError;

    fn try_from(spec: &str) -> Result<Spec, SpecError> {
        spec.parse()
    }
}

impl TryFrom<&String> for Spec {
    type Error = SpecError;

    fn try_from(spec: &String) -> Result<Spec, SpecError> {
        spec.parse()
    }
}

impl TryFrom<String> for Spec {
    type Error = SpecError;

    fn try_from(spec: String) -> Result<Spec, SpecError> {
        spec.parse()
    }
}

impl From<std::convert::Infallible> for SpecError {
    fn from(never: std::convert::Infallible) -> SpecError {
        match never {}
    }
}
