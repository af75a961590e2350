//! [`Pool`] and what it is built from.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::bounded;
use sandgate_wire::Limits;
use sandgate_wire::grants::ExecutionGrants;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::TaskId;
use super::driver::{Note, Shown};
use super::event::EventSink;
use super::handle::{CancelToken, TaskHandle};
use super::machines::Machines;
use super::mailbox::mailbox;
use super::map::Map;
use super::packed::Packed;
use super::result::{OutcomeKind, ProgramOutput, RetryOn, TaskError};
use super::seat::Told;
use super::stats::{GatewayStats, PoolStats};
use super::work::{self, Codec, Owner, RawValue, Submission, Work};
use crate::call::Call;
use crate::group::{Group, GroupBuilder};
use crate::module::Module;
use crate::spec::Spec;

mod building;
pub(super) mod machines;
mod starting;

pub use machines::{DEFAULT_FAR_IN_FLIGHT, DEFAULT_IN_FLIGHT};
#[cfg(test)]
pub(crate) use starting::Begin;

/// Losses of a worker after which an input is poisonous, unless the builder says otherwise.
pub const DEFAULT_MAX_LOSSES: u32 = 3;
/// Inputs that an iterator has pulled and not given a result for, unless the builder says otherwise.
pub const DEFAULT_WINDOW: usize = 4096;
/// Bytes of inputs that an iterator has pulled and not given a result for, unless the builder says otherwise.
pub const DEFAULT_BUFFER_BYTES: usize = 64 << 20;
/// Workers that are ready to take the place of one that is lost, unless the builder says otherwise.
pub const DEFAULT_SPARES: usize = 1;
/// How long a pool is there before it starts spare workers: one that is done by then starts none.
const SPARES_AFTER: Duration = Duration::from_millis(100);
/// Starts in a row that fail on every gateway before the pool gives up.
const START_ATTEMPTS: u32 = 5;
/// The same for a machine that is not reached: half a minute of waits, and the attempts.
const REACH_ATTEMPTS: u32 = 8;
/// Time beyond a task's own deadline before its worker is taken for hung: its grace comes on top.
const HUNG_AFTER: Duration = Duration::from_secs(2);

/// Sets up a [`Pool`].
#[derive(Debug, Clone)]
pub struct PoolBuilder {
    module: Module,
    call: Call,
    reuse: bool,
    gateways: Option<usize>,
    specs: Vec<Spec>,
    /// Specs of which each machine gets as many as it has cores; or a list of them that may change.
    machines: Vec<Spec>,
    list: Option<Machines>,
    spec: Spec,
    group: GroupBuilder,
    limits: Option<Limits>,
    deadline: Option<Duration>,
    retries: u32,
    retry_on: RetryOn,
    max_losses: u32,
    in_flight: Option<usize>,
    window: usize,
    buffer_bytes: usize,
    spares: usize,
    events: Option<EventSink>,
}

/// Gateways that run one task of one module for many inputs. `Send` and `Sync`; all methods take `&self`.
///
/// Every input has exactly one [`TaskResult`](super::TaskResult). A gateway whose worker dies is replaced, and the tasks
/// that were with it run again: a task may run more than once, but has one result. Those that may have been the reason
/// run again one at a time, and the input that kills its worker then is given up after [`max_losses`] such losses.
///
/// Dropping the pool cancels its tasks and ends its gateways: no process, thread or descriptor of it is left.
///
/// ```no_run
/// use sandgate::{Module, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::builder(&Module::from_file("words.wasm")?).task("count_words").build()?;
/// let lines = std::io::stdin().lines().map_while(Result::ok);
/// for result in pool.map::<_, u64>(lines) {
///     match result.value {
///         Ok(words) => println!("line {}: {words}", result.index),
///         Err(error) => println!("line {}: {error}", result.index),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// [`max_losses`]: PoolBuilder::max_losses
pub struct Pool {
    pub(crate) told: Told,
    thread: Option<JoinHandle<()>>,
    cancelled: Arc<AtomicBool>,
    pub(crate) next_task: Arc<AtomicU64>,
    next_owner: AtomicU64,
    epoch: Instant,
    machines: Machines,
    pub(crate) shown: Arc<Shown>,
    pub(crate) window: usize,
    pub(crate) buffer_bytes: usize,
}

