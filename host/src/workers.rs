//! The workers of one gateway over time: the one that takes executions, the one that comes next, and those that finish
//! what they have.
//!
//! ```text
//!           launched ──► greeting ──► ready ──► current ──► draining ──► ended
//!             └─ failed: retried by a later call, after a pause        (no execution and no channel of the host's is left)
//! ```
//!
//! A gateway replaces its worker as [`Recycle`] says. The next one is started by the call that needs it, or ahead of that on
//! a thread that runs callbacks; one at a time, so a worker that cannot be started costs one attempt per pause. A replaced
//! worker keeps all that it runs: it is asked to end when nothing is left, and nobody forces it before the gateway ends.
//!
//! Lock order: this state, then a connection's own locks. Nothing waits for a process while holding it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sandgate_wire::message::WorkerStatus;

use crate::call::Call;
use crate::callback::run_soon;
use crate::channel::Channel;
use crate::connection::{Common, Connection, Run};
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::{ExecError, GatewayError, StatusError};
use crate::gateway::GatewayStatus;
use crate::group::check_hello;
use crate::module::Module;
use crate::recycle::{Reason, Recycle, Recycled};
use crate::spec::Spec;

/// Replaced workers that one gateway lets finish what they run. While there are so many, the current one is replaced for
/// no other reason than its loss.
pub const MAX_DRAINING_WORKERS: usize = 64;

/// Pause after the first failure to start a worker; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a call looks for another worker when the one it got has gone before it took the execution.
const ATTEMPTS: usize = 3;
/// How many executions before its last one a worker's successor is started, and the part of all executions it is at most.
const AHEAD: u64 = 64;
const AHEAD_PART: u64 = 8;
/// What a call that waits for a worker somebody else starts allows beyond the time the worker has to say hello.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of a worker that was killed may take.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// Starts workers.
pub(crate) trait Launcher: std::fmt::Debug + Send + Sync {
    /// Starts a worker; does not wait for its hello.
    fn launch(&self, spec: &Spec, common: &Common) -> Result<Arc<Connection>, GatewayError>;
}

/// All workers of one gateway; what a [`Gateway`](crate::Gateway) is a handle of.
#[derive(Debug)]
pub(crate) struct Workers {
    spec: Spec,
    /// What starts the next one; `None` where there is none, since the group is gone.
    starter: Option<(Arc<dyn Launcher>, Common)>,
    state: Mutex<State>,
    /// The next worker has changed its state, or the gateway ends.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    current: Arc<Connection>,
    next: Next,
    draining: Vec<Arc<Connection>>,
    /// Those that are gone, while their threads are not joined.
    ended: Vec<Arc<Connection>>,
    /// Somebody asked the gateway to end: no worker is started any more.
    ending: bool,
    /// The current worker is to be replaced as soon as the next one is ready.
    overdue: bool,
    failures: u32,
    started: u64,
    recycled: Recycled,
    /// Executions that ended on workers that are gone.
    finished_before: u64,
}

/// The worker that comes next.
#[derive(Debug)]
enum Next {
    None,
    /// Somebody is starting it.
    Launching,
    /// It was started and has not said hello.
    Greeting(Arc<Connection>),
    Ready(Arc<Connection>),
    Failed {
        retry_at: Instant,
        error: Arc<GatewayError>,
    },
}

impl Workers {
    /// The workers of a gateway whose first one was just started.
    pub(crate) fn new(first: Arc<Connection>, launcher: Arc<dyn Launcher>, common: Common) -> Arc<Workers> {
        let workers = Arc::new(Workers::made(Arc::clone(&first), Some((launcher, common))));
        first.owner.set(&workers);
        workers
    }

