//! Has a module compiled, by a process that does nothing else and is gone afterwards.

use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;
use sandgate_wire::description::MAX_DESCRIPTION_BYTES;
use sandgate_wire::frame::{Frame, FrameError, FrameReader};
use sandgate_wire::launch::COMPILER_ARGUMENT;
use sandgate_wire::message::{Compile, Compiled};
use sandgate_wire::module_limits::{ModuleLimitName, Shape};
use sandgate_wire::outcome::{LossCause, Rejection, WorkerLoss};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait};
use sandgate_wire::{Outbox, ToHost, ToWorker};

use crate::artefact::{Artefact, Wanted, memory, module_memory};
use crate::deadline::Deadline;
use crate::error::{CompileError, ExecError, LaunchError};
use crate::process::{Launch, Process, launch};
use crate::worker_binary;

/// How long a compiler that has answered may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// What a compiler that has hit a bug exits with; see `exit_code` of the worker.
const EXIT_BUG: i32 = 5;
/// What a compiler that was refused memory exits with.
const EXIT_OUT_OF_MEMORY: i32 = 6;
/// What the kernel ends a process with that has used up its processor time, and what a process that gets no more memory
/// ends itself with.
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
        LossCause::Signaled { signal: SIGABRT } => Some(over(ModuleLimitName::CompileMemory, wanted)),
        LossCause::Signaled { signal: SIGSYS | SIGKILL } => None,
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
    let Some(answer) = answer(&mut frames, listening.as_fd(), deadline).map_err(resources)? else {
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
    if let Compiled::Done { description, .. } = &compiled
        && description.len() > MAX_DESCRIPTION_BYTES
    {
        let message = format!("it described the module with {} bytes", description.len());
        return Err(lost(&process, Some(message), LossCause::Exited { code: 0 }));
    }
    Ok(Answer::Compiled(compiled, Box::new(artefact)))
}

/// The compiler's answer, or what is wrong with it; `None` if it is not there by the deadline. A compiler that has read a
/// hostile module may also stop in the middle of it.
fn answer(
    frames: &mut FrameReader,
    listening: BorrowedFd<'_>,
    deadline: Deadline,
) -> std::io::Result<Option<Result<Compiled, Option<String>>>> {
    while !frames.has_frame() {
        if !wait(listening, PollFlags::IN, deadline.left())? {
            return Ok(None);
        }
        if !frames.fill_now() {
            break;
        }
    }
    Ok(Some(match frames.read_frame() {
        Ok(Some(frame)) => understand(frame),
        Ok(None) | Err(FrameError::Truncated { .. } | FrameError::Io(_)) => Err(None),
        Err(error) => Err(Some(error.to_string())),
    }))
}

fn understand(frame: Frame<'_>) -> Result<Compiled, Option<String>> {
    match ToHost::decode(frame) {
        Ok(ToHost::Compiled(compiled)) => Ok(compiled),
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
        let mut frames = FrameReader::new(Box::new(unix_socket(ours, Descriptors::Refuse).1));
        let mut compiler = UnixStream::from(theirs);
        compiler.write_all(bytes).unwrap();
        let compiler = (!hangs_up).then_some(compiler);
        let answer = answer(&mut frames, listening.as_fd(), Deadline::after(Duration::from_millis(20))).unwrap();
        drop(compiler);
        answer
    }

    #[test]
    fn a_compiler_that_stops_anywhere_in_its_answer_is_given_up() {
        let compiled =
            Compiled::Done { engine: "e".to_owned(), bytes: 3, shape: Shape::default(), description: vec![1] };
        let encoded = ToHost::Compiled(compiled.clone()).encode();
        let length = u32::try_from(encoded.body.len()).unwrap();
        let header = sandgate_wire::frame::Header { length, kind: encoded.kind, flags: 0, channel: encoded.channel };
        let whole = [&header.encode()[..], &encoded.body].concat();
        for end in 0..whole.len() {
            assert_eq!(check(&whole[..end], false), None, "{end} bytes, then silence");
            assert_eq!(check(&whole[..end], true), Some(Err(None)), "{end} bytes, then the end");
        }
        assert_eq!(check(&whole, false), Some(Ok(compiled)));
        assert!(matches!(check(&[0xff; 64], false), Some(Err(Some(_)))));
    }
}
