//! One worker as the host sees it: the transport, the table of channels, and the worker's life.
//!
//! ```text
//!  starting ──hello──► ready ──terminate──► ending ──► ended
//!      └────────────────┴── lost ─────────────┴───────► ended
//! ```
//!
//! Whoever reads it ([`crate::reading`]) turns frames into calls on endpoints ([`crate::reader`]); this file has what both it
//! and the users need. Lock order: endpoint, then table; nobody locks an endpoint while holding the table.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sandgate_wire::frame::{FrameReader, MAX_FRAME_BYTES};
use sandgate_wire::isolation::Report;
use sandgate_wire::limits::{MAX_CONNECTION_CHANNELS, MAX_GUEST_CHANNELS};
use sandgate_wire::message::{Codegen, HostHello, WorkerHello};
use sandgate_wire::outbox::Bounds;
use sandgate_wire::outcome::{KilledBy, LossCause, WorkerLoss};
use sandgate_wire::transport::{ReceiveHalf, SendHalf};
use sandgate_wire::{ChannelId, ModuleId, ModuleLimits, Outbox, Outcome, Side, ToWorker};

use crate::artefact::{Artefact, ArtefactSource, Wanted};
use crate::call::Call;
use crate::callback;
use crate::deadline::Deadline;
use crate::endpoint::{Endpoint, Role};
use crate::error::{ExecError, WaitError};
use crate::exits;
use crate::module::Module;
use crate::output::OutputRouter;
use crate::reader::Reader;
use crate::reading::Reading;
use crate::remote::Running;
use crate::schema::{DescribeError, ModuleDescription};
use crate::service::{self, Place};
use crate::spec::Spec;
use crate::table::Table;
use crate::usage::Usage;
use crate::watch::Places;
use crate::workers::Owner;

mod ending;
mod executing;
mod status;

pub(crate) use ending::REAP_PATIENCE;
use executing::Latest;
pub(crate) use executing::Run;
use status::StatusSlot;

/// What may wait for a worker to read it. Control messages: a few for each channel there can be. Answers to channels that
/// guests close: one for each that they can have, since the worker counts a channel until it has read the answer. A worker
/// that provokes more than that without reading is not worth its memory.
const BOUNDS: Bounds =
    Bounds { controls: 4 * (MAX_CONNECTION_CHANNELS + MAX_GUEST_CHANNELS), answers: MAX_GUEST_CHANNELS };

/// One worker and everything between it and its users.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) spec: Spec,
    pub(crate) outbox: Outbox,
    pub(crate) output: Arc<OutputRouter>,
    pub(crate) owner: Owner,
    process: Option<Running>,
    /// Until the process was reaped.
    exit: Mutex<Option<exits::Watch>>,
    artefacts: Arc<dyn ArtefactSource>,
    tenant: Option<Arc<str>>,
    pub(crate) usage: Usage,
    pub(crate) reading: Reading,
    /// Where the service has it; never for a stream without a bell.
    place: OnceLock<Place>,
    pub(crate) table: Mutex<Table>,
    places: Mutex<Places>,
    life: Mutex<Life>,
    /// Whether it is worth a look at its life before something is begun.
    is_closing: AtomicBool,
    life_changed: Condvar,
    loaded: Mutex<HashSet<(ModuleId, Codegen)>>,
    latest: Mutex<Latest>,
    status: Mutex<StatusSlot>,
    status_changed: Condvar,
    pub(crate) next_channel: Arc<AtomicU64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the workers of one gateway have in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) output: Arc<OutputRouter>,
    pub(crate) artefacts: Arc<dyn ArtefactSource>,
    pub(crate) tenant: Option<Arc<str>>,
    /// The next id of the host's channels: one is never used twice in a gateway.
    next_channel: Arc<AtomicU64>,
}

impl Common {
    pub(crate) fn new(
        output: Arc<OutputRouter>,
        artefacts: Arc<dyn ArtefactSource>,
        tenant: Option<Arc<str>>,
    ) -> Common {
        let next_channel = Arc::new(AtomicU64::new(ChannelId::first(Side::Host).0));
        Common { output, artefacts, tenant, next_channel }
    }
}