    fn made(first: Arc<Connection>, starter: Option<(Arc<dyn Launcher>, Common)>) -> Workers {
        let spec = first.spec.clone();
        let state = State {
            current: first,
            next: Next::None,
            draining: Vec::new(),
            ended: Vec::new(),
            ending: false,
            overdue: false,
            failures: 0,
            started: 1,
            recycled: Recycled::default(),
            finished_before: 0,
        };
        Workers { spec, starter, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn id(&self) -> &str {
        self.spec.given_id().unwrap_or_default()
    }

    /// The worker that takes executions, or the last one that did.
    pub(crate) fn current(&self) -> Arc<Connection> {
        Arc::clone(&self.state.lock().current)
    }

    fn recycle(&self) -> Recycle {
        if self.starter.is_some() { self.spec.recycling() } else { Recycle::default() }
    }

    // ---- executions ----

    pub(crate) fn execute(self: &Arc<Self>, module: &Module, call: &Call) -> Result<Channel, ExecError> {
        let bound = call.arguments.as_ref().and_then(|arguments| arguments.channels.first());
        self.begin(bound, |connection| connection.execute(module, call))
    }

    /// Runs a call with other arguments than the last time, without channels in them.
    pub(crate) fn execute_again(
        self: &Arc<Self>,
        module: &Module,
        call: &Arc<Call>,
        mut run: Run,
    ) -> Result<Arc<Endpoint>, ExecError> {
        if self.recycle() == Recycle::default() {
            return self.current().execute_again(module, call, run);
        }
        // Of a worker that may be replaced nothing is kept.
        run.used_up = None;
        self.begin(None, |connection| connection.execute_again(module, call, run.clone()))
    }

    fn begin<T>(
        self: &Arc<Self>,
        bound: Option<&Channel>,
        execute: impl Fn(&Arc<Connection>) -> Result<T, ExecError>,
    ) -> Result<T, ExecError> {
        let recycle = self.recycle();
        if recycle == Recycle::default() {
            return execute(&self.current());
        }
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let last = attempts.next().is_none_or(|attempt| attempt == ATTEMPTS);
            let connection = self.worker_for(bound, recycle)?;
            let result = execute(&connection);
            connection.place_used(result.is_ok());
            match result {
                // It has died in this moment.
                Err(ExecError::GatewayClosed { .. }) if !last && !connection.takes_executions() => {}
                result => return result,
            }
        }
    }

    pub(crate) fn new_channel(self: &Arc<Self>) -> Result<Channel, ExecError> {
        let recycle = self.recycle();
        if recycle.after_loss {
            let state = self.ready(self.state.lock(), Recycle { after_loss: true, ..Recycle::default() })?;
            let connection = Arc::clone(&state.current);
            drop(state);
            return connection.new_channel();
        }
        self.current().new_channel()
    }

    /// The worker that is to take an execution: the one that has the channels among its arguments, else the current one,
    /// which is replaced first if it is due.
    fn worker_for(self: &Arc<Self>, bound: Option<&Channel>, recycle: Recycle) -> Result<Arc<Connection>, ExecError> {
        let state = self.state.lock();
        if let Some(channel) = bound {
            let theirs = &channel.endpoint().connection;
            if let Some(connection) = state.draining.iter().find(|connection| Arc::ptr_eq(connection, theirs)) {
                let connection = Arc::clone(connection);
                connection.take_place();
                return Ok(connection);
            }
        }
        let mut state = self.ready(state, recycle)?;
        let connection = Arc::clone(&state.current);
        let taken = connection.take_place();
        if let Some(most) = recycle.executions
            && taken.saturating_add(AHEAD.min(most / AHEAD_PART)) >= most
        {
            self.start_ahead(&mut state);
        }
        self.bury(state);
        Ok(connection)
    }

    /// Makes the current worker one that can be used, if there can be one.
    fn ready<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        recycle: Recycle,
    ) -> Result<MutexGuard<'a, State>, ExecError> {
        let deadline = Deadline::after(self.spec.hello_deadline().saturating_add(LAUNCH_PATIENCE));
        loop {
            if state.ending && state.current.takes_executions() {
                let reason = "it is being terminated".to_owned();
                return Err(ExecError::GatewayClosed { gateway: self.id().to_owned(), reason });
            }
            let Some(reason) = state.due(recycle) else { return Ok(state) };
            match &state.next {
                Next::Ready(next) if next.takes_executions() => self.replace(&mut state, reason),
                Next::Ready(_) => self.next_is_lost(&mut state),
                Next::Failed { retry_at, .. } if *retry_at <= Instant::now() => state.next = Next::None,
                Next::Failed { retry_at, error } => {
                    let retry_after = retry_at.saturating_duration_since(Instant::now());
                    let gateway = self.id().to_owned();
                    return Err(ExecError::NoWorker { gateway, retry_after, source: Arc::clone(error) });
                }
                Next::None => {
                    state.next = Next::Launching;
                    MutexGuard::unlocked(&mut state, || self.start_next(false));
                }
                Next::Launching | Next::Greeting(_) => {
                    if deadline.wait(&self.changed, &mut state).is_err() {
                        let gateway = self.id().to_owned();
                        let reason = "its next worker has not started yet".to_owned();
                        return Err(ExecError::GatewayClosed { gateway, reason });
                    }
                }
            }
        }
    }

    /// The next worker takes the place of the current one.
    fn replace(&self, state: &mut State, reason: Reason) {
        let Next::Ready(next) = std::mem::replace(&mut state.next, Next::None) else { return };
        let old = std::mem::replace(&mut state.current, next);
        state.overdue = false;
        state.failures = 0;
        state.recycled.count(reason);
        tracing::info!(gateway = %old.id, "worker {:?} was replaced by {:?}: {reason:?}", old.pid(), state.current.pid());
        if old.has_ended() {
            state.finished_before += old.finished();
            state.ended.push(old);
        } else {
            state.draining.push(Arc::clone(&old));
            old.drain();
        }
    }

    // ---- the next worker ----

    /// Starts the next worker on another thread, unless there is one or one could not be started just now.
    fn start_ahead(self: &Arc<Self>, state: &mut State) {
        if state.ending {
            return;
        }
        if let Next::Failed { retry_at, .. } = &state.next
            && *retry_at <= Instant::now()
        {
            state.next = Next::None;
        }
        if let Next::None = state.next {
            state.next = Next::Launching;
            let workers = Arc::clone(self);
            run_soon(Box::new(move || workers.start_next(true)));
        }
    }

    /// Starts the next worker and waits for its hello. Whoever calls this has set [`Next::Launching`]. If it fails the first
    /// time and was not needed yet, whoever needs it tries once more.
    fn start_next(self: &Arc<Self>, ahead: bool) {
        let result = self.launch_next();
        let mut state = self.state.lock();
        let mut buried = None;
        match result {
            Ok(next) if state.ending => {
                // Nobody else knows it any more.
                state.next = Next::None;
                buried = Some(next);
            }
            Ok(next) => {
                state.next = Next::Ready(next);
                if state.overdue && state.current.takes_executions() {
                    self.replace(&mut state, Reason::Memory);
                }
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let pause = if ahead && state.failures == 1 { Duration::ZERO } else { pause_after(state.failures) };
                tracing::warn!(gateway = %state.current.id, "no worker for {pause:?}: {error}");
                state.next = Next::Failed { retry_at: Instant::now() + pause, error: Arc::new(error) };
            }
        }
        drop(state);
        if let Some(next) = buried {
            end_now(&next);
        }
        self.changed.notify_all();
    }

    fn launch_next(self: &Arc<Self>) -> Result<Arc<Connection>, GatewayError> {
        let Some((launcher, common)) = &self.starter else { return Err(GatewayError::Terminated) };
        let deadline = Deadline::after(self.spec.hello_deadline());
        let next = launcher.launch(&self.spec, common)?;
        next.owner.set(self);
        let mut state = self.state.lock();
        state.started += 1;
        if state.ending {
            drop(state);
            end_now(&next);
            return Err(GatewayError::Terminated);
        }
        state.next = Next::Greeting(Arc::clone(&next));
        drop(state);
        check_hello(&next, deadline).map(|()| next)
    }

    /// The worker that was ready has died unused. Another is started at once, but if that happens again it counts as a
    /// failure to start.
    fn next_is_lost(&self, state: &mut State) {
        let Next::Ready(next) = std::mem::replace(&mut state.next, Next::None) else { return };
        state.failures = state.failures.saturating_add(1);
        if state.failures > 1 {
            let loss =
                next.wait_ended(Deadline::after(Duration::ZERO)).unwrap_or_else(|| next.unknown_loss("it was killed"));
            let error = Arc::new(GatewayError::Handshake { loss });
            state.next = Next::Failed { retry_at: Instant::now() + pause_after(state.failures), error };
        }
        // A killed one that is not reaped yet is seen to its end like any other.
        if next.has_ended() { state.ended.push(next) } else { state.draining.push(next) }
    }

    // ---- what the workers' readers say; nothing here waits ----

    /// An execution has ended on this worker.
    pub(crate) fn execution_ended(self: &Arc<Self>, connection: &Arc<Connection>) {
        let Some(mark) = self.recycle().memory_bytes else { return };
        if !connection.is_above(mark) {
            return;
        }
        let mut state = self.state.lock();
        if Arc::ptr_eq(&state.current, connection) && state.may_drain() && !state.ending {
            state.overdue = true;
            if matches!(state.next, Next::Ready(_)) {
                self.replace(&mut state, Reason::Memory);
            } else {
                self.start_ahead(&mut state);
            }
        }
    }

    /// This worker is gone, and all its channels have ended.
    pub(crate) fn worker_ended(self: &Arc<Self>, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        if let Some(at) = state.draining.iter().position(|other| Arc::ptr_eq(other, connection)) {
            let gone = state.draining.swap_remove(at);
            state.finished_before += gone.finished();
            state.ended.push(gone);
        }
        let lost = Arc::ptr_eq(&state.current, connection) && self.recycle().after_loss;
        // One that died unused is left to the next call, so that workers that die at once are not started in a circle.
        if lost && connection.was_used() {
            self.start_ahead(&mut state);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Joins the threads of workers that are gone.
    fn bury(&self, mut state: MutexGuard<'_, State>) {
        if state.ended.is_empty() {
            return;
        }
        let ended = std::mem::take(&mut state.ended);
        drop(state);
        ended.iter().for_each(|connection| connection.join());
    }

    // ---- life ----

    /// Whether an execution would be tried: the worker is there, or would be replaced.
    pub(crate) fn is_alive(&self) -> bool {
        let state = self.state.lock();
        let paused = matches!(&state.next, Next::Failed { retry_at, .. } if *retry_at > Instant::now());
        state.current.is_alive() || (self.recycle().after_loss && !state.ending && !paused)
    }

    pub(crate) fn is_ending(&self) -> bool {
        let state = self.state.lock();
        state.ending || state.current.is_terminating()
    }

    /// Whether all workers are gone and none comes any more.
    pub(crate) fn have_ended(&self) -> bool {
        let state = self.state.lock();
        let settled = state.ending || !self.recycle().after_loss;
        settled && matches!(state.next, Next::None | Next::Failed { .. }) && state.all().all(|it| it.has_ended())
    }

    /// The workers that there are now, the current one first.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.state.lock().all().cloned().collect()
    }

    /// No worker is started any more, and one that is just starting is killed. Does not block.
    pub(crate) fn begin_ending(&self) {
        let mut state = self.state.lock();
        state.ending = true;
        if let Next::Greeting(next) = &state.next {
            next.kill_process();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until no worker is starting; after [`begin_ending`](Self::begin_ending).
    pub(crate) fn settle(&self) {
        let deadline = Deadline::after(REAP_DEADLINE);
        let mut state = self.state.lock();
        while matches!(state.next, Next::Launching | Next::Greeting(_)) {
            if deadline.wait(&self.changed, &mut state).is_err() {
                return;
            }
        }
    }

    /// Asks all workers to end once their executions have. Does not block.
    pub(crate) fn exit(&self) {
        if !self.is_ending() {
            self.begin_ending();
            self.all().iter().for_each(|connection| connection.request_terminate(false));
        }
    }

    /// Kills all workers that have executions or would take some. Does not block.
    pub(crate) fn kill(&self) {
        let state = self.state.lock();
        std::iter::once(&state.current).chain(&state.draining).for_each(|connection| connection.kill_process());
    }

    /// Waits until the workers that there are now are gone.
    pub(crate) fn join(&self, deadline: Deadline) -> bool {
        let (next, workers) = {
            let state = self.state.lock();
            (state.ending, state.all().cloned().collect::<Vec<_>>())
        };
        if next {
            self.settle();
        }
        workers.iter().all(|connection| connection.wait_ended(deadline).is_some())
    }

    /// Joins the threads of all workers, which are gone.
    pub(crate) fn join_threads(&self) {
        self.bury(self.state.lock());
    }

    pub(crate) fn status(&self, timeout: Duration) -> Result<GatewayStatus, StatusError> {
        let current = self.current();
        let said = match current.worker_status(timeout) {
            // Between two workers there is none to ask.
            Err(StatusError::NotAlive { .. }) if self.recycle().after_loss && self.is_alive() => None,
            said => Some(said?),
        };
        let WorkerStatus { running, queued, channels, finished } = said.clone().unwrap_or_default();
        let state = self.state.lock();
        let draining = state.draining.iter().filter(|connection| !Arc::ptr_eq(connection, &current));
        let mut memory = current.resident_bytes();
        let (mut more_running, mut more_channels, mut more_finished) = (0_u32, 0, 0);
        for connection in draining {
            more_running = more_running.saturating_add(u32::try_from(connection.executions()).unwrap_or(u32::MAX));
            more_channels += connection.open_channels();
            more_finished += connection.finished();
            let sum = memory.unwrap_or(0) + connection.resident_bytes().unwrap_or(0);
            memory = (sum > 0).then_some(sum);
        }
        let gone = state.finished_before + if said.is_none() { current.finished() } else { 0 };
        Ok(GatewayStatus {
            running: running.saturating_add(more_running),
            queued,
            finished: finished.saturating_add(gone + more_finished),
            channels: channels.saturating_add(u32::try_from(more_channels).unwrap_or(u32::MAX)),
            host_channels: current.open_channels() + more_channels,
            memory_bytes: memory,
            pid: said.and(current.pid()),
            workers_started: state.started,
            recycled: state.recycled,
        })
    }
}

impl State {
    /// Why the current worker has to be replaced before it takes an execution.
    fn due(&self, recycle: Recycle) -> Option<Reason> {
        if self.ending || self.current.is_terminating() {
            return None;
        }
        if !self.current.takes_executions() {
            return recycle.after_loss.then_some(Reason::Loss);
        }
        if !self.may_drain() {
            return None;
        }
        if recycle.executions.is_some_and(|most| self.current.places_taken() >= most.max(1)) {
            return Some(Reason::Executions);
        }
        let above = recycle.memory_bytes.is_some_and(|mark| self.overdue || self.current.is_above(mark));
        above.then_some(Reason::Memory)
    }

    fn may_drain(&self) -> bool {
        self.draining.len() < MAX_DRAINING_WORKERS
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Connection>> {
        let next = match &self.next {
            Next::Greeting(next) | Next::Ready(next) => Some(next),
            _ => None,
        };
        std::iter::once(&self.current).chain(&self.draining).chain(next)
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

/// Kills a worker that nobody uses and waits until it is gone.
pub(crate) fn end_now(connection: &Arc<Connection>) {
    connection.kill_process();
    if connection.wait_ended(Deadline::after(REAP_DEADLINE)).is_some() {
        connection.join();
    }
}

/// The gateway that a worker belongs to, as the worker knows it.
#[derive(Debug, Default)]
pub(crate) struct Owner(Mutex<Weak<Workers>>);

impl Owner {
    pub(crate) fn set(&self, workers: &Arc<Workers>) {
        *self.0.lock() = Arc::downgrade(workers);
    }

    pub(crate) fn get(&self) -> Option<Arc<Workers>> {
        self.0.lock().upgrade()
    }

    /// The gateway. A connection that outlives its gateway makes another one, whose only worker it is.
    pub(crate) fn get_or_make(&self, connection: &Arc<Connection>) -> Arc<Workers> {
        let mut owner = self.0.lock();
        owner.upgrade().unwrap_or_else(|| {
            let workers = Arc::new(Workers::made(Arc::clone(connection), None));
            *owner = Arc::downgrade(&workers);
            workers
        })
    }
}
