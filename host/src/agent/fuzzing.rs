//! The body of the fuzz target `link_host`, and its seeds: what an agent reads from a host.
//!
//! What it promises: whatever a host says, the agent neither panics nor waits on the thread that reads; it has no more processes,
//! streams and modules than its bounds say; what it writes are messages; and when the link is over, nothing of it is left. No
//! process is started, that much of the agent is replaced: a worker is a pipe that gives back what it is sent, so what comes on
//! its stream is the beginning of what went there.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use sandgate_wire::isolation::{Demand, Policy};
use sandgate_wire::link::Link;
use sandgate_wire::link::core::End;
use sandgate_wire::link::frame::{FrameEncoder, LinkReader};
use sandgate_wire::link::message::{FromAgent, LastWord, RemoteCompile, Start, ToAgent, kind};
use sandgate_wire::link::pipes::pipes;
use sandgate_wire::message::Codegen;
use sandgate_wire::module_limits::ModuleLimits;
use sandgate_wire::outcome::LossCause;
use sandgate_wire::profile::Profile;
use sandgate_wire::{ModuleId, link::message::LinkEncoded};

use super::bounds::Bounds;
use super::charges::{Charged, Started};
use super::{Ability, Work};
use crate::artefact::{ArtefactStore, Wanted};
use crate::error::{CompileError, LaunchError};
use crate::fuzzing::link_script::{Frames, Play, Plays, Writes, Written, bytes, number, text};
use crate::module::Module;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(10);
const ENGINE: &str = "fuzz";
/// Few, so that the bounds are met.
const PROCESSES: usize = 3;

/// A script of a host.
#[derive(Debug)]
struct Script {
    input: Vec<u8>,
    at: usize,
    frames: Frames,
    modules: [Module; 2],
    sent: Sent,
}

/// The data that went to each stream.
type Sent = Arc<Mutex<HashMap<u64, Vec<u8>>>>;

/// A worker without a process: what it is sent it says.
#[derive(Debug)]
struct Echo {
    /// Readable once it was killed.
    ended: Arc<OwnedFd>,
}

impl Charged for Echo {
    fn pid(&self) -> u32 {
        7
    }

    fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.ended))
    }

    fn kill(&self) {
        rustix::io::write(&self.ended, &1_u64.to_ne_bytes()).expect("its counter does not overflow");
    }

    fn reap(&self, _patience: Duration) -> LossCause {
        LossCause::Exited { code: 0 }
    }

    fn take_stderr_tail(&self) -> String {
        String::new()
    }

    fn resident_bytes(&self) -> Option<u64> {
        Some(1)
    }
}

fn echo() -> std::result::Result<Started, LaunchError> {
    let system = |error: rustix::io::Errno| LaunchError::Resources(error.into());
    let (from, to) = pipe_with(PipeFlags::CLOEXEC).map_err(system)?;
    let ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
    let ready = from.try_clone().map_err(LaunchError::Resources)?;
    let (send, receive) = pipes(from, to).map_err(LaunchError::Resources)?;
    let process = Arc::new(Echo { ended: Arc::new(ended) });
    Ok(Started { process, send: Box::new(send), receive: Box::new(receive), ready })
}

/// Plays a script of a host.
///
/// # Panics
/// When something does not hold.
pub fn link_host(input: &[u8]) {
    let written = Arc::new(Written::default());
    let is_confined = input.len() % 2 == 1;
    let bounds = Bounds { processes: PROCESSES, is_confined };
    let send = Box::new(Writes(Arc::clone(&written)));
    let link = Link::with_streams(End::Agent, send, Duration::from_secs(10), bounds.streams());
    let module = |bytes: &[u8]| Module::from_bytes(bytes.to_vec()).expect("bytes without a meaning are a module");
    let modules = [module(b"known"), module(b"uploaded")];
    let store = ArtefactStore::holding(&modules[0], ENGINE);
    let ability = Ability {
        start: |start, _| match start {
            Start::Worker { program: None, directory: None } => echo(),
            start => Err(not_started(start)),
        },
        compile: |wanted: &Wanted<'_>| Err(wanted.failed(CompileError::Memory(io::Error::other("nothing compiles")))),
    };
    let work = Work::new(&link, store, None, bounds.clone(), ability);
    let writing = Arc::clone(&link);
    let writer = std::thread::Builder::new().name("link-writer".to_owned());
    let writer = writer.spawn(move || writing.run_writer(FrameEncoder::default())).expect("threads can be started");
    let sent = Sent::default();
    let script = Script { input: input.to_vec(), at: 0, frames: Frames::default(), modules, sent: Arc::clone(&sent) };
    let plays = Plays { script, left: Vec::new() };
    link.run_reader(&mut LinkReader::new(Box::new(plays), &[]), |frame| {
        let taken = work.take(frame);
        assert!(link.streams() <= bounds.streams(), "more streams than there may be");
        taken
    });
    work.end();
    writer.join().expect("the writer does not panic");
    let start = Instant::now();
    while !(work.charges.is_quiet() && work.compiling.is_quiet()) {
        assert!(start.elapsed() < PATIENCE, "somebody works for a link that is over");
        std::thread::yield_now();
    }
    assert_eq!(link.streams(), 0, "a link that is over has streams");
    let mut came: HashMap<u64, usize> = HashMap::new();
    let sent = sent.lock();
    written.check_with(|frame| match frame.kind {
        kind::DATA => {
            let (sent, at) = (sent.get(&frame.stream), came.entry(frame.stream).or_default());
            let expected = sent.and_then(|sent| sent.get(*at..*at + frame.payload.len()));
            assert_eq!(expected, Some(frame.payload), "what comes on a stream is what went there");
            *at += frame.payload.len();
            true
        }
        _ => FromAgent::decode(frame).is_ok() || LastWord::decode(frame).is_ok(),
    });
}

