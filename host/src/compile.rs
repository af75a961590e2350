//! Has a module compiled, by a process that does nothing else and is gone afterwards.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;
use sandgate_wire::frame::{Frame, FrameError, FrameReader};
use sandgate_wire::launch::COMPILER_ARGUMENT;
use sandgate_wire::message::{Compile, Compiled};
use sandgate_wire::outcome::{LossCause, WorkerLoss};
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket, wait};
use sandgate_wire::{Outbox, ToHost, ToWorker};

use crate::artefact::{Artefact, memory, module_memory};
use crate::error::{CompileError, ExecError, LaunchError};
use crate::module::Module;
use crate::process::{Launch, Process, launch};
use crate::worker_binary;

/// How long one compilation may take.
const COMPILE_DEADLINE: Duration = Duration::from_secs(300);

/// Compiles a module for an engine. Blocks until that is done.
pub(crate) fn compile(module: &Module, engine: &str, worker: Option<&Path>) -> Result<Artefact, ExecError> {
    let failed = |source| ExecError::Compile { module: module.name().to_owned(), source };
    match ask(module, worker).map_err(failed)? {
        (Compiled::Done { engine: theirs, .. }, artefact) if theirs == engine => Ok(artefact),
        (Compiled::Done { engine: theirs, .. }, _) => Err(failed(CompileError::Lost(WorkerLoss {
            gateway: "compiler".to_owned(),
            pid: None,
            cause: LossCause::ProtocolViolation { message: format!("it compiled for `{theirs}`, not for `{engine}`") },
            stderr_tail: String::new(),
        }))),
        (Compiled::Rejected(reason), _) => Err(ExecError::Rejected { module: module.name().to_owned(), reason }),
    }
}

fn ask(module: &Module, worker: Option<&Path>) -> Result<(Compiled, Artefact), CompileError> {
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
    let request = ToWorker::Compile(Compile { module: module.id(), bytes: module.bytes().len() as u64 });
    let theirs = output.try_clone().map_err(CompileError::Memory)?;
    // A compiler that is gone already does not answer, which says more.
    let _ = outbox.push_with_descriptors(request.encode(), vec![input, theirs]);
    // One answer of one small frame: it is there as a whole, or not at all.
    if !wait(listening.as_fd(), PollFlags::IN, Some(COMPILE_DEADLINE)).map_err(resources)? {
        process.kill();
        return Err(CompileError::Timeout(COMPILE_DEADLINE));
    }
    let answer = match FrameReader::new(Box::new(receive)).read_frame() {
        Ok(Some(frame)) => understand(frame),
        Ok(None) | Err(FrameError::Truncated { .. } | FrameError::Io(_)) => Err(None),
        Err(error) => Err(Some(error.to_string())),
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

fn understand(frame: Frame<'_>) -> Result<Compiled, Option<String>> {
    match ToHost::decode(frame) {
        Ok(ToHost::Compiled(compiled)) => Ok(compiled),
        Ok(_) => Err(Some("it did not answer what it was asked".to_owned())),
        Err(error) => Err(Some(error.to_string())),
    }
}

fn lost(process: &Process, violation: Option<String>, ended: LossCause) -> CompileError {
    let cause = violation.map_or(ended, |message| LossCause::ProtocolViolation { message });
    let stderr_tail = process.stderr_tail();
    CompileError::Lost(WorkerLoss { gateway: "compiler".to_owned(), pid: Some(process.pid()), cause, stderr_tail })
}
