//! What the host says: one message after the other, none of which is waited for. Which thread reads is up to [`reading`].
//!
//! Messages change the hub, wake executors and stop executions. Nothing here runs guest code, loads a module, or writes to
//! something that can be full; a host that sends faster than guests take is held back by its credits.

use std::sync::Arc;

use sandgate_wire::assembly::Chunk;
use sandgate_wire::frame::{Frame, FrameReader, Header};
use sandgate_wire::message::kind;
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{ToHost, ToWorker};

use crate::execution::Stop;
use crate::executor;
use crate::hub::{HubGuard, Violation};
use crate::modules::Artefact;
use crate::reading;
use crate::worker::{Ended, Worker, WorkerError};

/// Chunks of messages that are taken under one lock of the hub, if they are here already.
const MAX_AT_ONCE: usize = 32;

/// Serves until the connection ends, or the host asked for the end and all is done.
pub(crate) fn run(worker: &Arc<Worker>, reader: FrameReader) -> Result<Ended, WorkerError> {
    let ended = reading::stand(worker, reader)?;
    if ended == Ended::Terminated {
        worker.outbox.flush();
    }
    Ok(ended)
}

/// What it means that the host says nothing more.
pub(crate) fn end_of_stream(worker: &Worker) -> Ended {
    // Our own end after a TERMINATE looks the same from here.
    if worker.hub.lock().is_done() { Ended::Terminated } else { Ended::HostGone }
}

/// Does what all frames say that are here, up to the end if it is among them.
pub(crate) fn take_all(worker: &Arc<Worker>, reader: &mut FrameReader) -> Result<Option<Ended>, WorkerError> {
    take_while(worker, reader, |_| true)
}

/// As [`take_all`], while another thread waits for the bell: what has to do with that, a descriptor, is left to it.
pub(crate) fn take_without_bell(worker: &Arc<Worker>, reader: &mut FrameReader) -> Result<Option<Ended>, WorkerError> {
    take_while(worker, reader, |header| header.kind != kind::LOAD)
}

/// As [`take_all`], up to the first frame that is not to be taken.
pub(crate) fn take_while(
    worker: &Arc<Worker>,
    reader: &mut FrameReader,
    takes: impl Fn(&Header) -> bool,
) -> Result<Option<Ended>, WorkerError> {
    // Executors wake up, or go on, when it is let go.
    let mut hub: Option<HubGuard<'_>> = None;
    let mut left = MAX_AT_ONCE;
    loop {
        if left == 0 {
            (hub, left) = (None, MAX_AT_ONCE);
        }
        let Some(header) = reader.next_header()?.filter(&takes) else { return Ok(None) };
        if header.kind == kind::DATA {
            let over = hub.get_or_insert_with(|| worker.hub.lock()).data(header.channel, reader, &mut left)?;
            for (execution, limit) in over {
                hub = None;
                worker.stop(&execution, Stop::Limit(limit));
            }
            continue;
        }
        if matches!(header.kind, kind::ARGUMENTS | kind::EXECUTE) {
            let Some(frame) = reader.next_here()? else { return Ok(None) };
            left -= 1;
            begin(worker, hub.get_or_insert_with(|| worker.hub.lock()), frame)?;
            continue;
        }
        let Some(frame) = reader.next_here()? else { return Ok(None) };
        let (module, codegen, bytes) = match ToWorker::decode(frame)? {
            ToWorker::Load { module, codegen, bytes } => (module, codegen, bytes),
            message => {
                hub = None;
                let may_be_last = matches!(message, ToWorker::Terminate { .. } | ToWorker::Kill(..));
                take(worker, message)?;
                if may_be_last && worker.hub.lock().is_done() {
                    return Ok(Some(Ended::Terminated));
                }
                continue;
            }
        };
        let descriptor = reader.take_descriptor().ok_or_else(|| unexpected("LOAD without a descriptor"))?;
        let artefact = Arc::new(Artefact::new(descriptor, bytes));
        // A module that is here already stays: others may be loading it.
        worker.modules.lock().entry((module, codegen)).or_insert(artefact);
    }
}

/// What an execution begins with.
fn begin(worker: &Arc<Worker>, hub: &mut HubGuard<'_>, frame: Frame<'_>) -> Result<(), WorkerError> {
    let Header { kind, flags, channel, .. } = frame.header;
    if kind == kind::ARGUMENTS {
        return Ok(hub.arguments(channel, Chunk { flags, payload: frame.payload })?);
    }
    let execute = hub.latest.decode(frame)?;
    if hub.execute(channel, execute)? {
        executor::provide(worker, hub);
    }
    Ok(())
}

fn take(worker: &Arc<Worker>, message: ToWorker<'_>) -> Result<(), WorkerError> {
    match message {
        ToWorker::Data(..) | ToWorker::Arguments(..) | ToWorker::Execute(..) => {
            return Err(unexpected("DATA, ARGUMENTS or EXECUTE in the wrong place"));
        }
        ToWorker::Credit(channel, credit) => worker.hub.lock().credit(channel, credit)?,
        ToWorker::Open(channel) => worker.hub.lock().open(channel)?,
        ToWorker::Close(channel, close) => worker.hub.lock().close(channel, close)?,
        ToWorker::Kill(channel, by) => {
            let running = worker.hub.lock().kill(channel, by)?;
            if let Some(execution) = running {
                worker.stop(&execution, Stop::Killed(by));
            }
        }
        ToWorker::OutputCredit(channel, bytes) => {
            worker.hub.lock().output_credit(channel, bytes)?;
        }
        ToWorker::Status => {
            let status = worker.hub.lock().status();
            let _ = worker.outbox.push_urgent(ToHost::Status(status).encode());
        }
        ToWorker::Terminate { kill } => {
            let running = worker.hub.lock().terminate(kill);
            for execution in running {
                worker.stop(&execution, Stop::Killed(KilledBy::Terminate));
            }
        }
        ToWorker::Unload(module) => {
            worker.modules.lock().retain(|(loaded, _), _| *loaded != module);
        }
        ToWorker::Hello(_) => return Err(unexpected("HELLO a second time")),
        ToWorker::Load { .. } => return Err(unexpected("LOAD in the wrong place")),
        ToWorker::Compile(_) => return Err(unexpected("COMPILE to a worker")),
        ToWorker::Initialize(_) => return Err(unexpected("INITIALIZE to a worker")),
    }
    Ok(())
}

fn unexpected(what: &'static str) -> WorkerError {
    Violation::Unexpected(what).into()
}
