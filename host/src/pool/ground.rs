//! The gateways under a pool's lanes: started on threads of their own, given tasks, asked for what came of them.
//!
//! This is the one place where a task is put on a gateway ([`Ground::begin`]): in a fresh instance, or as a message to an
//! execution that serves many (a *session*). Nothing here decides anything, and nothing here waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandgate_wire::messages::Messages;
use sandgate_wire::outcome::{KilledBy, LossCause, WorkerLoss};
use sandgate_wire::{Message, Outcome};

use super::core::{TaskId, Verdict};
use super::driver::Note;
use super::machines::Machine;
use super::mailbox::Sender;
use super::packed::Packed;
use super::result::{PoolError, ProgramOutput, TaskError};
use super::runs::Runs;
use super::seat::Told;
use super::work::{Answers, RawValue};
use crate::call::Call;
use crate::callback;
use crate::channel::Channel;
use crate::connection::{Connection, Run};
use crate::deadline::Deadline;
use crate::endpoint::{Endpoint, PoolConsumer};
use crate::error::{ExecError, SendError};
use crate::gateway::Gateway;
use crate::group::Group;
use crate::module::Module;
use crate::output::{CapturedOutput, Origin};
use crate::value::Encoded;

/// How long nobody need be woken for what comes from a lane that was given short runs. It is given more before that is over.
const MAY_DOZE: Duration = Duration::from_millis(15);

/// Endpoints of runs that have ended which are kept for the next ones.
const MAX_USED_UP: usize = 256;

/// A gateway, with the group that owns it: one each, so that nothing of a worker that was replaced is left.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) gateway: Gateway,
    pub(crate) group: Option<Group>,
    /// Lanes that its machine is to have besides: until now nobody knew how many cores it has.
    pub(crate) more: usize,
}

/// Makes the gateway of a lane, or one that can take any lane's place. Blocks until it is ready for the pool's tasks.
pub(crate) trait Maker: Send + Sync {
    fn make(&self, lane: usize) -> Result<Made, PoolError>;
    fn make_spare(&self, number: u64) -> Result<Made, PoolError>;
    /// There are so many lanes more, behind all others, on the machine of this one.
    fn grow(&self, lane: usize, more: usize);
    /// These are the machines from now on. What is to join has its lanes behind all others.
    fn change(&self, _machines: &[Machine]) -> Change {
        Change::default()
    }
    /// The gateway of a lane that has left is gone. Blocks while a link ends that nobody needs any more.
    fn left(&self, _lane: usize) {}
    /// Whether a lane is on another machine.
    fn is_far(&self, _lane: usize) -> bool {
        false
    }
    /// What a lane's gateway will be called, if that is known.
    fn id(&self, _lane: usize) -> Option<String> {
        None
    }
    /// Nothing that is being made is wanted any more. Does not block; what can be ended at once ends.
    fn give_up(&self) {}
}

/// What follows from a change of machines.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Lanes that are to leave.
    pub(crate) leave: Vec<usize>,
    /// How many lanes there are more.
    pub(crate) join: usize,
}

/// Why a run has not begun.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// Its gateway is about to go.
    Closing,
    /// The session takes nothing more for now.
    Full,
    /// It never will.
    Refused(TaskError),
}

/// What came from a lane.
#[derive(Debug)]
pub(crate) enum Came<'a> {
    /// A run has ended.
    Ended { run: u64, verdict: Verdict<RawValue> },
    /// The session has answered the first of its tasks, one with each message.
    Answered(Answers<'a>),
    /// The session has ended.
    SessionEnded(Verdict<RawValue>),
}

#[derive(Debug, Default)]
struct Place {
    made: Option<Made>,
    /// The id of its first gateway, by which it is known.
    name: Arc<str>,
    runs: Runs<Running>,
    /// Endpoints of runs that have ended, for those that begin next. None while nothing runs.
    used_up: Vec<Arc<Endpoint>>,
    /// The worker of the last run.
    pid: Option<u32>,
    recycled: bool,
    session: Option<Session>,
}

/// A run, which is given up if it is dropped before its end.
#[derive(Debug)]
struct Running {
    endpoint: Arc<Endpoint>,
    last: Option<Message>,
    has_ended: bool,
}

