//! Has a module compiled, by a process that does nothing else and is gone afterwards.

use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;
use sandgate_wire::frame::{Frame, FrameError, FrameReader};
use sandgate_wire::launch::COMPILER_ARGUMENT;
use sandgate_wire::message::{Compile, Compiled};
use sandgate_wire::module_limits::{ModuleLimitName, Shape};
use sandgate_wire::outcome::{LossCause, Rejection, WorkerLoss};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait, wait_any};
use sandgate_wire::{Outbox, ToHost, ToWorker};

use crate::artefact::{Artefact, Wanted, memory, module_memory};
use crate::deadline::Deadline;
use crate::error::{CompileError, ExecError, LaunchError};
use crate::process::{Launch, Process, launch};
use crate::vetting;
use crate::worker_binary;

/// How long a compiler that has answered may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// What a compiler that has hit a bug exits with; see `exit_code` of the worker.
const EXIT_BUG: i32 = 5;
/// What a compiler that was refused memory exits with.
const EXIT_OUT_OF_MEMORY: i32 = 6;
/// What the kernel ends a process with that has used up its processor time, and what a process ends itself with, one that
/// gets no more memory among them.
const SIGXCPU: i32 = 24;
const SIGABRT: i32 = 6;
/// What a process is ended with that has made a system call it may not make.
const SIGSYS: i32 = 31;
/// What the kernel ends processes with when the machine's memory runs out.
const SIGKILL: i32 = 9;

/// Compiles a module for an engine. Blocks until that is done, and before it while as many compilations as the machine has
/// processors are under way.
pub(crate) fn compile(wanted: &Wanted<'_>) -> Result<(Artefact, Shape), ExecError> {
    let &Wanted { engine, module, .. } = wanted;
    let failed = |source| wanted.failed(source);
    let rejected = |reason| ExecError::Rejected { module: module.name().to_owned(), reason };
    let _turn = Turn::wait(wanted.deadline).ok_or_else(|| wanted.timed_out())?;
    let limit = Deadline::after(wanted.limits.compile_time);
    match ask(wanted, limit.sooner(wanted.deadline)) {
        Ok(Answer::Compiled(Compiled::Done { engine: theirs, shape, description, .. }, artefact))
            if theirs == engine =>
        {
            // The compiler has compared them; one that was taken over may have not, for its own module.
            check(&shape, wanted).map_err(rejected)?;
            Ok((artefact.with_description(description, shape.clone()), shape))
        }
        Ok(Answer::Compiled(Compiled::Done { engine: theirs, .. }, _)) => Err(failed(CompileError::Lost(WorkerLoss {
            gateway: "compiler".to_owned(),
            pid: None,
            cause: LossCause::ProtocolViolation { message: format!("it compiled for `{theirs}`, not for `{engine}`") },
            stderr_tail: String::new(),
        }))),
        Ok(Answer::Compiled(Compiled::Rejected(reason), _)) => Err(rejected(reason)),
        Ok(Answer::TooLate) if wanted.deadline.left().is_some_and(|left| left.is_zero()) => Err(wanted.timed_out()),
        Ok(Answer::TooLate) => Err(rejected(over(ModuleLimitName::CompileTime, wanted))),
        Err(CompileError::Lost(loss)) => match blame(&loss, wanted) {
            Some(reason) => {
                tracing::warn!("module `{}` ended its compiler: {loss}", module.name());
                Err(rejected(reason))
            }
            None => Err(failed(CompileError::Lost(loss))),
        },
        Err(error) => Err(failed(error)),
    }
}

/// Holds what a module turned out to be against what its caller takes.
pub(crate) fn check(shape: &Shape, wanted: &Wanted<'_>) -> Result<(), Rejection> {
    if let Some((limit, found, value)) = wanted.limits.exceeded_by(shape) {
        return Err(Rejection::ModuleLimit { limit, found, value, item: String::new() });
    }
    match wanted.profile.lacks(shape.features) {
        None => Ok(()),
        Some(feature) => {
            let (feature, profile) = (feature.name().to_owned(), wanted.profile);
            Err(Rejection::Feature { feature, profile, offered: true })
        }
    }
}