#[derive(Debug, Default)]
struct Life {
    hello: Option<WorkerHello>,
    /// Somebody asked the worker to end.
    terminating: bool,
    /// The host itself killed it.
    killed: bool,
    /// It is about to be killed, for what one execution did.
    condemned: bool,
    /// The connection is over. Known before the first channel ends of it.
    over: bool,
    /// What the worker did not do in time, for which the host killed it.
    unresponsive: Option<String>,
    /// How it ended, once all channels have.
    loss: Option<WorkerLoss>,
}

impl Connection {
    /// Connects to a worker over a transport and has it read and written. Does not wait for its hello.
    pub(crate) fn start(
        id: String,
        spec: Spec,
        (send, receive): (Box<dyn SendHalf>, Box<dyn ReceiveHalf>),
        process: Option<Running>,
        common: Common,
    ) -> std::io::Result<Arc<Connection>> {
        let hello = HostHello {
            gateway: id.clone(),
            host_pid: process.as_ref().map_or_else(std::process::id, Running::parent),
            max_executions: spec.max_executions(),
            nice: spec.nice_value(),
            grants: spec.grants().clone(),
            policy: spec.policy().clone(),
            limits: spec.limits().clone(),
            one_module: spec.takes_one_module(),
        };
        let hello = ToWorker::Hello(hello).encode();
        if hello.body.len() > MAX_FRAME_BYTES {
            let length = hello.body.len();
            let text = format!("id and environment of {length} bytes are larger than the maximum of {MAX_FRAME_BYTES}");
            return Err(std::io::Error::other(text));
        }
        let connection = Arc::new(Connection {
            outbox: Outbox::bounded(send, BOUNDS),
            output: common.output,
            owner: Owner::default(),
            process,
            exit: Mutex::default(),
            artefacts: common.artefacts,
            tenant: common.tenant,
            usage: Usage::default(),
            reading: Reading::default(),
            place: OnceLock::new(),
            table: Mutex::new(Table::new()),
            places: Mutex::new(Places::new(spec.max_executions())),
            life: Mutex::default(),
            is_closing: AtomicBool::new(false),
            life_changed: Condvar::new(),
            loaded: Mutex::default(),
            latest: Mutex::default(),
            status: Mutex::default(),
            status_changed: Condvar::new(),
            next_channel: common.next_channel,
            threads: Mutex::default(),
            id,
            spec,
        });
        let started = connection.watch_exit().and_then(|()| connection.begin(FrameReader::new(receive)));
        if let Err(error) = started {
            connection.outbox.shutdown();
            connection.join();
            return Err(error);
        }
        // If it is gone already, waiting for its hello says so.
        let _ = connection.outbox.push(hello);
        Ok(connection)
    }

