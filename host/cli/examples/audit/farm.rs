//! The task processor loop: every file goes to some gateway, and has exactly one result in the end.
//!
//! ```text
//!            ┌── Ready, Done ──► the next files go to that gateway, a few ahead, so that it never waits
//!  queue ────┼── End ──────────► the file it was at gets the outcome as its result, those behind it go elsewhere,
//!            │                   and the task processor starts again: on the same gateway, or on a new one
//!            └── nothing comes ► the task of the file that has taken too long is killed, which makes it end
//! ```
//!
//! The guest answers in order, so when a task ends, the first file without an answer is the one it was at. A lost worker
//! is no proof, since anybody can kill a process: its file gets a second try.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use audit_core::{Report, Request, Response};
use sandgate::{
    Channel, Event, ExecError, Gateway, Group, KilledBy, Module, MultiChannel, Outcome, QueueError, ReceiveQueue,
    SendError, Spec, TerminationReport,
};

use crate::load::{cpu_time, own_cpu_time};

/// Files under way to one gateway. One is worked at, one waits there, one is on its way.
const MAX_FILES_AHEAD: usize = 3;
/// Bytes under way, beyond which only an idle gateway gets a file: far below a channel's window, so that sending to one
/// gateway never keeps the others waiting.
const MAX_BYTES_AHEAD: usize = 256 * 1024;
/// Task processors in a row that may end on one gateway without having been given a file.
const MAX_IDLE_ENDS: u32 = 3;
/// How long task processors and gateways have to end when all is done.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileResult {
    /// It was audited.
    Audited(Report),
    /// The task ended over it.
    Ended(Outcome),
    /// It could not be read or sent, for this reason.
    Unsent(String),
}

/// What one gateway has done.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) gateway: String,
    pub(crate) files: usize,
    /// Processor time of its worker, if it lived to the end.
    pub(crate) cpu: Option<Duration>,
}

/// All files through the farm once.
#[derive(Debug)]
pub(crate) struct Pass {
    /// One for each file, in their order.
    pub(crate) results: Vec<FileResult>,
    /// From the start of the first gateway until all have accepted the task; the module may be compiled in it.
    pub(crate) setup: Duration,
    /// From there to the last result.
    pub(crate) elapsed: Duration,
    pub(crate) loads: Vec<Load>,
    /// Processor time of this process meanwhile.
    pub(crate) host_cpu: Duration,
    /// Task processors that were started again.
    pub(crate) restarts: usize,
    pub(crate) termination: TerminationReport,
}

/// How to run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) gateways: usize,
    pub(crate) spec: Spec,
    /// Time that one file may take.
    pub(crate) file_timeout: Duration,
}

/// Sends all `files` through gateways of their own. `on_result` is told of each file once, by its position, and may look at
/// the gateways.
pub(crate) fn run<P: AsRef<Path>>(
    module: &Module,
    files: &[P],
    settings: Settings,
    on_result: impl FnMut(usize, &Group),
) -> Result<Pass> {
    let begin = Instant::now();
    let group = Group::builder().default_spec(settings.spec.clone()).build();
    group.make_gateways(vec![settings.spec.clone(); settings.gateways])?;
    let channels = group.remote_exec(module)?;
    let queue = channels.make_receive_queue()?;
    let lanes = channels.iter().cloned().map(Lane::new).collect();
    let mut farm = Farm {
        module,
        files,
        settings,
        on_result,
        group,
        queue,
        lanes,
        pending: (0..files.len()).collect(),
        results: vec![None; files.len()],
        left: files.len(),
        suspects: HashSet::new(),
        loads: Vec::new(),
        restarts: 0,
    };

    let (start, cpu_before) = (Instant::now(), own_cpu_time());
    farm.run()?;
    let (elapsed, host_cpu) = (start.elapsed(), own_cpu_time().saturating_sub(cpu_before));
    farm.stop();

    let termination = farm.group.terminate(END_TIMEOUT);
    let results: Option<Vec<FileResult>> = farm.results.into_iter().collect();
    let results = results.context("a file has no result")?;
    let (loads, restarts) = (farm.loads, farm.restarts);
    Ok(Pass { results, setup: start - begin, elapsed, loads, host_cpu, restarts, termination })
}