impl PoolBuilder {
    /// The task to run: a function of the module with the attribute `#[task]`. An input is its argument, or the tuple of
    /// its arguments. Default: the module's `main`, which gets the input by `sandgate_guest::args` and sends the result on
    /// its channel. What is sent last counts.
    #[must_use]
    pub fn task(mut self, name: impl Into<String>) -> PoolBuilder {
        self.call.task = Some(name.into());
        self
    }

    /// Runs the module's `main` as a program like any other for `wasm32-wasip1`, whatever it was written in: the input is
    /// its standard input, and what it prints is the result, [`ProgramOutput`]. Its arguments are [`argv`](Self::argv). One
    /// that exits with another code than 0 has failed: see [`TaskError::Program`].
    ///
    /// ```no_run
    /// use sandgate::{Module, Pool};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::builder(&Module::from_file("jq.wasm")?).program().argv([".name"]).build()?;
    /// for result in pool.map_programs([r#"{"name": "a"}"#, r#"{"name": "b"}"#]) {
    ///     println!("{}", String::from_utf8_lossy(&result.value?.stdout));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn program(mut self) -> PoolBuilder {
        self.call.task = None;
        self.call.stdin = true;
        self.call = self.call.capture_output();
        self
    }

    /// Whether one instance serves many inputs, one after the other. Default: no, each input has a fresh one.
    ///
    /// The task then is one that [serves](https://docs.rs/sandgate-guest): for each message on its channel it sends one
    /// answer, in order. What one input leaves in its memory the next one can see. If it ends, the input it was at gets
    /// that outcome and the next one starts it again.
    ///
    /// What an instance was sent it was sent: unlike tasks in fresh instances, those that wait behind a long one are not
    /// moved to a gateway that is idle. [`in_flight`](Self::in_flight) bounds how many there are.
    #[must_use]
    pub fn reuse(mut self, reuse: bool) -> PoolBuilder {
        self.reuse = reuse;
        self
    }

    /// The strings that the program finds in `std::env::args` after its own name.
    #[must_use]
    pub fn argv<S: Into<String>>(mut self, argv: impl IntoIterator<Item = S>) -> PoolBuilder {
        self.call = self.call.argv(argv);
        self
    }

    /// Clocks and randomness other than the gateways'.
    #[must_use]
    pub fn grants(mut self, grants: ExecutionGrants) -> PoolBuilder {
        self.call = self.call.grants(grants);
        self
    }

    /// How long [`build`](Self::build) waits for the module to be compiled. Default: 300 s.
    #[must_use]
    pub fn compile_timeout(mut self, timeout: Duration) -> PoolBuilder {
        self.call = self.call.compile_timeout(timeout);
        self
    }

    /// How many gateways there are. Default: one for each core.
    #[must_use]
    pub fn gateways(mut self, gateways: usize) -> PoolBuilder {
        self.gateways = Some(gateways.max(1));
        self
    }

    /// What all gateways are made from, where the specs of single ones do not say otherwise. A pool's gateways run one
    /// execution at a time (`executions=1`) and have a `timeout=` of 60 s, unless this or the group's defaults say
    /// otherwise.
    #[must_use]
    pub fn spec(mut self, spec: Spec) -> PoolBuilder {
        self.spec = spec;
        self
    }

    /// One gateway for each of these specs, instead of a number of equal ones.
    #[must_use]
    pub fn specs(mut self, specs: impl IntoIterator<Item = Spec>) -> PoolBuilder {
        self.specs = specs.into_iter().collect();
        self
    }

    /// What the gateways' groups have in common: cache, output, defaults, the time to end. Each gateway has a group of its
    /// own, so that one that was replaced leaves nothing behind.
    #[must_use]
    pub fn group(mut self, group: GroupBuilder) -> PoolBuilder {
        self.group = group;
        self
    }

    /// The limits of a task. Default: the gateways', which are [`Limits::for_tasks`] unless their specs say otherwise.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> PoolBuilder {
        self.limits = Some(limits);
        self
    }

    /// The time that a task has from the moment it starts. Default: the limits' wall time, 60 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> PoolBuilder {
        self.deadline = Some(deadline);
        self
    }

    /// How often a task is run again after a failure of these kinds. Default: never. A task whose worker was lost is run
    /// again in any case: see [`max_losses`](Self::max_losses).
    #[must_use]
    pub fn retries(mut self, retries: u32, on: RetryOn) -> PoolBuilder {
        (self.retries, self.retry_on) = (retries, on);
        self
    }

    /// How many workers an input may cost, while it is alone on them, before it is given up as
    /// [poisonous](super::TaskError::Poisonous). Default: 3. Losses while other tasks are with the worker do not count: the
    /// first makes it a suspect if it was among the four that the worker may have been at, and brings it nearer to them if
    /// it was further behind.
    #[must_use]
    pub fn max_losses(mut self, losses: u32) -> PoolBuilder {
        self.max_losses = losses.max(1);
        self
    }

    /// Most tasks that a gateway is given at once. Default: 1024; less if tasks take longer than some ten microseconds.
    #[must_use]
    pub fn in_flight(mut self, tasks: usize) -> PoolBuilder {
        self.in_flight = Some(tasks.max(1));
        self
    }

    /// Most inputs that one iterator has pulled and not given a result for: what may wait for a result before it when
    /// results are given in order. Default: 4096.
    #[must_use]
    pub fn window(mut self, inputs: usize) -> PoolBuilder {
        self.window = inputs.max(1);
        self
    }

    /// Bytes of inputs that one iterator has pulled and not given a result for, after which it pulls only what keeps the
    /// gateways busy. Default: 64 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> PoolBuilder {
        self.buffer_bytes = bytes;
        self
    }

    /// How many workers are kept ready, the module loaded, to take the place of one that is lost at once; the next spare is
    /// started then. Each is a process that waits. Default: 1, started when the pool is a tenth of a second old; with 0, a
    /// lane whose worker is lost waits until another process has started.
    ///
    /// A spare is called after the place that it takes, also in lines that guests print ([`OutputLine`](crate::OutputLine)).
    /// Pools whose gateways are not all alike, apart from their ids, have no spares.
    #[must_use]
    pub fn spares(mut self, workers: usize) -> PoolBuilder {
        self.spares = workers;
        self
    }

    /// Who is told what happens. Default: nobody.
    #[must_use]
    pub fn events(mut self, sink: EventSink) -> PoolBuilder {
        self.events = Some(sink);
        self
    }
}

