//! A machine that was reached: the link to its agent, and what is under way on it.
//!
//! ```text
//!  connected ──── the launcher ends, silence, nonsense, close ────► over
//!                  the launcher is reaped, its words are kept, and only then whoever waits is told which of them it was
//! ```
//!
//! Three threads serve the link; the one that reads sees its end and clears up. Nothing here waits for a user.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sandgate_wire::link::frame::{LinkFrame, MAX_PAYLOAD_BYTES};
use sandgate_wire::link::message::{AgentHello, Exited, FromAgent, HostGreeting, Start, ToAgent};
use sandgate_wire::link::{Link, LinkEnd, StreamReceive, StreamSend, core::End};
use sandgate_wire::outcome::{LinkProblem, LossCause};
use sandgate_wire::text::printable;
use sandgate_wire::transport::SendHalf;

use super::artefacts::Tickets;
use super::attempts::Attempts;
use super::bootstrap::Binary;
use super::error::{ReachError, is_of_corruption, said};
use super::greeting::{Greeted, greet};
use super::launcher;
use super::requests::Requests;
use super::route::Step;
use super::running::Running;
use crate::deadline::Deadline;
use crate::vetting;

/// How long a launcher may take to end once its link has.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of a worker that was killed may take to be reported, and that of a link on which it is not.
const KILL_PATIENCE: Duration = Duration::from_secs(4);
/// The longest last words of a process elsewhere.
const MAX_WORDS_BYTES: usize = 16 * 1024;

/// A machine and its agent.
#[derive(Debug)]
pub(crate) struct RemoteHost {
    /// For messages.
    name: String,
    pub(crate) link: Arc<Link>,
    hello: AgentHello,
    /// None in tests, whose far end is a script.
    launcher: Option<Arc<Running>>,
    /// It is an ssh client.
    is_ssh: bool,
    workers: Mutex<HashMap<u64, Arc<Slot>>>,
    pub(crate) requests: Requests,
    pub(super) tickets: Tickets,
    /// Why everything on it has ended, once the launcher was reaped.
    loss: Mutex<Option<LossCause>>,
    is_over: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What is known of a process elsewhere.
#[derive(Debug, Default)]
struct Slot {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    pid: Option<u32>,
    ended: Option<LossCause>,
    words: String,
    resident: Option<u64>,
    is_asked: bool,
}

impl RemoteHost {
    /// Goes one step, from this machine or from one that was reached, and starts the threads of the link.
    pub(super) fn reach(
        step: &Step,
        base: Option<&Arc<RemoteHost>>,
        greeting: &HostGreeting,
        patience: Duration,
        attempts: &Attempts,
    ) -> Result<Arc<RemoteHost>, ReachError> {
        let binary = step.binary()?;
        let command = step.command(&binary.as_ref().map_or_else(String::new, Binary::arguments));
        let launched = launcher::start(&command, base, step.is_ssh())?;
        let _attempt = attempts.begin(&launched.launcher);
        let Greeted { send, launcher, hello, mut reader, encoder } =
            greet(launched, binary.as_ref(), greeting, patience)?;
        let host = RemoteHost::over(step.name(), send, Some((launcher, step.is_ssh())), hello, greeting.heartbeat);
        let link = Arc::clone(&host.link);
        let reading = Arc::clone(&host);
        let (writing, looking) = (Arc::clone(&link), link);
        let started = host
            .spawn("reader", move || {
                reading.link.run_reader(&mut reader, |frame| reading.take(frame));
                reading.clear_up();
            })
            .and_then(|()| host.spawn("writer", move || writing.run_writer(encoder)))
            .and_then(|()| host.spawn("clock", move || looking.run_clock()));
        if let Err(error) = started {
            host.close();
            return Err(ReachError::resources(error));
        }
        Ok(host)
    }

    /// A machine at the far end of a link whose threads nobody has started. With a launcher comes whether it is an ssh client.
    pub(crate) fn over(
        name: String,
        send: Box<dyn SendHalf>,
        launcher: Option<(Arc<Running>, bool)>,
        hello: AgentHello,
        heartbeat: Duration,
    ) -> Arc<RemoteHost> {
        let (launcher, is_ssh) = launcher.unzip();
        Arc::new(RemoteHost {
            name,
            is_ssh: is_ssh.unwrap_or(false),
            link: Link::new(End::Host, send, heartbeat),
            hello,
            launcher,
            workers: Mutex::default(),
            requests: Requests::default(),
            tickets: Tickets::default(),
            loss: Mutex::default(),
            is_over: Condvar::new(),
            threads: Mutex::default(),
        })
    }

