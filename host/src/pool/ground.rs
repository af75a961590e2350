//! The gateways under a pool's lanes: started on threads of their own, given tasks, asked for what came of them.
//!
//! This is the one place where a task is put on a gateway ([`Ground::begin`]): in a fresh instance, or as a message to an
//! execution that serves many (a *session*). Nothing here decides anything, and nothing here waits.

use std::collections::{HashMap, VecDeque, vec_deque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandgate_wire::outcome::{KilledBy, LossCause, WorkerLoss};
use sandgate_wire::{Message, Outcome};

use super::core::{TaskId, Verdict};
use super::driver::Note;
use super::mailbox::Sender;
use super::result::{PoolError, ProgramOutput, TaskError};
use super::seat::Told;
use super::work::RawValue;
use crate::call::Call;
use crate::callback;
use crate::channel::Channel;
use crate::deadline::Deadline;
use crate::endpoint::Delivery;
use crate::error::{ExecError, SendError};
use crate::gateway::Gateway;
use crate::group::Group;
use crate::module::Module;
use crate::output::{CapturedOutput, Origin};
use crate::value::Encoded;

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
    /// Nothing that is being made is wanted any more. Does not block; what can be ended at once ends.
    fn give_up(&self) {}
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
    Answered(vec_deque::Drain<'a, Message>),
    /// The session has ended.
    SessionEnded(Verdict<RawValue>),
}

#[derive(Debug, Default)]
struct Place {
    made: Option<Made>,
    /// The id of its first gateway, by which it is known.
    name: Arc<str>,
    runs: HashMap<u64, Running>,
    /// The worker of the last run.
    pid: Option<u32>,
    recycled: bool,
    session: Option<Session>,
}

#[derive(Debug)]
struct Running {
    channel: Channel,
    last: Option<Message>,
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
    call: Call,
    reuse: bool,
    next_session: u64,
    notes: Sender<Note>,
    told: Told,
    spares: Spares,
    /// Empty between calls, for its memory.
    answers: VecDeque<Message>,
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
        let (notes, answers) = (told.notes.clone(), VecDeque::new());
        Ground { places, maker, module, call, reuse, next_session: 0, notes, told, spares, answers }
    }

    /// Gives a lane a spare gateway at once. If there is none, starts one on another thread, after the one before has gone
    /// for good. A note says what became of it.
    pub(crate) fn start(&mut self, lane: usize) {
        let place = &mut self.places[lane];
        let (runs, session, made) = (std::mem::take(&mut place.runs), place.session.take(), place.made.take());
        let (maker, notes) = (Arc::clone(&self.maker), self.notes.clone());
        let (mut alive, dead): (Vec<Made>, Vec<Made>) =
            self.spares.ready.drain(..).partition(|made| made.gateway.is_alive());
        let (before, spare) = ((runs, session, made, dead), alive.pop());
        self.spares.ready = alive;
        let Some(spare) = spare else {
            return callback::run_soon(Box::new(move || {
                drop(before);
                let _ = notes.send(Note::Started { lane, result: maker.make(lane).map(Box::new) });
            }));
        };
        let _ = notes.send(Note::Started { lane, result: Ok(Box::new(spare)) });
        self.spares.burying += 1;
        callback::run_soon(Box::new(move || {
            drop(before);
            let _ = notes.send(Note::Buried);
        }));
    }

    /// Makes room for so many lanes more, on the machine of this one.
    pub(crate) fn grow(&mut self, lane: usize, more: usize) {
        self.maker.grow(lane, more);
        self.places.resize_with(self.places.len() + more, Place::default);
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
            Ok(made) => self.spares.ready.push(*made),
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
        (input, argv): (Bytes, Option<Arc<[String]>>),
    ) -> Result<(), NotBegun> {
        let mut call = self.call_of(lane, Some(task));
        if let Some(argv) = argv {
            call.argv = argv.to_vec();
        }
        call.arguments = Some(Encoded { bytes: input, channels: Vec::new() });
        call.patient = true;
        let channel = self.execute(lane, &call)?;
        let told = channel.endpoint().set_pool(self.told.clone(), lane, run, true);
        told.map_err(|_| NotBegun::Closing)?;
        self.places[lane].runs.insert(run, Running { channel, last: None });
        Ok(())
    }

    fn call_of(&self, lane: usize, task: Option<TaskId>) -> Call {
        let mut call = self.call.clone();
        call.origin = Some(Origin { gateway: Arc::clone(&self.places[lane].name), task });
        call
    }

    /// Gives a gateway's session these inputs, and begins it if there is none. Says how many it has taken, and why not the
    /// next one.
    pub(crate) fn ask_session(&mut self, lane: usize, inputs: &[&Bytes]) -> (usize, Option<NotBegun>) {
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
        let mut call = self.call_of(lane, None);
        call.patient = true;
        let channel = self.execute(lane, &call)?;
        let number = self.next_session;
        self.next_session += 1;
        let told = channel.endpoint().set_pool(self.told.clone(), lane, number, false);
        told.map_err(|_| NotBegun::Closing)?;
        self.places[lane].session = Some(Session { number, channel });
        Ok(())
    }

    fn execute(&mut self, lane: usize, call: &Call) -> Result<Channel, NotBegun> {
        let gateway = self.gateway(lane).ok_or(NotBegun::Closing)?;
        let channel = gateway.remote_exec_with(&self.module, call).map_err(|error| match error {
            ExecError::GatewayClosed { .. } | ExecError::NoWorker { .. } => NotBegun::Closing,
            error => NotBegun::Refused(TaskError::Refused(Arc::new(error))),
        })?;
        let (pid, place) = (channel.endpoint().connection.pid(), &mut self.places[lane]);
        place.recycled |= place.pid != pid;
        place.pid = pid;
        Ok(channel)
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
            let Some(running) = place.runs.get_mut(&number) else { return };
            while let Some(delivery) = running.channel.endpoint().next_delivery() {
                match delivery {
                    Delivery::Message(message) => running.last = Some(message),
                    Delivery::End(outcome) => {
                        let verdict = match running.channel.take_output() {
                            Some(output) => program(name, outcome, output),
                            None => verdict(name, outcome, running.last.take()),
                        };
                        place.runs.remove(&number);
                        return came(Came::Ended { run: number, verdict });
                    }
                }
            }
            return;
        }
        let Some(session) = place.session.as_ref().filter(|session| session.number == number) else { return };
        let outcome = session.channel.endpoint().take_deliveries(&mut self.answers);
        if !self.answers.is_empty() {
            came(Came::Answered(self.answers.drain(..)));
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
        if let Some(running) = self.places[lane].runs.get(&run) {
            running.channel.endpoint().recall();
        }
    }

    /// Tells a run to end, or the session, if it is the one at it.
    pub(crate) fn stop(&mut self, lane: usize, run: u64) {
        let place = &self.places[lane];
        let channel = match &place.session {
            Some(session) => Some(&session.channel),
            None => place.runs.get(&run).map(|running| &running.channel),
        };
        if let Some(channel) = channel {
            channel.endpoint().kill();
        }
    }

    pub(crate) fn kill_worker(&mut self, lane: usize) {
        if let Some(gateway) = self.gateway(lane) {
            tracing::warn!(gateway = gateway.id(), "worker is killed: it does not do as it is told");
            gateway.kill();
        }
    }

    /// Sees to it that what was begun is sent. Called before the pool waits.
    pub(crate) fn about_to_wait(&self) {
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
            (place.runs, place.session) = (HashMap::new(), None);
            gateways.extend(place.made.as_ref().map(|made| made.gateway.clone()));
        }
        gateways.extend(self.spares.ready.iter().map(|made| made.gateway.clone()));
        crate::termination::terminate_all(&gateways, deadline);
        drop(gateways);
        self.places.iter_mut().for_each(|place| drop(place.made.take().and_then(|made| made.group)));
        self.spares.ready.clear();
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
        Verdict::Value(_) => Verdict::Value(RawValue::Program(output)),
        Verdict::Failed(TaskError::Ended(outcome)) => {
            Verdict::Failed(TaskError::Program { outcome, output: Box::new(output) })
        }
        other => other,
    }
}

fn verdict(gateway: &str, outcome: Outcome, last: Option<Message>) -> Verdict<RawValue> {
    match outcome {
        Outcome::Returned => Verdict::Value(RawValue::Message(last)),
        Outcome::WorkerLost { loss } => Verdict::Lost(WorkerLoss { gateway: gateway.to_owned(), ..loss }),
        Outcome::Killed { by: KilledBy::Kill | KilledBy::Recall, .. } => Verdict::Stopped,
        outcome @ Outcome::Killed { .. } => {
            let cause = LossCause::Unresponsive { message: outcome.to_string() };
            Verdict::Lost(WorkerLoss { gateway: gateway.to_owned(), pid: None, cause, stderr_tail: String::new() })
        }
        outcome => Verdict::Failed(TaskError::Ended(outcome)),
    }
}