impl Pool {
    /// Sets up a pool for a module.
    pub fn builder(module: &Module) -> PoolBuilder {
        PoolBuilder {
            module: module.clone(),
            call: Call::start(),
            reuse: false,
            gateways: None,
            specs: Vec::new(),
            machines: Vec::new(),
            list: None,
            spec: Spec::popen(),
            group: Group::builder(),
            limits: None,
            deadline: None,
            retries: 0,
            retry_on: RetryOn::none(),
            max_losses: DEFAULT_MAX_LOSSES,
            in_flight: None,
            window: DEFAULT_WINDOW,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
            spares: DEFAULT_SPARES,
            events: None,
        }
    }

    /// Runs the task for each input and gives the results in the order of the inputs. Inputs are pulled as they are needed,
    /// so there may be endlessly many.
    pub fn map<I, T>(&self, inputs: I) -> Map<'_, I::IntoIter, T>
    where
        I: IntoIterator,
        I::Item: Serialize,
        T: DeserializeOwned,
    {
        Map::new(self, inputs.into_iter(), true, Codec::VALUES)
    }

    /// [`map`](Self::map) that gives each result as soon as it is there.
    pub fn map_unordered<I, T>(&self, inputs: I) -> Map<'_, I::IntoIter, T>
    where
        I: IntoIterator,
        I::Item: Serialize,
        T: DeserializeOwned,
    {
        Map::new(self, inputs.into_iter(), false, Codec::VALUES)
    }