    fn spawn(&self, role: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(format!("link-{role}")).spawn(run)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Processors that its agent may use, by its own word.
    pub(super) fn processors(&self) -> u32 {
        self.hello.processors
    }

    pub(crate) fn is_over(&self) -> bool {
        self.link.ended().is_some()
    }

    /// Ends the link, and with it everything at its far end; waits until the launcher is gone.
    pub(crate) fn close(&self) {
        self.link.end(LinkEnd::Closed);
        self.join();
    }

    pub(super) fn join(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the link to `{}` panicked", self.name);
            }
        }
    }

    // ---- processes at the far end ----

    /// Has a process started at the far end of a new stream. Does not wait for it: what goes wrong is its end.
    pub(crate) fn start(self: &Arc<Self>, start: &Start) -> io::Result<(StreamSend, StreamReceive, RemoteWorker)> {
        let length = ToAgent::Start(0, start.clone()).encode().body.len();
        if length > MAX_PAYLOAD_BYTES {
            return Err(io::Error::other(format!("a command or path of {length} bytes")));
        }
        let slot = Arc::new(Slot::default());
        let (send, receive) = self.link.open(|stream| {
            // Before the agent can say anything about it.
            self.workers.lock().insert(stream, Arc::clone(&slot));
            Some(ToAgent::Start(stream, start.clone()).encode())
        })?;
        let stream = send.id();
        let worker = RemoteWorker { host: Arc::clone(self), stream, slot };
        if let Some(loss) = &*self.loss.lock() {
            worker.slot.end(loss.clone(), String::new());
        }
        Ok((send, receive, worker))
    }

    fn slot(&self, stream: u64) -> Result<Arc<Slot>, String> {
        let slot = self.workers.lock().get(&stream).map(Arc::clone);
        slot.ok_or_else(|| "word of a process that it was not asked to start".to_owned())
    }

    /// What the reader does with a frame that is no stream's.
    pub(crate) fn take(&self, frame: LinkFrame<'_>) -> Result<(), String> {
        match FromAgent::decode(frame).map_err(|error| error.to_string())? {
            FromAgent::Started(stream, pid) => self.slot(stream)?.change(|known| known.pid = Some(pid)),
            FromAgent::Resident(stream, bytes) => {
                // It may have ended in between.
                if let Ok(slot) = self.slot(stream) {
                    slot.change(|known| {
                        known.resident = bytes;
                        known.is_asked = false;
                    });
                }
            }
            FromAgent::Exited(stream, Exited { cause, stderr_tail }) => {
                let slot = self.slot(stream)?;
                self.workers.lock().remove(&stream);
                slot.end(vet(cause), printable(&capped(stderr_tail)));
            }
            FromAgent::Need(request) => self.requests.need(request)?,
            FromAgent::Compiled(request, compiled) => self.requests.answer(request, *compiled)?,
        }
        Ok(())
    }

    /// The link has ended: see why, and tell everybody.
    pub(crate) fn clear_up(&self) {
        let end = self.link.ended().unwrap_or(LinkEnd::Ended);
        // One that hangs has nothing more to say.
        if matches!(end, LinkEnd::Silent { .. } | LinkEnd::Corrupt { .. }) {
            self.launcher.iter().for_each(|launcher| launcher.kill());
        }
        let reaped = self.launcher.as_ref().map(|launcher| launcher.reap(LAUNCHER_PATIENCE));
        let cause = reaped.unwrap_or(LossCause::Unknown { message: String::new() });
        let words = self.launcher.as_ref().map_or_else(String::new, |launcher| launcher.take_stderr_tail());
        let problem = match &end {
            LinkEnd::Silent { after } => LinkProblem::Silent { after: *after },
            LinkEnd::Corrupt { .. } => LinkProblem::Corrupt,
            LinkEnd::Ended if self.is_ssh && is_of_corruption(&cause, &words) => LinkProblem::Corrupt,
            _ => LinkProblem::Ended,
        };
        let mut message = format!("`{}`", self.name);
        if let LinkEnd::Corrupt { what } = &end {
            message.push_str(&format!(", {}", printable(&capped(what.clone()))));
        }
        match cause {
            LossCause::Exited { code } => message.push_str(&format!(", launcher exited with code {code}")),
            LossCause::Signaled { signal } => message.push_str(&format!(", launcher was ended by signal {signal}")),
            LossCause::Link { problem, message: inner } => {
                message.push_str(&format!(", a link before it {problem}: {inner}"))
            }
            _ => {}
        }
        message.push_str(&said(&words));
        if end != LinkEnd::Closed {
            tracing::warn!("link to {message}: {end}");
        }
        let loss = LossCause::Link { problem, message };
        *self.loss.lock() = Some(loss.clone());
        let workers = std::mem::take(&mut *self.workers.lock());
        workers.values().for_each(|slot| slot.end(loss.clone(), String::new()));
        self.requests.end();
        self.is_over.notify_all();
    }