struct Farm<'a, P, F> {
    module: &'a Module,
    files: &'a [P],
    settings: Settings,
    on_result: F,
    group: Group,
    queue: ReceiveQueue<Response>,
    lanes: Vec<Lane>,
    /// Files to send; those that come back stand in front.
    pending: VecDeque<usize>,
    results: Vec<Option<FileResult>>,
    /// Files without a result.
    left: usize,
    /// Files over which a worker was lost.
    suspects: HashSet<usize>,
    /// Of gateways that are gone.
    loads: Vec<Load>,
    restarts: usize,
}

/// A gateway and the task processor that sits on it.
struct Lane {
    channel: Channel,
    gateway: Gateway,
    is_ready: bool,
    /// Files without an answer, each with its size, in the order they were sent.
    under_way: VecDeque<(usize, usize)>,
    /// When the task processor began with what it is at.
    since: Instant,
    idle_ends: u32,
    files: usize,
    cpu_before: Option<Duration>,
}

impl<P: AsRef<Path>, F: FnMut(usize, &Group)> Farm<'_, P, F> {
    fn run(&mut self) -> Result<()> {
        while self.left > 0 {
            match self.queue.get_timeout(self.until_next_deadline()) {
                Ok((channel, event)) => {
                    let lane = self.lanes.iter().position(|lane| lane.channel == channel);
                    let lane = lane.context("something came from a task that was replaced")?;
                    match event {
                        Event::Item(response) => self.answered(lane, response)?,
                        Event::End(outcome) => self.ended(lane, outcome)?,
                    }
                }
                Err(QueueError::Timeout(_)) => self.kill_overdue()?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn answered(&mut self, lane: usize, response: Response) -> Result<()> {
        let it = &mut self.lanes[lane];
        it.since = Instant::now();
        it.idle_ends = 0;
        match response {
            Response::Ready => it.is_ready = true,
            Response::Done { index, report } => {
                let (file, _) = it.under_way.pop_front().context("an answer came for nothing")?;
                ensure!(index == file as u64, "file {file} was sent first, and the answer is for file {index}");
                it.files += 1;
                self.settle(file, FileResult::Audited(report));
            }
        }
        self.feed(lane)
    }

    /// Sends files until the gateway has enough to do.
    fn feed(&mut self, lane: usize) -> Result<()> {
        while self.lanes[lane].has_room()
            && let Some(file) = self.pending.pop_front()
        {
            let source = match std::fs::read(self.files[file].as_ref()) {
                Ok(source) => source,
                Err(error) => {
                    self.settle(file, FileResult::Unsent(error.to_string()));
                    continue;
                }
            };
            let bytes = source.len();
            let it = &mut self.lanes[lane];
            match it.channel.send(&Request::File { index: file as u64, source }) {
                Ok(()) => {
                    if it.under_way.is_empty() {
                        it.since = Instant::now();
                    }
                    it.under_way.push_back((file, bytes));
                }
                Err(SendError::Ended(_)) => {
                    // The queue is about to tell.
                    self.pending.push_front(file);
                    break;
                }
                Err(error @ SendError::TooLarge { .. }) => self.settle(file, FileResult::Unsent(error.to_string())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A task processor has ended: takes its files back, all but the one it has ended over, and starts another.
    fn ended(&mut self, lane: usize, outcome: Outcome) -> Result<()> {
        let it = &mut self.lanes[lane];
        let first = it.under_way.pop_front();
        let behind: Vec<usize> = it.under_way.drain(..).map(|(file, _)| file).collect();
        behind.into_iter().rev().for_each(|file| self.pending.push_front(file));
        match first {
            None => {
                self.lanes[lane].idle_ends += 1;
                if self.lanes[lane].idle_ends >= MAX_IDLE_ENDS {
                    bail!("task processor of {} cannot work: {outcome}", self.lanes[lane].channel.gateway_id());
                }
            }
            Some((file, _)) if is_of_worker(&outcome) && self.suspects.insert(file) => self.pending.push_front(file),
            Some((file, _)) => self.settle(file, FileResult::Ended(outcome)),
        }
        // What came back may also be for a gateway that has nothing to do any more.
        self.start_again(lane)?;
        (0..self.lanes.len()).try_for_each(|lane| self.feed(lane))
    }

    fn start_again(&mut self, lane: usize) -> Result<()> {
        self.restarts += 1;
        let channel = match self.lanes[lane].gateway.remote_exec(self.module) {
            Ok(channel) => channel,
            Err(ExecError::GatewayClosed { .. }) => {
                let gateway = self.group.make_default_gateway()?;
                let new = Lane::new(gateway.remote_exec(self.module)?);
                let old = std::mem::replace(&mut self.lanes[lane], new);
                self.lanes[lane].idle_ends = old.idle_ends;
                self.loads.push(Load { gateway: old.gateway.id().to_owned(), files: old.files, cpu: None });
                return Ok(self.queue.add(&self.lanes[lane].channel)?);
            }
            Err(error) => return Err(error.into()),
        };
        self.queue.add(&channel)?;
        let it = &mut self.lanes[lane];
        (it.channel, it.is_ready, it.since) = (channel, false, Instant::now());
        Ok(())
    }

    fn settle(&mut self, file: usize, result: FileResult) {
        let slot = &mut self.results[file];
        assert!(slot.is_none(), "file {file} has two results: {slot:?} and {result:?}");
        *slot = Some(result);
        self.left -= 1;
        (self.on_result)(file, &self.group);
    }

    fn until_next_deadline(&self) -> Duration {
        let busy = self.lanes.iter().filter(|lane| lane.is_busy());
        let first = busy.map(|lane| lane.since).min().unwrap_or_else(Instant::now);
        self.settings.file_timeout.saturating_sub(first.elapsed())
    }

    fn kill_overdue(&mut self) -> Result<()> {
        for lane in &mut self.lanes {
            if lane.is_busy() && lane.since.elapsed() >= self.settings.file_timeout {
                lane.since = Instant::now();
                lane.channel.kill()?;
            }
        }
        Ok(())
    }

    /// Asks all task processors to return, waits for them, and takes down what each gateway has done.
    fn stop(&mut self) {
        let channels = MultiChannel::new(self.lanes.iter().map(|lane| lane.channel.clone()));
        // Of those that do not take it, or do not end, the termination that comes next tells.
        let _ = channels.send_each(&Request::Stop);
        let _ = channels.wait_close_timeout(END_TIMEOUT);
        self.loads.extend(self.lanes.iter().map(Lane::load));
    }
}

impl Lane {
    fn new(channel: Channel) -> Lane {
        let gateway = channel.gateway();
        let cpu_before = gateway.pid().and_then(cpu_time);
        let (is_ready, under_way, since) = (false, VecDeque::new(), Instant::now());
        Lane { channel, gateway, is_ready, under_way, since, idle_ends: 0, files: 0, cpu_before }
    }

    /// Whether the task processor owes an answer.
    fn is_busy(&self) -> bool {
        !self.is_ready || !self.under_way.is_empty()
    }

    fn has_room(&self) -> bool {
        let bytes: usize = self.under_way.iter().map(|(_, bytes)| bytes).sum();
        let takes_more = self.under_way.len() < MAX_FILES_AHEAD && bytes < MAX_BYTES_AHEAD;
        self.is_ready && (self.under_way.is_empty() || takes_more)
    }

    fn load(&self) -> Load {
        let now = self.gateway.pid().and_then(cpu_time);
        let cpu = now.zip(self.cpu_before).map(|(now, before)| now.saturating_sub(before));
        Load { gateway: self.gateway.id().to_owned(), files: self.files, cpu }
    }
}

/// Whether the worker's end was the task's.
fn is_of_worker(outcome: &Outcome) -> bool {
    outcome.is_worker_lost() || matches!(outcome, Outcome::Killed { by: KilledBy::Terminate, .. })
}
