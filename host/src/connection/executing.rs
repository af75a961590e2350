//! How an execution begins: what is checked and made for a call, and what is done for each run of it.
//!
//! ```text
//!  call ─► limits ─► compiled, loaded ─► types ─► EXECUTE, encoded ──┐    once for all runs of a pool
//!                                                                    ▼
//!  arguments ──────────────────────────────► channel ─► ARGUMENTS, EXECUTE ─► outbox
//! ```

use std::sync::Arc;

use sandgate_wire::frame::MAX_FRAME_BYTES;
use sandgate_wire::limits::{LimitName, MAX_TABLE_ELEMENTS};
use sandgate_wire::message::{Codegen, Encoded as EncodedMessage, Entry, Execute, kind};
use sandgate_wire::{ChannelId, Limits, Message, ModuleId, ToWorker};

use super::Connection;
use crate::call::Call;
use crate::channel::{Channel, message_for};
use crate::endpoint::{Endpoint, PoolConsumer, Role, Start};
use crate::error::{ExecError, SendError};
use crate::module::Module;
use crate::output::Origin;
use crate::schema::Mismatch;
use crate::value::Encoded;

/// What is made for a call, and is the same for each run of it.
#[derive(Debug)]
pub(super) struct Prepared {
    limits: Arc<Limits>,
    is_interruptible: bool,
    /// The body of its EXECUTE.
    execute: Vec<u8>,
}

/// The call that was run last of those that are run again and again, and what was made for it.
#[derive(Debug, Default)]
pub(super) struct Latest(Option<(ModuleId, Arc<Call>, Arc<Prepared>)>);

/// What one run has of its own.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) arguments: Option<Encoded>,
    pub(crate) origin: Option<Origin>,
    /// The pool that is told of it, and has it without a handle.
    pub(crate) run_of: Option<PoolConsumer>,
    /// The endpoint of an earlier run, which has ended.
    pub(crate) used_up: Option<Arc<Endpoint>>,
}

impl Connection {
    pub(crate) fn execute(self: &Arc<Self>, module: &Module, call: &Call) -> Result<Channel, ExecError> {
        self.check_open()?;
        let prepared = self.prepared(module, call, call.arguments.is_some())?;
        let run = Run { arguments: call.arguments.clone(), origin: call.origin.clone(), run_of: None, used_up: None };
        // Before it is sent, so that it is not without a user's handle, whoever else learns of it.
        self.run(&prepared, call, run, Channel::new)
    }

    /// Runs a call with other arguments, which it has to have, than the last time. The call itself has none.
    pub(crate) fn execute_again(
        self: &Arc<Self>,
        module: &Module,
        call: &Arc<Call>,
        run: Run,
    ) -> Result<Arc<Endpoint>, ExecError> {
        self.check_open()?;
        let latest = match &self.latest.lock().0 {
            Some((id, latest, prepared)) if Arc::ptr_eq(latest, call) && *id == module.id() => {
                Some(Arc::clone(prepared))
            }
            _ => None,
        };
        let prepared = match latest {
            Some(prepared) => prepared,
            None => {
                let prepared = Arc::new(self.prepared(module, call, true)?);
                self.latest.lock().0 = Some((module.id(), Arc::clone(call), Arc::clone(&prepared)));
                prepared
            }
        };
        self.run(&prepared, call, run, Arc::clone)
    }

