//! Compiled modules of another machine. The host has a *ticket* for each: memory with the number that the agent gave it, which
//! goes the way of an artefact's memory and becomes one at the far end of a stream.
//!
//! ```text
//!  get ──► a ticket here? ──► COMPILE by hash ──► the agent's cache, or its compiler ──► number ──► ticket
//!                                  ▲ NEED: the module's bytes, on a stream, once for each machine
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use parking_lot::Mutex;
use sandgate_wire::link::message::{RemoteCompile, RemoteCompiled, ToAgent};
use sandgate_wire::message::Compiled;
use sandgate_wire::module_limits::ModuleLimitName;
use sandgate_wire::outcome::{LossCause, Rejection};
use sandgate_wire::transport::SendHalf;

use super::host::RemoteHost;
use super::requests::Answer;
use crate::artefact::{Artefact, ArtefactSource, Key, Wanted, memory};
use crate::compile::check;
use crate::error::{CompileError, ExecError};
use crate::module::Module;
use crate::vetting;

/// Most tickets of one machine that are kept; the agent forgets the others' artefacts.
const MAX_TICKETS: usize = 256;

/// How often a module is sent for one compilation: once more if it did not arrive whole.
const MAX_UPLOADS: u32 = 2;

/// The tickets of one machine.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clock: u64,
    by_key: HashMap<Key, Held>,
}

#[derive(Debug, Default)]
struct Held {
    used: u64,
    slot: Slot,
}

/// A ticket and its number. Locked by the one caller that asks the agent.
type Slot = Arc<Mutex<Option<(u64, Arc<Artefact>)>>>;

/// What compiles for a gateway of another machine.
#[derive(Debug)]
pub(crate) struct RemoteArtefacts {
    host: Arc<RemoteHost>,
    /// The gateway's id, for messages.
    gateway: String,
}

impl RemoteArtefacts {
    pub(crate) fn new(host: Arc<RemoteHost>, gateway: String) -> RemoteArtefacts {
        RemoteArtefacts { host, gateway }
    }

    fn ask(&self, wanted: &Wanted<'_>) -> Result<(u64, Artefact), ExecError> {
        let request = self.host.requests.begin();
        let answer = self.talk(request, wanted);
        self.host.requests.give_up(request);
        match answer? {
            RemoteCompiled::Done { artefact, bytes, shape, description } => {
                let done = Compiled::Done { engine: wanted.engine.to_owned(), bytes, shape, description };
                let refused = |what: String| self.gone(&what);
                match vetting::compiled(done, wanted.module.bytes().len() as u64).map_err(refused)? {
                    Compiled::Done { bytes, shape, description, .. } => {
                        let ticket = ticket(artefact).map_err(|error| wanted.failed(CompileError::Memory(error)))?;
                        Ok((artefact, Artefact::elsewhere(ticket, bytes).with_description(description, shape)))
                    }
                    Compiled::Rejected(reason) => Err(wanted.rejected(reason)),
                }
            }
            RemoteCompiled::Rejected(mut reason) => {
                vetting::rejection(&mut reason);
                Err(wanted.rejected(reason))
            }
            RemoteCompiled::Lost(mut loss) => {
                for text in [&mut loss.gateway, &mut loss.stderr_tail] {
                    vetting::cap(text, vetting::MAX_TEXT_BYTES);
                }
                Err(wanted.failed(CompileError::Lost(loss)))
            }
            RemoteCompiled::Failed(mut text) => {
                vetting::cap(&mut text, vetting::MAX_TEXT_BYTES);
                Err(wanted.failed(CompileError::Memory(io::Error::other(text))))
            }
        }
    }

    fn talk(&self, request: u64, wanted: &Wanted<'_>) -> Result<RemoteCompiled, ExecError> {
        let compile = RemoteCompile {
            module: wanted.module.id(),
            bytes: wanted.module.bytes().len() as u64,
            name: capped(wanted.module.name()),
            engine: wanted.engine.to_owned(),
            codegen: wanted.codegen,
            limits: wanted.limits.clone(),
            profile: wanted.profile,
            policy: wanted.policy.clone(),
            program: wanted.worker.map(|path| path.as_os_str().as_bytes().to_vec()),
            patience: wanted.deadline.left(),
        };
        self.host.link.push(ToAgent::Compile(request, Box::new(compile)).encode());
        let mut uploads = 0;
        loop {
            match self.host.requests.next(request, wanted.deadline) {
                Some(Answer::Compiled(compiled)) => return Ok(*compiled),
                Some(Answer::Need) if uploads == MAX_UPLOADS => {
                    return Err(self.gone("its agent asks for a module again and again"));
                }
                Some(Answer::Need) => {
                    uploads += 1;
                    self.upload(wanted.module).map_err(|error| self.gone(&error.to_string()))?;
                }
                Some(Answer::Over) => return Err(self.lost()),
                None => return Err(wanted.timed_out()),
            }
        }
    }