impl Place {
    /// A run has ended.
    fn forget(&mut self, run: u64) {
        let ended = self.runs.remove(run);
        if self.runs.is_empty() {
            self.used_up.clear();
        } else if let Some(ended) = ended
            && self.used_up.len() < MAX_USED_UP
            && ended.endpoint.is_used_up()
        {
            self.used_up.push(Arc::clone(&ended.endpoint));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            self.endpoint.abandon_run();
        }
    }
}

#[derive(Debug)]
struct Session {
    number: u64,
    channel: Channel,
}

/// The gateways of a pool's lanes.
pub(crate) struct Ground {
    places: Vec<Place>,
    maker: Arc<dyn Maker>,
    module: Module,
    /// What a session is; and each run, but for what it has of its own.
    call: Arc<Call>,
    reuse: bool,
    next_session: u64,
    notes: Sender<Note>,
    told: Arc<Told>,
    spares: Spares,
    /// Where something was begun that is not written yet, and on which lane.
    placed: Vec<(usize, Arc<Connection>)>,
    /// Empty between calls, for its memory.
    answers: Messages,
}

/// Gateways that are ready, for the lanes that lose theirs.
#[derive(Debug, Default)]
struct Spares {
    wanted: usize,
    ready: Vec<Made>,
    starting: usize,
    made: u64,
    /// Gateways that were replaced and are not gone for good.
    burying: usize,
}

impl Spares {
    /// Takes out those that died before they were needed.
    fn dead(&mut self) -> Vec<Made> {
        self.ready.extract_if(.., |made| !made.gateway.is_alive()).collect()
    }
}

impl Ground {
    pub(crate) fn new(
        lanes: usize,
        maker: Arc<dyn Maker>,
        module: Module,
        call: Call,
        reuse: bool,
        told: Told,
        spares: usize,
    ) -> Ground {
        let places = (0..lanes).map(|_| Place::default()).collect();
        let spares = Spares { wanted: spares, ..Spares::default() };
        let call = Arc::new(Call { patient: true, ..call });
        Ground {
            places,
            maker,
            module,
            call,
            reuse,
            next_session: 0,
            notes: told.notes.clone(),
            told: Arc::new(told),
            spares,
            placed: Vec::new(),
            answers: Messages::default(),
        }
    }

    /// Gives a lane a spare gateway at once. If there is none, starts one on another thread, after the one before has gone
    /// for good. A note says what became of it.
    pub(crate) fn start(&mut self, lane: usize) {
        let place = &mut self.places[lane];
        let (runs, session, made) = (std::mem::take(&mut place.runs), place.session.take(), place.made.take());
        place.used_up.clear();
        let (maker, notes) = (Arc::clone(&self.maker), self.notes.clone());
        let (before, dead) = ((runs, session, made), self.spares.dead());
        let Some(spare) = self.spares.ready.pop() else {
            return callback::run_soon(Box::new(move || {
                drop((before, dead));
                let _ = notes.send(Note::Started { lane, result: maker.make(lane).map(Box::new) });
            }));
        };
        let _ = notes.send(Note::Started { lane, result: Ok(Box::new(spare)) });
        self.bury((before, dead), |_| {});
    }

    /// Makes room for so many lanes more, on the machine of this one.
    pub(crate) fn grow(&mut self, lane: usize, more: usize) {
        self.maker.grow(lane, more);
        self.places.resize_with(self.places.len() + more, Place::default);
    }

    /// These are the machines from now on. There is room for what joins, and no spare for gateways that are not all alike.
    pub(crate) fn change(&mut self, machines: &[Machine]) -> Change {
        let change = self.maker.change(machines);
        self.places.resize_with(self.places.len() + change.join, Place::default);
        if change.join > 0 || !change.leave.is_empty() {
            self.spares.wanted = 0;
            let spares = std::mem::take(&mut self.spares.ready);
            self.bury(spares, |_| {});
        }
        change
    }

    /// Whether a lane is on another machine.
    pub(crate) fn is_far(&self, lane: usize) -> bool {
        self.maker.is_far(lane)
    }

    /// What a lane's gateway will be called.
    pub(crate) fn id(&self, lane: usize) -> Option<Arc<str>> {
        self.maker.id(lane).map(Arc::from)
    }

    /// Ends a lane's gateway, in whose place there will be no other one.
    pub(crate) fn leave(&mut self, lane: usize) {
        let place = std::mem::take(&mut self.places[lane]);
        self.bury((place.runs, place.session, place.made), move |maker| maker.left(lane));
    }