/// What the module has done to end its compiler, if that is why it ended.
fn blame(loss: &WorkerLoss, wanted: &Wanted<'_>) -> Option<Rejection> {
    match loss.cause {
        LossCause::Signaled { signal: SIGXCPU } => Some(over(ModuleLimitName::CompileTime, wanted)),
        LossCause::Signaled { signal: SIGABRT } if was_refused_memory(&loss.stderr_tail) => {
            Some(over(ModuleLimitName::CompileMemory, wanted))
        }
        // Whatever made it abort, it is not known to be the module.
        LossCause::Signaled { signal: SIGABRT | SIGSYS | SIGKILL } => None,
        LossCause::Signaled { signal } => {
            Some(Rejection::Compilation { message: format!("the compiler crashed on it, with signal {signal}") })
        }
        LossCause::Exited { code: EXIT_OUT_OF_MEMORY } => Some(over(ModuleLimitName::CompileMemory, wanted)),
        LossCause::Exited { code: EXIT_BUG } => {
            Some(Rejection::Compilation { message: "it hits a bug in the compiler".to_owned() })
        }
        _ => None,
    }
}

/// Whether a process that aborted said that it did so for want of memory. There is no other sign of it: Rust's runtime says
/// this much and aborts. A compiler that was taken over can say it too, of its own module.
fn was_refused_memory(last_words: &str) -> bool {
    last_words.lines().any(|line| {
        let bytes = line.strip_prefix("memory allocation of ").and_then(|line| line.strip_suffix(" bytes failed"));
        bytes.is_some_and(|bytes| bytes.parse::<u64>().is_ok())
    })
}

fn over(limit: ModuleLimitName, wanted: &Wanted<'_>) -> Rejection {
    let value = match limit {
        ModuleLimitName::CompileTime => u64::try_from(wanted.limits.compile_time.as_millis()).unwrap_or(u64::MAX),
        _ => wanted.limits.compile_memory_bytes,
    };
    Rejection::ModuleLimit { limit, found: 0, value, item: String::new() }
}

/// The right to run a compiler.
struct Turn;

/// Compilers under way in this process.
static UNDER_WAY: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    /// Waits while as many compilers run as there are processors: more would only take longer, each.
    fn wait(deadline: Deadline) -> Option<Turn> {
        let most = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (count, freed) = &UNDER_WAY;
        let mut under_way = count.lock();
        while *under_way >= most {
            deadline.wait(freed, &mut under_way).ok()?;
        }
        *under_way += 1;
        Some(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (count, freed) = &UNDER_WAY;
        *count.lock() -= 1;
        freed.notify_one();
    }
}

/// What came of a compiler.
enum Answer {
    Compiled(Compiled, Box<Artefact>),
    /// It was not done by the deadline and is killed.
    TooLate,
}

fn ask(wanted: &Wanted<'_>, deadline: Deadline) -> Result<Answer, CompileError> {
    let &Wanted { module, worker, .. } = wanted;
    let resources = |error: std::io::Error| CompileError::Launch(LaunchError::Resources(error));
    let input = module_memory(module)?;
    let output = memory("sandgate-artefact").map_err(CompileError::Memory)?;
    let program = worker_binary::find(worker).map_err(CompileError::Launch)?;
    let (ours, theirs) = socket_pair().map_err(resources)?;
    let listening = ours.try_clone().map_err(resources)?;
    let launched = launch(Launch { program, argument: COMPILER_ARGUMENT, directory: None }, theirs);
    let process = launched.map_err(CompileError::Launch)?;
    let (send, receive) = unix_socket(ours, Descriptors::Refuse);
    let outbox = Outbox::new(Box::new(send));
    let request = ToWorker::Compile(Compile {
        module: module.id(),
        bytes: module.bytes().len() as u64,
        codegen: wanted.codegen,
        limits: wanted.limits.clone(),
        profile: wanted.profile,
        policy: wanted.policy.clone(),
    });
    let theirs = output.try_clone().map_err(CompileError::Memory)?;
    // A compiler that is gone already does not answer, which says more.
    let _ = outbox.push_with_descriptors(request.encode(), vec![input, theirs]);
    let mut frames = FrameReader::new(Box::new(receive));
    let ended = process.pidfd().ok_or_else(|| resources(std::io::Error::other("the compiler was reaped before")))?;
    let listening = [listening.as_fd(), ended.as_fd()];
    let answer = answer(&mut frames, listening, deadline, module.bytes().len() as u64);
    let Some(answer) = answer.map_err(resources)? else {
        process.kill();
        return Ok(Answer::TooLate);
    };
    // Only when it is gone can nobody write the artefact any more.
    let ended = process.reap(END_PATIENCE).clone();
    let compiled = answer.map_err(|violation| lost(&process, violation, ended))?;
    let artefact = Artefact::seal(output).map_err(CompileError::Memory)?;
    if let Compiled::Done { bytes, .. } = compiled
        && bytes != artefact.bytes()
    {
        let message = format!("it announced {bytes} bytes and wrote {}", artefact.bytes());
        return Err(lost(&process, Some(message), LossCause::Exited { code: 0 }));
    }
    Ok(Answer::Compiled(compiled, Box::new(artefact)))
}

