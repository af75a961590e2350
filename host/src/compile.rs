//! Has a module compiled, by a process that does nothing else and is gone afterwards.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use sandgate_wire::frame::{Frame, FrameError, FrameReader};
use sandgate_wire::launch::COMPILER_ARGUMENT;
use sandgate_wire::message::{Compile, Compiled};
use sandgate_wire::outcome::{LossCause, Rejection, WorkerLoss};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait};
use sandgate_wire::{Outbox, ToHost, ToWorker};

use crate::artefact::{Artefact, Wanted, memory, module_memory};
use crate::deadline::Deadline;
use crate::error::{CompileError, ExecError, LaunchError};
use crate::process::{Launch, Process, launch};
use crate::worker_binary;

/// How long one compilation may take.
const COMPILE_DEADLINE: Duration = Duration::from_secs(300);

/// Compiles a module for an engine. Blocks until that is done.
pub(crate) fn compile(wanted: &Wanted<'_>) -> Result<Artefact, ExecError> {
    let &Wanted { engine, deadline, module, .. } = wanted;
    let failed = |source| wanted.failed(source);
    let deadline = Deadline::after(COMPILE_DEADLINE).sooner(deadline);
    match ask(wanted, deadline).map_err(failed)? {
        (Compiled::Done { engine: theirs, shape, .. }, artefact) if theirs == engine => {
            if let Some(feature) = wanted.profile.lacks(shape.features) {
                let (feature, profile) = (feature.name().to_owned(), wanted.profile);
                let reason = Rejection::Feature { feature, profile, offered: true };
                return Err(ExecError::Rejected { module: module.name().to_owned(), reason });
            }
            Ok(artefact)
        }
        (Compiled::Done { engine: theirs, .. }, _) => Err(failed(CompileError::Lost(WorkerLoss {
            gateway: "compiler".to_owned(),
            pid: None,
            cause: LossCause::ProtocolViolation { message: format!("it compiled for `{theirs}`, not for `{engine}`") },
            stderr_tail: String::new(),
        }))),
        (Compiled::Rejected(reason), _) => Err(ExecError::Rejected { module: module.name().to_owned(), reason }),
    }
}

fn ask(wanted: &Wanted<'_>, deadline: Deadline) -> Result<(Compiled, Artefact), CompileError> {
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
        return Err(CompileError::Timeout(deadline.timeout()));
    };
    // Only when it is gone can nobody write the artefact any more.
    let ended = process.reap(Duration::from_secs(2)).clone();
    let compiled = answer.map_err(|violation| lost(&process, violation, ended))?;
    let artefact = Artefact::seal(output).map_err(CompileError::Memory)?;
    if let Compiled::Done { bytes, .. } = compiled
        && bytes != artefact.bytes()
    {
        let message = format!("it announced {bytes} bytes and wrote {}", artefact.bytes());
        return Err(lost(&process, Some(message), LossCause::Exited { code: 0 }));
    }
    Ok((compiled, artefact))
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

    use sandgate_wire::module_limits::Shape;

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
        let compiled = Compiled::Done { engine: "e".to_owned(), bytes: 3, shape: Shape::default() };
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