    /// Drops what may take a while on another thread.
    fn bury<T: Send + 'static>(&mut self, dead: T, then: impl FnOnce(&dyn Maker) + Send + 'static) {
        let (maker, notes) = (Arc::clone(&self.maker), self.notes.clone());
        self.spares.burying += 1;
        callback::run_soon(Box::new(move || {
            drop(dead);
            then(&*maker);
            drop(maker);
            let _ = notes.send(Note::Buried);
        }));
    }

    /// Ends what can be ended of what is being started.
    pub(crate) fn give_up(&self) {
        self.maker.give_up();
    }

    pub(crate) fn started(&mut self, lane: usize, made: Made, name: Arc<str>) {
        let place = &mut self.places[lane];
        (place.pid, place.recycled) = (made.gateway.pid(), false);
        (place.made, place.name) = (Some(made), name);
    }

    // ---- spare gateways ----

    /// Starts as many as are missing, on other threads. One that cannot be started is tried again when the next is missing.
    pub(crate) fn start_spares(&mut self) {
        let dead = self.spares.dead();
        if !dead.is_empty() {
            self.bury(dead, |_| {});
        }
        let spares = &mut self.spares;
        while spares.ready.len() + spares.starting < spares.wanted {
            let (maker, notes, number) = (Arc::clone(&self.maker), self.notes.clone(), spares.made);
            (spares.starting, spares.made) = (spares.starting + 1, number + 1);
            callback::run_soon(Box::new(move || {
                let _ = notes.send(Note::Spare(maker.make_spare(number).map(Box::new)));
            }));
        }
    }

    pub(crate) fn spare_started(&mut self, result: Result<Box<Made>, PoolError>) {
        self.spares.starting -= 1;
        match result {
            Ok(made) if self.spares.wanted > 0 => self.spares.ready.push(*made),
            Ok(late) => self.bury(late, |_| {}),
            Err(error) => tracing::warn!("spare gateway of a pool did not start: {error}"),
        }
    }

    pub(crate) fn buried(&mut self) {
        self.spares.burying -= 1;
    }

    /// Spare gateways that are ready.
    pub(crate) fn spares(&self) -> usize {
        self.spares.ready.iter().filter(|made| made.gateway.is_alive()).count()
    }

    /// Whether no other thread is at work for it, but for lanes that start.
    pub(crate) fn is_quiet(&self) -> bool {
        self.spares.starting == 0 && self.spares.burying == 0
    }

    // ---- runs ----

    pub(crate) fn gateway(&self, lane: usize) -> Option<&Gateway> {
        self.places[lane].made.as_ref().map(|made| &made.gateway)
    }

    /// How long something takes to a lane's worker and back, if it is on another machine.
    pub(crate) fn way(&self, lane: usize) -> Duration {
        self.gateway(lane).map_or(Duration::ZERO, |gateway| gateway.connection().round_trip())
    }

    /// Whether one instance on each gateway serves one task after the other.
    pub(crate) fn reuses(&self) -> bool {
        self.reuse
    }

    /// Puts a task on a gateway, in an instance of its own: its input, and its arguments if they are its own.
    pub(crate) fn begin(
        &mut self,
        lane: usize,
        task: TaskId,
        run: u64,
        (input, argv): (Packed, Option<Arc<[String]>>),
    ) -> Result<(), NotBegun> {
        let call = match argv {
            None => Arc::clone(&self.call),
            Some(argv) => Arc::new(Call { argv: argv.to_vec(), ..Call::clone(&self.call) }),
        };
        let origin = Some(self.origin(lane, Some(task)));
        let arguments = Some(Encoded { bytes: input.into_bytes(), channels: Vec::new() });
        let run_of = Some(PoolConsumer { told: Arc::clone(&self.told), lane, number: run, at_end: true });
        let used_up = self.places[lane].used_up.pop();
        let run_of_it = Run { arguments, origin, run_of, used_up };
        let endpoint = self.gateway_for(lane)?.execute_again(&self.module, &call, run_of_it).map_err(not_begun)?;
        self.begun_on(lane, endpoint.connection.pid());
        let connection = &endpoint.connection;
        if !self.placed.iter().any(|(_, placed)| Arc::ptr_eq(placed, connection)) {
            self.placed.push((lane, Arc::clone(connection)));
        }
        // What it has brought by now is taken once this call is over.
        self.places[lane].runs.insert(run, Running { endpoint, last: None, has_ended: false });
        Ok(())
    }

    fn origin(&self, lane: usize, task: Option<TaskId>) -> Origin {
        Origin { gateway: Arc::clone(&self.places[lane].name), task }
    }

    /// Gives a gateway's session these inputs, and begins it if there is none. Says how many it has taken, and why not the
    /// next one.
    pub(crate) fn ask_session(&mut self, lane: usize, inputs: &[&Packed]) -> (usize, Option<NotBegun>) {
        if self.places[lane].session.is_none()
            && let Err(not_begun) = self.begin_session(lane)
        {
            return (0, Some(not_begun));
        }
        let Some(session) = &self.places[lane].session else { return (0, Some(NotBegun::Closing)) };
        let (sent, error) = session.channel.endpoint().send_now(inputs);
        let why_not = error.map(|error| match error {
            // Its end is about to be told.
            SendError::Ended(_) | SendError::Closed | SendError::Timeout(_) => NotBegun::Full,
            error => NotBegun::Refused(TaskError::Refused(Arc::new(ExecError::Arguments(error)))),
        });
        (sent, why_not)
    }

    fn begin_session(&mut self, lane: usize) -> Result<(), NotBegun> {
        let call = Call { origin: Some(self.origin(lane, None)), ..Call::clone(&self.call) };
        let channel = self.gateway_for(lane)?.remote_exec_with(&self.module, &call).map_err(not_begun)?;
        self.begun_on(lane, channel.endpoint().connection.pid());
        let number = self.next_session;
        self.next_session += 1;
        let told = PoolConsumer { told: Arc::clone(&self.told), lane, number, at_end: false };
        channel.endpoint().set_pool(told).map_err(|_| NotBegun::Closing)?;
        self.places[lane].session = Some(Session { number, channel });
        Ok(())
    }

    fn gateway_for(&self, lane: usize) -> Result<&Gateway, NotBegun> {
        self.gateway(lane).ok_or(NotBegun::Closing)
    }

    /// Something was begun on a lane, by this worker.
    fn begun_on(&mut self, lane: usize, pid: Option<u32>) {
        let place = &mut self.places[lane];
        if place.pid != pid {
            (place.recycled, place.pid) = (true, pid);
            // They would keep the connection before.
            place.used_up.clear();
        }
    }

    /// The worker of a lane's last run, if the gateway has replaced the one before by itself. Said once.
    pub(crate) fn recycled(&mut self, lane: usize) -> Option<Option<u32>> {
        let place = &mut self.places[lane];
        std::mem::take(&mut place.recycled).then_some(place.pid)
    }

    /// What a run, or a session, has brought since the last time. What is late finds nothing.
    pub(crate) fn take(&mut self, lane: usize, number: u64, mut came: impl FnMut(Came<'_>)) {
        let place = &mut self.places[lane];
        if !self.reuse {
            let name = &place.name;
            let Some(running) = place.runs.get_mut(number) else { return };
            let Some(outcome) = running.endpoint.take_run(&mut running.last) else { return };
            running.has_ended = true;
            let output = if self.call.capture { running.endpoint.take_output() } else { None };
            let verdict = match output {
                Some(output) => program(name, outcome, output),
                None => verdict(name, outcome, running.last.take()),
            };
            place.forget(number);
            return came(Came::Ended { run: number, verdict });
        }
        let Some(session) = place.session.as_ref().filter(|session| session.number == number) else { return };
        let outcome = session.channel.endpoint().take_deliveries(&mut self.answers);
        if !self.answers.is_empty() {
            came(Came::Answered(Answers::new(&mut self.answers)));
        }
        if let Some(outcome) = outcome {
            let verdict = match outcome {
                Outcome::Returned => Verdict::Failed(TaskError::NoValue),
                outcome => verdict(&place.name, outcome, None),
            };
            place.session = None;
            came(Came::SessionEnded(verdict));
        }
    }

    /// Asks for a run back, if it has not begun. Its end tells.
    pub(crate) fn recall(&self, lane: usize, run: u64) {
        if let Some(running) = self.places[lane].runs.get(run) {
            running.endpoint.recall();
        }
    }

    /// Tells a run to end, or the session, if it is the one at it.
    pub(crate) fn stop(&mut self, lane: usize, run: u64) {
        let place = &self.places[lane];
        let endpoint = match &place.session {
            Some(session) => Some(session.channel.endpoint()),
            None => place.runs.get(run).map(|running| &running.endpoint),
        };
        if let Some(endpoint) = endpoint {
            endpoint.kill();
        }
    }

    pub(crate) fn kill_worker(&mut self, lane: usize) {
        if let Some(gateway) = self.gateway(lane) {
            tracing::warn!(gateway = gateway.id(), "worker is killed: it does not do as it is told");
            gateway.kill();
        }
    }

    /// Sees to it that what was begun is sent. Called before the pool waits. `patience` tells of a lane
    /// how long what it says can wait, if it can.
    pub(crate) fn about_to_wait(&mut self, patience: impl Fn(usize) -> Option<Duration>) {
        for (lane, connection) in self.placed.drain(..) {
            if let Some(patience) = patience(lane) {
                connection.reading.may_doze_until(Instant::now() + MAY_DOZE, patience);
            }
            connection.outbox.write_placed();
        }
        let made = self.places.iter().filter_map(|place| place.made.as_ref());
        made.for_each(|made| made.gateway.connection().outbox.about_to_wait());
    }

    /// What is known about the end of a lane's worker.
    pub(crate) fn loss(&self, lane: usize) -> WorkerLoss {
        let name = self.places[lane].name.to_string();
        let known =
            self.gateway(lane).and_then(|gateway| gateway.connection().wait_ended(Deadline::after(Duration::ZERO)));
        known.map(|loss| WorkerLoss { gateway: name.clone(), ..loss }).unwrap_or_else(|| WorkerLoss {
            gateway: name,
            pid: self.gateway(lane).and_then(Gateway::pid),
            cause: LossCause::Unknown { message: "its connection ended".to_owned() },
            stderr_tail: String::new(),
        })
    }

    /// Ends all gateways.
    pub(crate) fn end(&mut self, deadline: Deadline) {
        let mut gateways = Vec::new();
        for place in &mut self.places {
            (place.runs, place.session) = (Runs::default(), None);
            place.used_up.clear();
            gateways.extend(place.made.as_ref().map(|made| made.gateway.clone()));
        }
        gateways.extend(self.spares.ready.iter().map(|made| made.gateway.clone()));
        crate::termination::terminate_all(&gateways, deadline);
        drop(gateways);
        self.places.iter_mut().for_each(|place| drop(place.made.take().and_then(|made| made.group)));
        self.spares.ready.clear();
    }
}