/// The compiler's answer, or what is wrong with it; `None` if it is not there by the deadline. A compiler that has read a
/// hostile module may also stop in the middle of it, or end and leave the connection to somebody else: `listening` is the
/// connection, and what becomes readable when the process has ended.
fn answer(
    frames: &mut FrameReader,
    listening: [BorrowedFd<'_>; 2],
    deadline: Deadline,
    module_bytes: u64,
) -> std::io::Result<Option<Result<Compiled, Option<String>>>> {
    while !frames.has_frame() {
        match wait_any(listening, PollFlags::IN, deadline.left())? {
            [false, false] => return Ok(None),
            [true, _] if frames.fill_now() => {}
            // It has ended, perhaps after it was seen to say nothing: what it has said is here by now.
            [false, true] if wait(listening[0], PollFlags::IN, Some(Duration::ZERO))? => {}
            _ => return Ok(Some(Err(None))),
        }
    }
    Ok(Some(match frames.read_frame() {
        Ok(Some(frame)) => understand(frame, module_bytes),
        Ok(None) | Err(FrameError::Truncated { .. } | FrameError::Io(_)) => Err(None),
        Err(error) => Err(Some(error.to_string())),
    }))
}

fn understand(frame: Frame<'_>, module_bytes: u64) -> Result<Compiled, Option<String>> {
    match ToHost::decode(frame) {
        Ok(ToHost::Compiled(compiled)) => vetting::compiled(compiled, module_bytes).map_err(Some),
        Ok(_) => Err(Some("it did not answer what it was asked".to_owned())),
        Err(error) => Err(Some(error.to_string())),
    }
}

fn lost(process: &Process, violation: Option<String>, ended: LossCause) -> CompileError {
    let cause = violation.map_or(ended, |message| LossCause::ProtocolViolation { message });
    let stderr_tail = process.take_stderr_tail();
    CompileError::Lost(WorkerLoss { gateway: "compiler".to_owned(), pid: Some(process.pid()), cause, stderr_tail })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What the host makes of these bytes, after which the compiler stays and says nothing, or hangs up.
    fn check(bytes: &[u8], hangs_up: bool) -> Option<Result<Compiled, Option<String>>> {
        let (ours, theirs) = socket_pair().unwrap();
        let listening = ours.try_clone().unwrap();
        // Nothing is written to it, and nobody closes its other end: a process that goes on.
        let (process, _goes_on) = socket_pair().unwrap();
        let mut frames = FrameReader::new(Box::new(unix_socket(ours, Descriptors::Refuse).1));
        let mut compiler = UnixStream::from(theirs);
        compiler.write_all(bytes).unwrap();
        let compiler = (!hangs_up).then_some(compiler);
        let listening = [listening.as_fd(), process.as_fd()];
        let answer = answer(&mut frames, listening, Deadline::after(Duration::from_millis(20)), 8).unwrap();
        drop(compiler);
        answer
    }

    fn bytes_of(compiled: &Compiled) -> Vec<u8> {
        let encoded = ToHost::Compiled(compiled.clone()).encode();
        let length = u32::try_from(encoded.body.len()).unwrap();
        let header = sandgate_wire::frame::Header { length, kind: encoded.kind, flags: 0, channel: encoded.channel };
        [&header.encode()[..], &encoded.body].concat()
    }

    fn done(engine: &str, shape: Shape, description: Vec<u8>) -> Compiled {
        Compiled::Done { engine: engine.to_owned(), bytes: 3, shape, description }
    }

    fn shape() -> Shape {
        Shape { module_bytes: 8, ..Shape::default() }
    }

    #[test]
    fn a_compiler_that_stops_anywhere_in_its_answer_is_given_up() {
        let compiled = done("e", shape(), vec![1]);
        let whole = bytes_of(&compiled);
        for end in 0..whole.len() {
            assert_eq!(check(&whole[..end], false), None, "{end} bytes, then silence");
            assert_eq!(check(&whole[..end], true), Some(Err(None)), "{end} bytes, then the end");
        }
        assert_eq!(check(&whole, false), Some(Ok(compiled)));
        assert!(matches!(check(&[0xff; 64], false), Some(Err(Some(_)))));
    }

    #[test]
    fn a_compiler_that_ends_is_not_waited_for_although_somebody_has_its_connection() {
        let whole = bytes_of(&done("e", shape(), vec![]));
        for end in [0, 1, whole.len() - 1, whole.len()] {
            let (ours, theirs) = socket_pair().unwrap();
            let (process, its_end) = socket_pair().unwrap();
            let listening = ours.try_clone().unwrap();
            let mut frames = FrameReader::new(Box::new(unix_socket(ours, Descriptors::Refuse).1));
            let mut left_behind = UnixStream::from(theirs);
            left_behind.write_all(&whole[..end]).unwrap();
            drop(its_end);
            let listening = [listening.as_fd(), process.as_fd()];
            let answer = answer(&mut frames, listening, Deadline::after(Duration::from_secs(600)), 8).unwrap();
            let is_whole = end == whole.len();
            assert_eq!(answer.map(|it| it.is_ok()), Some(is_whole), "{end} bytes");
        }
    }

    #[test]
    fn what_a_compiler_says_is_capped_and_checked() {
        let refused = |compiled: Compiled, words: &str| match check(&bytes_of(&compiled), false) {
            Some(Err(Some(message))) => assert!(message.contains(words), "{message}"),
            other => panic!("{words}: {other:?}"),
        };
        refused(done("e", shape(), vec![0; 200_000]), "described the module with 200000 bytes");
        // All bits of a profile, of which a few are features.
        let everything: sandgate_wire::Profile =
            postcard::from_bytes(&postcard::to_stdvec(&u32::MAX).unwrap()).unwrap();
        refused(done("e", Shape { features: everything, ..shape() }, vec![]), "features that do not exist");

        let smaller = done(&"e".repeat(200_000), Shape { module_bytes: 7, ..shape() }, vec![]);
        let kept = done(&"e".repeat(256), shape(), vec![]);
        assert_eq!(check(&bytes_of(&smaller), false), Some(Ok(kept)));

        let long = Rejection::Compilation { message: "\u{1b}[2J".repeat(50_000) };
        match check(&bytes_of(&Compiled::Rejected(long)), false) {
            Some(Ok(Compiled::Rejected(reason))) => {
                let shown = reason.to_string();
                assert!(shown.len() < 128 << 10 && !shown.contains('\u{1b}'), "{} bytes", shown.len());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_who_says_so_was_refused_memory() {
        assert!(was_refused_memory("memory allocation of 4294967296 bytes failed"));
        assert!(was_refused_memory("noise\nmemory allocation of 1 bytes failed\nnote: run with\n"));
        for words in
            ["", "memory allocation of", "memory allocation of x bytes failed", "aborted\nfree(): invalid size"]
        {
            assert!(!was_refused_memory(words), "{words}");
        }
    }
}