impl Play for Script {
    fn play(&mut self) -> Option<Vec<u8>> {
        let input = std::mem::take(&mut self.input);
        let mut rest = Unstructured::new(&input[self.at.min(input.len())..]);
        let before = rest.len();
        let said = if rest.is_empty() { None } else { self.step(&mut rest).ok() };
        self.at += before - rest.len();
        self.input = input;
        // Nothing would be the end.
        said.map(|bytes| if bytes.is_empty() { self.frames.message(&ToAgent::Kill(0).encode()) } else { bytes })
    }
}

impl Script {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let step = input.arbitrary::<u8>()? % 14;
        let message = match step {
            0..=5 => {
                let bytes = self.frames.common(step, input)?;
                self.keep(&bytes);
                return Ok(bytes);
            }
            6 => ToAgent::Start(number(input)?, start(input)?).encode(),
            7 => ToAgent::Kill(number(input)?).encode(),
            8 => ToAgent::Resident(number(input)?).encode(),
            9 => {
                let request = number(input)?;
                ToAgent::Compile(request, Box::new(self.compile(input)?)).encode()
            }
            10 => {
                let (stream, module) = (number(input)?, self.module(input)?);
                ToAgent::Upload(stream, module, input.arbitrary()?).encode()
            }
            11 => ToAgent::Forget(number(input)?).encode(),
            12 => LinkEncoded {
                kind: kind::ATTACH,
                stream: number(input)?,
                body: input.arbitrary::<u64>()?.to_le_bytes().to_vec(),
            },
            // A module as it should come.
            _ => {
                let stream = number(input)?;
                let module = &self.modules[1];
                let length = module.bytes().len() as u64;
                let announced = ToAgent::Upload(stream, module.id(), length).encode();
                let data = LinkEncoded { kind: kind::DATA, stream, body: module.bytes().to_vec() };
                let (first, second) = (self.frames.message(&announced), self.frames.message(&data));
                self.keep(&second);
                return Ok([first, second].concat());
            }
        };
        Ok(self.frames.message(&message))
    }

    /// Keeps the data of a frame, if it is one. Whether it is taken is for the link to say.
    fn keep(&self, bytes: &[u8]) {
        if let Some((stream, payload)) = Frames::data_of(bytes) {
            self.sent.lock().entry(stream).or_default().extend_from_slice(payload);
        }
    }

    fn module(&self, input: &mut Unstructured<'_>) -> Result<ModuleId> {
        Ok(match input.arbitrary::<u8>()? % 3 {
            known @ 0..=1 => self.modules[usize::from(known)].id(),
            _ => ModuleId([7; 32]),
        })
    }

    fn compile(&self, input: &mut Unstructured<'_>) -> Result<RemoteCompile> {
        let odd = input.arbitrary::<u8>()?;
        Ok(RemoteCompile {
            module: self.module(input)?,
            bytes: input.arbitrary()?,
            name: text(input)?,
            engine: ENGINE.to_owned(),
            codegen: if odd & 1 == 0 { Codegen::Interruptible } else { Codegen::Unchecked },
            limits: ModuleLimits::default(),
            profile: Profile::MINIMAL,
            policy: Policy::all(if odd & 2 == 0 { Demand::Prefer } else { Demand::Off }),
            program: if odd & 4 == 0 { None } else { Some(bytes(input)?) },
            patience: if odd & 8 == 0 { None } else { Some(Duration::from_millis(input.arbitrary::<u8>()?.into())) },
        })
    }
}