    /// Sends the module. Waits for room in its stream, and ends with the link at the latest.
    fn upload(&self, module: &Module) -> io::Result<()> {
        let mut bytes = module.bytes();
        let announce = |stream| Some(ToAgent::Upload(stream, module.id(), bytes.len() as u64).encode());
        let (send, _receive) = self.host.link.open(announce)?;
        while !bytes.is_empty() {
            match send.try_write(&[IoSlice::new(bytes)], None) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => send.wait_writable()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As all executions on that machine are told.
    fn lost(&self) -> ExecError {
        match self.host.loss() {
            Some(LossCause::Link { problem, message }) => self.link(&format!("{problem}: {message}")),
            _ => self.link("is gone"),
        }
    }

    fn gone(&self, why: &str) -> ExecError {
        self.link(&format!("is gone: {why}"))
    }

    fn link(&self, what: &str) -> ExecError {
        let reason = format!("its link to `{}` {}", self.host.name(), sandgate_wire::text::printable(what));
        ExecError::GatewayClosed { gateway: self.gateway.clone(), reason }
    }
}

impl ArtefactSource for RemoteArtefacts {
    fn get(&self, wanted: &Wanted<'_>) -> Result<Arc<Artefact>, ExecError> {
        let found = wanted.module.bytes().len() as u64;
        if found > wanted.limits.module_bytes {
            let (limit, value) = (ModuleLimitName::ModuleBytes, wanted.limits.module_bytes);
            return Err(wanted.rejected(Rejection::ModuleLimit { limit, found, value, item: String::new() }));
        }
        let key = Key::of(wanted.module, wanted.engine, wanted.codegen, wanted.tenant);
        let (slot, forgotten) = self.host.tickets.slot(key);
        for slot in forgotten {
            if let Some((number, _)) = &*slot.lock() {
                self.host.link.push(ToAgent::Forget(*number).encode());
            }
        }
        let held = match wanted.deadline.at() {
            None => Some(slot.lock()),
            Some(at) => slot.try_lock_until(at),
        };
        let mut held = held.ok_or_else(|| wanted.timed_out())?;
        let artefact = match &*held {
            Some((_, artefact)) => Arc::clone(artefact),
            None => {
                let (number, artefact) = self.ask(wanted)?;
                let artefact = Arc::new(artefact);
                *held = Some((number, Arc::clone(&artefact)));
                artefact
            }
        };
        check(artefact.shape(), wanted).map_err(|reason| wanted.rejected(reason))?;
        Ok(artefact)
    }
}

impl Tickets {
    /// The place of a ticket, and those that had to go for it.
    fn slot(&self, key: Key) -> (Slot, Vec<Slot>) {
        let mut state = self.state.lock();
        state.clock += 1;
        let clock = state.clock;
        let mut forgotten = Vec::new();
        while state.by_key.len() >= MAX_TICKETS && !state.by_key.contains_key(&key) {
            let oldest = state.by_key.iter().min_by_key(|(_, held)| held.used).map(|(key, _)| *key);
            let Some(held) = oldest.and_then(|oldest| state.by_key.remove(&oldest)) else { break };
            forgotten.push(held.slot);
        }
        let held = state.by_key.entry(key).or_default();
        held.used = clock;
        (Arc::clone(&held.slot), forgotten)
    }
}

/// A name for messages, which has to fit into a frame.
fn capped(name: &str) -> String {
    let mut name = name.to_owned();
    vetting::cap(&mut name, vetting::MAX_TEXT_BYTES);
    name
}

fn ticket(number: u64) -> io::Result<std::os::fd::OwnedFd> {
    let mut file = File::from(memory("sandgate-ticket")?);
    file.write_all(&number.to_le_bytes())?;
    Ok(file.into())
}