/// Why nothing has begun.
fn not_begun(error: ExecError) -> NotBegun {
    match error {
        ExecError::GatewayClosed { .. } | ExecError::NoWorker { .. } => NotBegun::Closing,
        error => NotBegun::Refused(TaskError::Refused(Arc::new(error))),
    }
}

fn program(gateway: &str, outcome: Outcome, output: CapturedOutput) -> Verdict<RawValue> {
    let CapturedOutput { stdout, stderr, truncated } = output;
    let exit_code = match outcome {
        Outcome::Returned => Some(0),
        Outcome::Exited { code } => Some(code),
        _ => None,
    };
    let output = ProgramOutput { stdout, stderr, exit_code, truncated };
    match verdict(gateway, outcome, None) {
        Verdict::Value(_) => Verdict::Value(RawValue::Program(Box::new(output))),
        Verdict::Failed(TaskError::Ended(outcome)) => {
            Verdict::Failed(TaskError::Program { outcome, output: Box::new(output) })
        }
        other => other,
    }
}

fn verdict(gateway: &str, outcome: Outcome, last: Option<Message>) -> Verdict<RawValue> {
    match outcome {
        Outcome::Returned => Verdict::Value(last.map_or(RawValue::Nothing, RawValue::from)),
        Outcome::WorkerLost { loss } => Verdict::Lost(WorkerLoss { gateway: gateway.to_owned(), ..loss }),
        Outcome::Killed { by: KilledBy::Kill | KilledBy::Recall, .. } => Verdict::Stopped,
        outcome @ Outcome::Killed { .. } => {
            let cause = LossCause::Unresponsive { message: outcome.to_string() };
            Verdict::Lost(WorkerLoss { gateway: gateway.to_owned(), pid: None, cause, stderr_tail: String::new() })
        }
        outcome => Verdict::Failed(TaskError::Ended(outcome)),
    }
}