    /// Has it written and read from here on: by the service, or by threads of its own if only those can wait for its stream.
    fn begin(self: &Arc<Self>, frames: FrameReader) -> std::io::Result<()> {
        if frames.bell().is_none() {
            let (writing, reading) = (Arc::clone(self), Arc::clone(self));
            self.spawn("writer", move || writing.outbox.run_writer())?;
            return self.spawn("reader", move || Reader::new(frames).run(&reading));
        }
        let place = service::place(self)?;
        let place = self.place.get_or_init(|| place);
        let writing = place.clone();
        self.outbox.serve_by(move || writing.poke_to_write());
        self.reading.begin(frames, place.clone()).inspect_err(|_| place.give_back())
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// Has the reader told when the process has ended, whoever else holds its end of the connection.
    fn watch_exit(self: &Arc<Self>) -> std::io::Result<()> {
        if let Some(pidfd) = self.process.as_ref().and_then(Running::pidfd) {
            *self.exit.lock() = Some(exits::watch(self, pidfd)?);
        }
        Ok(())
    }

    fn spawn(&self, role: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(format!("{}-{role}", self.id)).spawn(run)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    // ---- life ----

    /// Waits for the worker's hello.
    pub(crate) fn wait_ready(&self, deadline: Deadline) -> Result<WorkerHello, WorkerLoss> {
        let mut life = self.life.lock();
        loop {
            if let Some(loss) = &life.loss {
                return Err(loss.clone());
            }
            if let Some(hello) = &life.hello {
                return Ok(hello.clone());
            }
            if let Err(after) = deadline.wait(&self.life_changed, &mut life) {
                drop(life);
                self.kill_process();
                let ended = self.wait_ended(Deadline::after(Duration::from_secs(5)));
                let mut loss = ended.unwrap_or_else(|| self.unknown_loss("it cannot be killed"));
                loss.cause = LossCause::Unresponsive { message: format!("no hello within {after:?}") };
                return Err(loss);
            }
        }
    }

    /// What there is to say of a worker whose end is not known.
    pub(crate) fn unknown_loss(&self, text: &str) -> WorkerLoss {
        WorkerLoss {
            gateway: self.id.clone(),
            pid: self.pid(),
            cause: LossCause::Unknown { message: text.to_owned() },
            stderr_tail: String::new(),
        }
    }

    pub(crate) fn hello_arrived(&self, hello: WorkerHello) {
        self.life.lock().hello = Some(hello);
        self.life_changed.notify_all();
    }

    /// What is in force around the worker, as its hello says.
    pub(crate) fn isolation(&self) -> Report {
        self.life.lock().hello.as_ref().map_or(Report::default(), |hello| hello.isolation.clone())
    }

    /// Waits until the worker is gone and all its channels have ended.
    pub(crate) fn wait_ended(&self, deadline: Deadline) -> Option<WorkerLoss> {
        let _beside = self.reading.beside();
        let mut life = self.life.lock();
        while life.loss.is_none() {
            deadline.wait(&self.life_changed, &mut life).ok()?;
        }
        life.loss.clone()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.life.lock().loss.is_some()
    }

    pub(crate) fn is_alive(&self) -> bool {
        let life = self.life.lock();
        life.hello.is_some() && !life.over
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.life.lock().terminating
    }

    /// Whether it is there, and nobody has asked it to end or killed it.
    pub(crate) fn takes_executions(&self) -> bool {
        let life = self.life.lock();
        life.hello.is_some() && !(life.over || life.terminating || life.killed || life.condemned)
    }

    /// Asks the worker to end: with `kill`, at once. Never blocks.
    pub(crate) fn request_terminate(&self, kill: bool) {
        self.is_closing.store(true, Ordering::Release);
        self.life.lock().terminating = true;
        let _ = self.outbox.push_urgent(ToWorker::Terminate { kill }.encode());
    }

    /// Kills the worker's process. Never blocks.
    pub(crate) fn kill_process(&self) {
        self.life.lock().killed = true;
        self.kill_and_hang_up();
    }

    /// Kills the process and hangs up, so that a child it may have left with the connection cannot keep the reader. What the
    /// worker had sent before is still read.
    fn kill_and_hang_up(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
        self.outbox.shutdown();
    }

    /// Kills the worker's process because it did not do something in time. Never blocks.
    pub(crate) fn kill_unresponsive(&self, message: String) {
        tracing::warn!(gateway = %self.id, "{message}");
        {
            let mut life = self.life.lock();
            life.condemned = true;
            life.unresponsive.get_or_insert(message);
        }
        self.kill_and_hang_up();
    }

    /// Waits for the connection's threads; they end when the worker has.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of gateway `{}` panicked", self.id);
            }
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Running::pid)
    }

    pub(crate) fn round_trip(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Running::round_trip)
    }

    pub(crate) fn processors(&self) -> Option<u32> {
        self.process.as_ref().and_then(Running::processors)
    }

    pub(crate) fn exit_cause(&self) -> Option<LossCause> {
        self.process.as_ref().and_then(Running::ended)
    }

    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        self.process.as_ref().and_then(Running::resident_bytes)
    }

    // ---- executions ----

    /// An execution has ended, and another begins if it waited for its place.
    ///
    /// Returns the next one that begins, which is to be [watched](Endpoint::watch).
    pub(crate) fn leave(&self, endpoint: &Endpoint) -> Option<Arc<Endpoint>> {
        self.places.lock().leave(endpoint)
    }

    /// What a module says of itself; it is compiled for that, as its first execution would have it.
    /// The worker only has to have said hello.
    pub(crate) fn describe(
        &self,
        module: &Module,
        timeout: Option<Duration>,
    ) -> Result<ModuleDescription, DescribeError> {
        let codegen = Codegen::of(self.spec.limits(), &self.spec.grants().execution, self.spec.has_epochs());
        let artefact = self.compiled(module, codegen, timeout, None)?;
        let described = artefact.described().cloned();
        described.ok_or_else(|| DescribeError::Unreadable { module: module.name().to_owned() })
    }

    /// Sees to it that a call need not wait for its module to be compiled or sent.
    pub(crate) fn prepare(&self, module: &Module, call: &Call) -> Result<(), ExecError> {
        let limits = call.limits.as_ref().unwrap_or(self.spec.limits());
        let grants = call.grants.as_ref().unwrap_or(&self.spec.grants().execution);
        let codegen = Codegen::of(limits, grants, self.spec.has_epochs());
        let artefact = self.compiled(module, codegen, call.compile_timeout, call.module_limits.as_ref())?;
        self.load(module.id(), codegen, &artefact)
    }

    fn check_open(&self) -> Result<(), ExecError> {
        if !self.is_closing.load(Ordering::Acquire) {
            return Ok(());
        }
        let life = self.life.lock();
        let reason = match &*life {
            Life { loss: Some(loss), .. } => loss.to_string(),
            Life { terminating: true, .. } => "it is being terminated".to_owned(),
            _ => return Ok(()),
        };
        Err(ExecError::GatewayClosed { gateway: self.id.clone(), reason })
    }

    /// Makes sure that the module is compiled, on this machine, for this worker's engine.
    fn compiled(
        &self,
        module: &Module,
        codegen: Codegen,
        timeout: Option<Duration>,
        limits: Option<&ModuleLimits>,
    ) -> Result<Arc<Artefact>, ExecError> {
        let engine = match &self.life.lock().hello {
            Some(hello) => hello.engine.clone(),
            None => {
                return Err(ExecError::GatewayClosed { gateway: self.id.clone(), reason: "no handshake".to_owned() });
            }
        };
        let deadline = timeout.map_or(Deadline::NEVER, Deadline::after);
        self.artefacts.get(&Wanted {
            module,
            engine: &engine,
            codegen,
            limits: limits.unwrap_or(self.spec.module_limits()),
            profile: self.spec.taken_profile(),
            policy: self.spec.policy(),
            tenant: self.tenant.as_deref(),
            worker: self.spec.worker_path(),
            deadline,
        })
    }

    /// Sends a module's artefact, the first time it is needed.
    fn load(&self, module: ModuleId, codegen: Codegen, artefact: &Artefact) -> Result<(), ExecError> {
        let mut loaded = self.loaded.lock();
        if loaded.contains(&(module, codegen)) {
            return Ok(());
        }
        let gone = |reason: String| ExecError::GatewayClosed { gateway: self.id.clone(), reason };
        let descriptor =
            artefact.descriptor().map_err(|error| gone(format!("no descriptor for the module: {error}")))?;
        let message = ToWorker::Load { module, codegen, bytes: artefact.bytes() }.encode();
        let sent = self.outbox.push_with_descriptors(message, vec![descriptor]);
        sent.map_err(|error| gone(error.to_string()))?;
        loaded.insert((module, codegen));
        Ok(())
    }

    /// Interrupts an execution; kills the worker if that does not help within the grace.
    pub(crate) fn kill_execution(self: &Arc<Self>, endpoint: &Arc<Endpoint>) -> Result<Outcome, WaitError> {
        let in_callback = callback::is_running(endpoint);
        if endpoint.role == Role::Plain {
            endpoint.close(None, false);
        } else if !endpoint.is_over() {
            // Also if the channel has its outcome: after a failed callback the task still runs.
            endpoint.kill();
            if in_callback {
                let (connection, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
                callback::run_soon(Box::new(move || connection.see_to_end(&endpoint)));
            } else {
                self.see_to_end(endpoint);
            }
        }
        match endpoint.outcome() {
            Some(outcome) if !in_callback => Ok(outcome),
            _ => Err(WaitError::InCallback),
        }
    }

    /// Waits for the end of an execution that was interrupted; kills the worker if it does not come within the grace.
    fn see_to_end(&self, endpoint: &Arc<Endpoint>) {
        let patience = endpoint.patience();
        if endpoint.wait_over(Deadline::after(patience)) {
            return;
        }
        // Its own outcome is the kill; its siblings lose their worker. One that has ended in this moment costs nobody
        // anything.
        if endpoint.end_unless_over(Outcome::Killed { by: KilledBy::Kill, started: true }) {
            self.kill_unresponsive(format!("execution {} did not end within {patience:?} after its kill", endpoint.id));
        }
    }
}
