//! The agent: what runs on another machine for a host, and starts the workers and compilers there.
//!
//! ```text
//!  stdin, stdout ══ link ══ reader ──► start, kill ──► charges (`charges`): a worker or a launcher each
//!                              ├─────► compile ──► the cache and the compilers of this machine (`compiling`)
//!                              └─────► streams: bytes between the link and the local transports, which are not looked at
//! ```
//!
//! An agent belongs to one host, and to one group of it. It does what that host says, as the user who started it, and nothing
//! that this user could not do. When the link ends, or is silent for as long as the host's `heartbeat=` says, it kills all
//! that it has started and ends. Where the host may not see why, it says so before.

use std::fs::File;
use std::io::{self, IoSlice, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio;
use sandgate_wire::launch::current_executable_is_worker;
use sandgate_wire::link::core::End;
use sandgate_wire::link::frame::{FrameEncoder, LinkFrame, LinkReader, PREAMBLE};
use sandgate_wire::link::message::{AgentHello, HostGreeting, Start, ToAgent, hello_body, kind, read_hello};
use sandgate_wire::link::pipes::pipes;
use sandgate_wire::link::{Link, LinkEnd};
use sandgate_wire::transport::{SendHalf, wait};

use crate::artefact::ArtefactStore;
use crate::cache;
use crate::deadline::Deadline;

mod bounds;
mod charges;
mod compiling;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod pruning;

pub use bounds::{Bounds, DEFAULT_PROCESSES};
use charges::Charges;
use compiling::Compiling;

/// The first argument of a process that is to be an agent.
pub const AGENT_ARGUMENT: &str = "__sandgate-agent";

static CURRENT_EXECUTABLE_IS_AGENT: AtomicBool = AtomicBool::new(false);

/// How long a host may take for its first words.
const GREETING_PATIENCE: Duration = Duration::from_secs(30);
/// How long a host may take to hang up once it was told why the link ends.
const PARTING_PATIENCE: Duration = Duration::from_secs(1);

/// Why a process could not be an agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nobody but a host talks to an agent.
    #[error(
        "an agent is started by a host that has `exec=` or `ssh=` in a spec, and talks to it over standard input and output"
    )]
    Terminal,
    /// The system refused something that it cannot do without.
    #[error("cannot {what}")]
    System {
        /// What it needed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// What came was no host's hello.
    #[error("no host at the other end: {0}")]
    NoHost(&'static str),
    /// The link did not end as links do.
    #[error("{0}")]
    Link(String),
    /// The host is of another version.
    #[error("host has version `{theirs}`, this agent {}", env!("CARGO_PKG_VERSION"))]
    Version {
        /// The host's version.
        theirs: String,
    },
}

/// Becomes an agent if this process was started to be one, and does not return then. For programs that are their own worker:
/// call it in `main`, after `sandgate_worker::run_if_worker()`.
pub fn run_if_agent() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == AGENT_ARGUMENT) {
        let code = match run(Bounds::default()) {
            Ok(()) => 0,
            Err(error) => {
                complain(&error);
                1
            }
        };
        std::process::exit(code);
    }
    CURRENT_EXECUTABLE_IS_AGENT.store(true, Ordering::Release);
}

/// Whether [`run_if_agent`] was called in this process, and this executable a worker's too.
pub(crate) fn current_executable_is_agent() -> bool {
    CURRENT_EXECUTABLE_IS_AGENT.load(Ordering::Acquire) && current_executable_is_worker()
}

#[expect(clippy::print_stderr, reason = "standard error is how an agent reaches its host before there is a link")]
fn complain(error: &AgentError) {
    match std::error::Error::source(error) {
        Some(source) => eprintln!("sandgate agent: {error}: {source}"),
        None => eprintln!("sandgate agent: {error}"),
    }
}

/// Serves a host over standard input and output until the link ends; then nothing is left that was started. Meant for a
/// process of its own, which ends next.
///
/// # Errors
/// [`AgentError`]: there was no link, or it was lost.
pub fn run(bounds: Bounds) -> Result<(), AgentError> {
    if io::stdin().is_terminal() || io::stdout().is_terminal() {
        return Err(AgentError::Terminal);
    }
    let (from, to) = take_standard_streams().map_err(system("take over its standard streams"))?;
    let ready = from.try_clone().map_err(system("set up its link"))?;
    let (send, receive) = pipes(from, to).map_err(system("set up its link"))?;
    let mut encoder = FrameEncoder::default();
    let mut first = PREAMBLE.to_vec();
    let hello = hello_body(&AgentHello::of_this_process(env!("CARGO_PKG_VERSION")));
    encoder.append(LinkFrame { kind: kind::HELLO, stream: 0, payload: &hello }, &mut first);
    write_all(&send, &first).map_err(system("say hello"))?;
    let mut reader = LinkReader::new(Box::new(receive), &[]);
    let greeting = greeted(&mut reader, &ready)?;
    let served = serve(Box::new(send), encoder, &mut reader, greeting, bounds);
    if let Err(AgentError::Link(_)) = served {
        part(&mut reader, &ready);
    }
    served
}