    /// [`map`](Self::map) of a pool of [programs](PoolBuilder::program), whose inputs are bytes.
    pub fn map_programs<I>(&self, inputs: I) -> Map<'_, I::IntoIter, ProgramOutput>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        Map::new(self, inputs.into_iter(), true, Codec::PROGRAMS)
    }

    /// [`map_unordered`](Self::map_unordered) of a pool of [programs](PoolBuilder::program), whose inputs are bytes.
    pub fn map_programs_unordered<I>(&self, inputs: I) -> Map<'_, I::IntoIter, ProgramOutput>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        Map::new(self, inputs.into_iter(), false, Codec::PROGRAMS)
    }

    /// Runs the task for one input. Does not block, and takes any number.
    pub fn submit<T: DeserializeOwned>(&self, input: &(impl Serialize + ?Sized)) -> TaskHandle<T> {
        self.submit_encoded(work::encode(input), work::decode)
    }

    /// [`submit`](Self::submit) to a pool of [programs](PoolBuilder::program), whose inputs are bytes.
    pub fn submit_program(&self, input: impl Into<Vec<u8>>) -> TaskHandle<ProgramOutput> {
        self.submit_encoded(Ok(Bytes::from(input.into()).into()), work::output_of)
    }

    fn submit_encoded<T>(
        &self,
        input: Result<Packed, TaskError>,
        decode: fn(RawValue) -> Result<T, TaskError>,
    ) -> TaskHandle<T> {
        let (sender, results) = mailbox();
        let id = self.next_task();
        let (input, refused) = match input {
            Ok(input) => (input, None),
            Err(error) => (Packed::default(), Some(Box::new(error))),
        };
        let owner = Arc::new(Owner { number: self.next_owner(), results: sender });
        let work = Work { owner: owner.number, index: id, input, argv: None, refused };
        self.submit_all(owner, vec![(id, work)]);
        TaskHandle::new(id, results, (self.told.notes.clone(), Arc::clone(&self.shown)), decode)
    }

    /// What can stop this pool from elsewhere.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken { cancelled: Arc::clone(&self.cancelled), notes: self.told.notes.clone() }
    }

    /// How many gateways it has, those that are being started included. They become more when a [machine](Self::machines) is
    /// reached, which until then has one, and when one joins; fewer when one leaves.
    pub fn gateways(&self) -> usize {
        self.shown.lanes.load(Ordering::Acquire)
    }

    /// The gateway of a lane.
    pub(crate) fn name(&self, lane: usize) -> Option<Arc<str>> {
        self.shown.name(lane)
    }

    /// Tasks under way that keep every gateway busy.
    pub(crate) fn enough(&self) -> usize {
        self.shown.enough.load(Ordering::Acquire)
    }

    /// The machines that it runs on besides gateways that were named or counted, to be changed while it runs. Clones of it, and
    /// other pools of the same list, have the same.
    pub fn machines(&self) -> Machines {
        self.machines.clone()
    }

    /// What the pool has done and is doing. Blocks until its thread has looked, that is for microseconds.
    pub fn stats(&self) -> PoolStats {
        let (sender, answer) = bounded(1);
        let _ = self.told.notes.send(Note::Stats(sender));
        let Ok(snapshot) = answer.recv() else { return PoolStats::default() };
        let counts = snapshot.counts;
        let kinds = OutcomeKind::ALL.into_iter().map(|kind| (kind, counts.kinds[kind as usize]));
        let failed = kinds.filter(|&(kind, count)| kind != OutcomeKind::Returned && count > 0).collect();
        let gateway = |(in_flight, workers, gateway): (usize, u64, Option<crate::gateway::Gateway>)| {
            let alive = gateway.filter(crate::gateway::Gateway::is_alive);
            GatewayStats {
                in_flight,
                pid: alive.as_ref().and_then(crate::gateway::Gateway::pid),
                memory_bytes: alive.as_ref().and_then(|gateway| gateway.connection().resident_bytes()),
                workers,
            }
        };
        PoolStats {
            queued: counts.queued,
            done: counts.kinds[OutcomeKind::Returned as usize],
            failed,
            retried: counts.retried,
            lost_workers: counts.lost_workers,
            unfinished: snapshot.unfinished,
            spares: snapshot.spares,
            run_times: counts.run_times,
            gateways: snapshot.lanes.into_iter().map(gateway).collect(),
            dropped_events: snapshot.dropped_events,
        }
    }

    pub(crate) fn next_task(&self) -> TaskId {
        self.next_task.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn next_owner(&self) -> u64 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn age(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn submit_all(&self, owner: Arc<Owner>, tasks: Vec<(TaskId, Work)>) {
        self.told.tell_and_see(Note::Submit(Submission { owner, tasks }));
    }

    pub(crate) fn cancel_owner(&self, owner: u64) {
        let _ = self.told.notes.send(Note::CancelOwner(owner));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = self.told.notes.send(Note::Shutdown);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a pool panicked");
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Pool of {} gateways>", self.gateways())
    }
}