    /// Why the link is gone, if it is; waits until that is known.
    pub(super) fn loss(&self) -> Option<LossCause> {
        self.link.ended()?;
        let mut loss = self.loss.lock();
        let deadline = Deadline::after(LAUNCHER_PATIENCE * 2);
        while loss.is_none() && deadline.wait(&self.is_over, &mut loss).is_ok() {}
        loss.clone()
    }
}

impl Slot {
    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock());
        self.changed.notify_all();
    }

    fn end(&self, cause: LossCause, words: String) {
        self.change(|known| {
            if known.ended.is_none() {
                known.ended = Some(cause);
                known.words = words;
            }
        });
    }
}

/// A process at the far end of a stream, as [`Process`](crate::process::Process) is one of this machine. When it is dropped
/// the process is killed.
#[derive(Debug)]
pub(crate) struct RemoteWorker {
    host: Arc<RemoteHost>,
    stream: u64,
    slot: Arc<Slot>,
}

impl RemoteWorker {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.slot.known.lock().pid
    }

    pub(super) fn parent(&self) -> u32 {
        self.host.hello.pid
    }

    pub(super) fn processors(&self) -> u32 {
        self.host.processors()
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.host.link.round_trip().unwrap_or_default()
    }

    pub(crate) fn kill(&self) {
        if self.slot.known.lock().ended.is_none() {
            self.host.link.push(ToAgent::Kill(self.stream).encode());
        }
    }

    pub(crate) fn ended(&self) -> Option<LossCause> {
        self.slot.known.lock().ended.clone()
    }

    pub(crate) fn take_stderr_tail(&self) -> String {
        std::mem::take(&mut self.slot.known.lock().words)
    }

    /// Waits until the agent has reported its end, or the link is gone.
    pub(super) fn reap(&self, patience: Duration) -> LossCause {
        if let Some(cause) = self.wait_ended(patience) {
            return cause;
        }
        self.kill();
        self.wait_ended(KILL_PATIENCE).unwrap_or_else(|| {
            let message = format!("`{}` has not confirmed its end", self.host.name());
            LossCause::Unknown { message }
        })
    }

    fn wait_ended(&self, patience: Duration) -> Option<LossCause> {
        let deadline = Deadline::after(patience);
        let mut known = self.slot.known.lock();
        while known.ended.is_none() {
            deadline.wait(&self.slot.changed, &mut known).ok()?;
        }
        known.ended.clone()
    }

    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let mut known = self.slot.known.lock();
        if known.ended.is_some() {
            return None;
        }
        if !known.is_asked {
            known.is_asked = true;
            self.host.link.push(ToAgent::Resident(self.stream).encode());
        }
        known.resident
    }
}

impl Drop for RemoteWorker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn capped(mut text: String) -> String {
    vetting::cap(&mut text, MAX_WORDS_BYTES);
    text
}

/// How an agent says that a process ended, with its texts capped. It knows nothing of the host's own reasons.
fn vet(cause: LossCause) -> LossCause {
    match cause {
        LossCause::Exited { .. } | LossCause::Signaled { .. } => cause,
        LossCause::PolicyViolation { call } => {
            let is_name =
                |call: &String| call.len() <= 64 && call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            LossCause::PolicyViolation { call: call.filter(is_name) }
        }
        LossCause::Unknown { message } => LossCause::Unknown { message: printable(&capped(message)) },
        other => LossCause::Unknown { message: printable(&capped(format!("{other:?}"))) },
    }
}