/// Takes what the host still sends, until it hangs up: a connection that is closed with something unread is reset, and the last
/// word with it.
fn part(reader: &mut LinkReader, ready: &OwnedFd) {
    let deadline = Deadline::after(PARTING_PATIENCE);
    while !deadline.is_over()
        && wait(ready.as_fd(), PollFlags::IN, deadline.left()).is_ok_and(|is_ready| is_ready)
        && reader.discard().is_ok_and(|is_more| is_more)
    {}
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::System { what, source }
}

/// What is printed by accident must not get between the frames.
fn take_standard_streams() -> io::Result<(OwnedFd, OwnedFd)> {
    let from = fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
    let to = fcntl_dupfd_cloexec(stdio::stdout(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    Ok((from, to))
}

fn write_all(send: &dyn SendHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send.try_write(&[IoSlice::new(bytes)], None) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => send.wait_writable()?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The host's hello.
fn greeted(reader: &mut LinkReader, ready: &OwnedFd) -> Result<HostGreeting, AgentError> {
    let deadline = Deadline::after(GREETING_PATIENCE);
    loop {
        if let Some(frame) = reader.next_frame().map_err(|_| AgentError::NoHost("not a frame"))? {
            let greeting: HostGreeting = read_hello(frame).map_err(|_| AgentError::NoHost("not a hello"))?;
            if greeting.package_version != env!("CARGO_PKG_VERSION") {
                return Err(AgentError::Version { theirs: greeting.package_version });
            }
            return Ok(greeting);
        }
        if !wait(ready.as_fd(), PollFlags::IN, deadline.left()).map_err(system("wait for its host"))? {
            return Err(AgentError::NoHost("it is silent"));
        }
        if !reader.fill(false).map_err(|_| AgentError::NoHost("not a frame"))? {
            return Err(AgentError::NoHost("it has hung up before it said hello"));
        }
    }
}

fn serve(
    send: Box<dyn SendHalf>,
    encoder: FrameEncoder,
    reader: &mut LinkReader,
    greeting: HostGreeting,
    bounds: Bounds,
) -> Result<(), AgentError> {
    let link = Link::with_streams(End::Agent, send, greeting.heartbeat, bounds.streams());
    let tenant = greeting.tenant.map(Arc::from);
    let directory = cache::default_directory().filter(|_| greeting.keeps_modules);
    let store = ArtefactStore::shared(directory, tenant.clone());
    let work = Work::new(&link, store, tenant, bounds, Ability::default());
    let (writing, looking) = (Arc::clone(&link), Arc::clone(&link));
    let writer = thread("link-writer", move || writing.run_writer(encoder)).map_err(system("start a thread"))?;
    spawn("link-clock", move || looking.run_clock()).map_err(system("start a thread"))?;
    // Nothing waits for it, and it ends soon.
    let _ = spawn("prune", || {
        if let Ok(own) = std::env::current_exe() {
            pruning::prune_beside(&own, std::time::SystemTime::now());
        }
    });
    link.run_reader(reader, |frame| work.take(frame));
    work.end();
    // It waits for nobody once the link has ended.
    if writer.join().is_err() {
        tracing::error!("the writer of the link panicked");
    }
    match link.ended() {
        Some(end @ (LinkEnd::Corrupt { .. } | LinkEnd::Silent { .. })) => Err(AgentError::Link(end.to_string())),
        _ => Ok(()),
    }
}

/// What an agent does for its host.
#[derive(Debug)]
struct Work {
    charges: Arc<Charges>,
    compiling: Arc<Compiling>,
}

impl Work {
    fn new(
        link: &Arc<Link>,
        store: Arc<ArtefactStore>,
        tenant: Option<Arc<str>>,
        bounds: Bounds,
        ability: Ability,
    ) -> Work {
        let compiling = Compiling::new(Arc::clone(link), store, tenant, bounds.clone(), ability.compile);
        let charges = Charges::new(Arc::clone(link), Arc::clone(&compiling), bounds, ability.start);
        Work { charges, compiling }
    }

    /// The link is gone. Waits until processes are; compilers end with this process, whose children they are.
    fn end(&self) {
        self.compiling.end();
        self.charges.end_all();
    }

    /// Does what a frame says that is no stream's. Does not wait; an error ends the link.
    fn take(&self, frame: LinkFrame<'_>) -> Result<(), String> {
        let taken = match ToAgent::decode(frame).map_err(|error| error.to_string())? {
            ToAgent::Start(stream, start) => self.charges.start(stream, start),
            ToAgent::Kill(stream) => {
                self.charges.kill(stream);
                Ok(())
            }
            ToAgent::Resident(stream) => {
                self.charges.tell_resident(stream);
                Ok(())
            }
            ToAgent::Compile(request, compile) => self.compiling.compile(request, *compile),
            ToAgent::Upload(stream, module, bytes) => self.compiling.upload(stream, module, bytes),
            ToAgent::Forget(artefact) => {
                self.compiling.forget(artefact);
                Ok(())
            }
        };
        taken.map_err(|error| error.to_string())
    }
}

/// How an agent starts processes: in tests of what a host may say, in no way at all.
#[derive(Debug, Clone, Copy)]
struct Ability {
    start: charges::Starter,
    compile: compiling::Compiler,
}

impl Default for Ability {
    fn default() -> Ability {
        Ability { start: charges::begin, compile: crate::compile::compile }
    }
}

/// Starts a thread that nobody waits for.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread(name, run).map(drop)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}
