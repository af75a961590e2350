//! The modules that the host has sent, each loaded when it is first executed.
//!
//! Loading happens on the executor that needs it, not on the reading thread. A module that cannot be loaded stays, so
//! that every execution of it is rejected with the reason.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use sandgate_abi::{INITIALIZE_EXPORT, MEMORY_EXPORT, START_EXPORT, TASK_EXPORT_PREFIX};
use sandgate_wire::ModuleId;
use sandgate_wire::message::Codegen;
use sandgate_wire::outcome::Rejection;
use wasmtime::{ExternType, InstancePre, Module, ModuleExport};

use crate::guest::Guest;
use crate::worker::Worker;
use crate::{artefact, ending, imports};

/// Longest name of a task in an outcome.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// Most names of tasks in an outcome.
const MAX_NAMES: usize = 64;

/// A module as it came from the host.
pub(crate) struct Artefact {
    descriptor: Mutex<Option<OwnedFd>>,
    bytes: u64,
    loaded: OnceLock<Result<Arc<LoadedModule>, Rejection>>,
}

/// A module that is ready to be instantiated, and where in its instances lies what each execution needs.
pub(crate) struct LoadedModule {
    pub(crate) instance_pre: InstancePre<Guest>,
    /// Names of its tasks, for messages.
    pub(crate) tasks: Vec<String>,
    pub(crate) memory: Option<ModuleExport>,
    /// Whatever it exports by that name.
    pub(crate) initialize: Option<ModuleExport>,
    /// Its functions that take and return nothing, by the names that they are exported by.
    entries: HashMap<String, ModuleExport>,
}

impl Artefact {
    pub(crate) fn new(descriptor: OwnedFd, bytes: u64) -> Artefact {
        Artefact { descriptor: Mutex::new(Some(descriptor)), bytes, loaded: OnceLock::new() }
    }

    fn load(&self, worker: &Worker, codegen: Codegen) -> Result<Arc<LoadedModule>, Rejection> {
        let descriptor = self.descriptor.lock().take().expect("the cell that calls this runs it once");
        let serving = worker.engines.get(codegen);
        let refused = |message| Rejection::Instantiation { message };
        let module = artefact::load(&serving.engine, descriptor, self.bytes).map_err(|error| {
            let cause = std::error::Error::source(&error);
            refused(cause.map_or(error.to_string(), |cause| format!("{error}: {cause}")))
        })?;
        let instance_pre = imports::link(&serving.linker, &module)?;
        Ok(Arc::new(LoadedModule::new(instance_pre, tasks(&module))))
    }
}

impl LoadedModule {
    pub(crate) fn new(instance_pre: InstancePre<Guest>, tasks: Vec<String>) -> LoadedModule {
        let module = instance_pre.module();
        let named = |name: &str| module.get_export_index(name);
        let is_memory = |export: &ExternType| matches!(export, ExternType::Memory(_));
        let memory = module.get_export(MEMORY_EXPORT).filter(is_memory).and_then(|_| named(MEMORY_EXPORT));
        let entries = module.exports().filter(|export| is_entry(&export.ty()));
        let entries = entries.filter_map(|export| Some((export.name().to_owned(), named(export.name())?))).collect();
        LoadedModule { memory, initialize: named(INITIALIZE_EXPORT), entries, tasks, instance_pre }
    }

    /// The function that the module exports by this name, if it takes and returns nothing.
    pub(crate) fn entry(&self, export: &str) -> Option<&ModuleExport> {
        self.entries.get(export)
    }
}

fn is_entry(ty: &ExternType) -> bool {
    match ty {
        ExternType::Func(ty) => ty.params().len() == 0 && ty.results().len() == 0,
        _ => false,
    }
}

/// The module, loaded if this is its first use.
pub(crate) fn get(worker: &Worker, module: ModuleId, codegen: Codegen) -> Result<Arc<LoadedModule>, Rejection> {
    let artefact = worker.modules.lock().get(&(module, codegen)).cloned();
    let Some(artefact) = artefact else {
        return Err(Rejection::Instantiation { message: format!("module {module} was not sent to this worker") });
    };
    let load = || {
        worker.startup_pages.were_needed();
        worker.second_stage.load(|| artefact.load(worker, codegen))
    };
    artefact.loaded.get_or_init(load).clone()
}

fn tasks(module: &Module) -> Vec<String> {
    entries(module, |export| match export {
        START_EXPORT => Some(START_EXPORT),
        name => name.strip_prefix(TASK_EXPORT_PREFIX),
    })
}

/// The names behind a prefix of functions that take and return nothing.
pub(crate) fn names(module: &Module, prefix: &str) -> Vec<String> {
    entries(module, |export| export.strip_prefix(prefix))
}

fn entries(module: &Module, name: impl Fn(&str) -> Option<&str>) -> Vec<String> {
    let entries = module.exports().filter(|export| is_entry(&export.ty()));
    entries
        .filter_map(|export| name(export.name()))
        .take(MAX_NAMES)
        .map(|name| ending::capped(name, MAX_NAME_BYTES))
        .collect()
}