/// What the system says of a program that is not there.
fn not_started(start: Start) -> LaunchError {
    let source = io::ErrorKind::NotFound.into();
    let path = |bytes: Vec<u8>| std::path::PathBuf::from(String::from_utf8_lossy(&bytes).into_owned());
    match start {
        Start::Worker { program, directory } => LaunchError::Spawn {
            program: program.map_or_else(Default::default, path),
            directory: directory.map(path),
            source,
        },
        Start::Launcher { command } => LaunchError::Spawn { program: command.concat().into(), directory: None, source },
    }
}

fn start(input: &mut Unstructured<'_>) -> Result<Start> {
    let odd = input.arbitrary::<u8>()?;
    Ok(match odd & 1 {
        0 => Start::Worker {
            program: if odd & 2 == 0 { None } else { Some(bytes(input)?) },
            directory: if odd & 4 == 0 { None } else { Some(bytes(input)?) },
        },
        _ => Start::Launcher { command: vec![text(input)?; usize::from(odd >> 4)] },
    })
}

/// Inputs to begin with, with their names.
pub fn link_host_seeds() -> Vec<(String, Vec<u8>)> {
    let seed = |name: &str, steps: &[&[u8]]| (name.to_owned(), steps.concat());
    let worker = |stream: u8| vec![6, stream, 0];
    // Which request, oddities, which module, its size, an empty name.
    let compile = |request: u8, odd: u8, module: u8| vec![9, request, odd, module, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let upload = |stream: u8, module: u8, bytes: u8| vec![10, stream, module, bytes, 0, 0, 0, 0, 0, 0, 0];
    vec![
        seed("nothing", &[]),
        seed("noise", &[&[0, 3, 1, 2, 3]]),
        seed("worker", &[&worker(1), &[8, 1], &[1, 1, 0, 0, 2, 1, 2], &[7, 1], &[3, 1]]),
        seed(
            "echoes",
            &[&worker(1), &[1, 1, 127, 0, 3, 7, 8, 9], &worker(2), &[1, 2, 1, 0, 2, 1, 2], &[3, 1], &[3, 2]],
        ),
        seed("killed-in-between", &[&worker(1), &[1, 1, 127, 0, 3, 7, 8, 9], &[7, 1], &[1, 1, 127, 0, 3, 7, 8, 9]]),
        seed("many-workers", &[&worker(1), &worker(2), &worker(3), &worker(4), &worker(5), &worker(6)]),
        seed("a-number-twice", &[&worker(2), &worker(1)]),
        seed("launcher", &[&[6, 1, 0x31, 0, 2, b's', b'h']]),
        seed("named-binary", &[&[6, 1, 2, 1, b'/']]),
        seed("named-binary-confined", &[&[6, 1, 2, 1, b'/'], &[7, 0, 0]]),
        seed(
            "known-module",
            &[&compile(1, 0, 0), &worker(1), &[12, 1, 1, 0, 0, 0, 0, 0, 0, 0], &[1, 1, 0, 0, 1, 1], &[11, 1]],
        ),
        seed("module-comes", &[&compile(1, 0, 1), &[13, 1], &compile(2, 1, 1)]),
        seed("module-never-comes", &[&compile(1, 0, 1)]),
        seed("another-module-comes", &[&compile(1, 0, 1), &upload(1, 1, 3), &[1, 1, 0, 0, 3, 1, 2, 3], &[3, 1]]),
        seed("unasked-module", &[&upload(1, 2, 200), &[1, 1, 0, 0, 3, 1, 2, 3], &[3, 1]]),
        seed("huge-module", &[&[10, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]]),
        seed("no-time", &[&[9, 1, 8, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]),
        seed("many-compilations", &[&compile(1, 0, 2).repeat(300)]),
        seed("no-such-artefact", &[&worker(1), &[12, 1, 9, 0, 0, 0, 0, 0, 0, 0], &[1, 1, 0, 0, 1, 1]]),
        seed("two-artefacts", &[&worker(1), &[12, 1, 9, 0, 0, 0, 0, 0, 0, 0], &[12, 1, 9, 0, 0, 0, 0, 0, 0, 0]]),
        seed("more-than-credit", &[&worker(1), &[&[1, 1, 127, 0, 200][..], &[7; 200]].concat().repeat(100)]),
        seed("beats", &[&[4, 1], &[1; 8], &[4, 0], &[255; 8]]),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_body_of_link_host_holds_for_its_seeds() {
        for (_, input) in super::link_host_seeds() {
            super::link_host(&input);
        }
    }
}