    /// Checks a call, and has its module sent.
    fn prepared(&self, module: &Module, call: &Call, has_arguments: bool) -> Result<Prepared, ExecError> {
        let limits = call.limits.clone().unwrap_or_else(|| self.spec.limits().clone());
        self.check_limits(&limits)?;
        let grants = call.grants.clone().unwrap_or_else(|| self.spec.grants().execution.clone());
        let codegen = Codegen::of(&limits, &grants, self.spec.has_epochs());
        let artefact = self.compiled(module, codegen, call.compile_timeout, call.module_limits.as_ref())?;
        if let Some(expected) = &call.expected {
            let described = artefact.described().ok_or(Mismatch::Unreadable);
            described
                .and_then(|described| described.check(call.task.as_deref(), expected))
                .map_err(|source| ExecError::Mismatch { module: module.name().to_owned(), source: Box::new(source) })?;
        }
        let mut argv = vec![module.name().to_owned()];
        argv.extend(call.argv.iter().cloned());
        let execute = Execute {
            module: module.id(),
            codegen,
            entry: call.task.clone().map_or(Entry::Start, Entry::Task),
            has_arguments,
            argv,
            limits: limits.clone(),
            grants,
            stdin: call.stdin,
            patient: call.patient,
        };
        let execute = ToWorker::Execute(ChannelId::CONNECTION, execute).encode().body;
        if execute.len() > MAX_FRAME_BYTES {
            return Err(ExecError::CallTooLarge { length: execute.len(), maximum: MAX_FRAME_BYTES });
        }
        if let Some(arguments) = &call.arguments {
            check_size(arguments.bytes.len(), &limits)?;
        }
        self.load(module.id(), codegen, &artefact)?;
        Ok(Prepared { limits: Arc::new(limits), is_interruptible: codegen != Codegen::Unchecked, execute })
    }

    /// `hold` gives whoever begins it what holds it.
    fn run<H>(
        self: &Arc<Self>,
        prepared: &Prepared,
        call: &Call,
        run: Run,
        hold: impl FnOnce(&Arc<Endpoint>) -> H,
    ) -> Result<H, ExecError> {
        let Run { arguments, origin, run_of, used_up } = run;
        let arguments: Option<Message> = match arguments {
            None => None,
            Some(encoded) => Some(message_for(self, encoded).map_err(ExecError::Arguments)?),
        };
        if let Some(arguments) = &arguments {
            check_size(arguments.bytes.len(), &prepared.limits)?;
        }
        let is_told = run_of.is_some();
        if is_told {
            self.reading.add_one_beside();
        }
        let start = Start {
            role: Role::Execution,
            limits: Arc::clone(&prepared.limits),
            interruptible: prepared.is_interruptible,
            run_of,
            origin,
            captures: call.capture,
        };
        let endpoint = self.register(start, used_up).inspect_err(|_| {
            if is_told {
                self.reading.end_beside();
            }
        })?;
        let held = hold(&endpoint);
        // If the worker goes away from here on, the endpoint's outcome says so.
        //
        // In the order in which they are sent, for that is the order in which they begin.
        let mut places = self.places.lock();
        if call.patient {
            let _ = self.outbox.place_lazily(endpoint.id, arguments, &prepared.execute);
        } else {
            if let Some(arguments) = arguments {
                let _ = self.outbox.push_arguments(endpoint.id, arguments);
            }
            let (channel, body) = (endpoint.id, prepared.execute.clone());
            let _ = self.outbox.push(EncodedMessage { kind: kind::EXECUTE, flags: 0, channel, body });
        }
        let begins = places.enter(&endpoint);
        drop(places);
        if let Some(endpoint) = begins {
            endpoint.watch();
        }
        Ok(held)
    }

    /// What the worker has room for was decided when it started.
    fn check_limits(&self, asked: &Limits) -> Result<(), ExecError> {
        let own = self.spec.limits();
        for (limit, allowed) in [
            (LimitName::Memory, own.memory_bytes),
            (LimitName::Stack, own.stack_bytes),
            (LimitName::Table, MAX_TABLE_ELEMENTS),
        ] {
            let asked = asked.value(limit);
            if asked > allowed {
                return Err(ExecError::LimitTooHigh { gateway: self.id.clone(), limit, asked, allowed });
            }
        }
        Ok(())
    }
}

fn check_size(length: usize, limits: &Limits) -> Result<(), ExecError> {
    if length as u64 > limits.message_bytes {
        return Err(ExecError::Arguments(SendError::too_large(length, limits)));
    }
    Ok(())
}
