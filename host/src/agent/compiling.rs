//! What an agent compiles: modules by hash, artefacts by number.
//!
//! ```text
//!  COMPILE ──► a thread ──► this machine's store ──► there already ──────────────► number
//!                             └ a module that is not here: NEED ──► UPLOAD ──► compiler ──► number
//! ```
//!
//! The bytes of a module are asked for once at a time, and kept for a while, since the next compilation may be of the same
//! module in another way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use sandgate_wire::ModuleId;
use sandgate_wire::link::message::{FromAgent, RemoteCompile, RemoteCompiled};
use sandgate_wire::link::{Link, StreamItem};
use sandgate_wire::module_limits::Shape;

use super::bounds::{Bounds, MAX_ARTEFACTS, MAX_COMPILATIONS, MAX_MODULE_BYTES, MAX_UPLOADS};
use super::spawn;
use crate::artefact::{Artefact, ArtefactStore, Wanted};
use crate::deadline::Deadline;
use crate::error::{CompileError, ExecError};
use crate::module::Module;
use crate::vetting;

/// Bytes of modules that are kept.
const KEPT_BYTES: usize = 128 << 20;
/// How long the next bytes of a module may take, once it was asked for.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Compiling {
    link: Arc<Link>,
    store: Arc<ArtefactStore>,
    tenant: Option<Arc<str>>,
    bounds: Bounds,
    compiler: Compiler,
    /// Compilations and uploads that are under way.
    under_way: Mutex<UnderWay>,
    modules: Mutex<Modules>,
    /// A module has come, or will not.
    came: Condvar,
    artefacts: Mutex<Artefacts>,
}

/// How a module is compiled.
pub(super) type Compiler = fn(&Wanted<'_>) -> Result<(Artefact, Shape), ExecError>;

#[derive(Debug, Default)]
struct UnderWay {
    compilations: usize,
    uploads: usize,
}

#[derive(Debug, Default)]
struct Modules {
    /// The one that came last is last.
    kept: VecDeque<Module>,
    kept_bytes: usize,
    /// Those that the host was asked for.
    expected: HashSet<ModuleId>,
    /// None will come any more.
    are_over: bool,
}

#[derive(Debug, Default)]
struct Artefacts {
    last: u64,
    by_number: HashMap<u64, Arc<Artefact>>,
}

impl Compiling {
    pub(super) fn new(
        link: Arc<Link>,
        store: Arc<ArtefactStore>,
        tenant: Option<Arc<str>>,
        bounds: Bounds,
        compiler: Compiler,
    ) -> Arc<Compiling> {
        let (modules, artefacts, under_way) = (Mutex::default(), Mutex::default(), Mutex::default());
        let came = Condvar::new();
        Arc::new(Compiling { link, store, tenant, bounds, compiler, under_way, modules, came, artefacts })
    }

    /// Compiles on a thread of its own and answers; at once if that is too much, or more than the host may have.
    pub(super) fn compile(self: &Arc<Self>, request: u64, wanted: RemoteCompile) -> io::Result<()> {
        let refused = self.bounds.refuses_compiler(wanted.program.as_deref(), &wanted.policy).map(str::to_owned);
        if let Some(why) = refused.or_else(|| self.is_too_much()) {
            self.link.push(FromAgent::Compiled(request, Box::new(RemoteCompiled::Failed(why))).encode());
            return Ok(());
        }
        self.under_way.lock().compilations += 1;
        let compiling = Arc::clone(self);
        spawn("compile", move || {
            let answer = compiling.answer(request, wanted);
            compiling.under_way.lock().compilations -= 1;
            compiling.link.push(FromAgent::Compiled(request, Box::new(answer)).encode());
        })
    }

    fn is_too_much(&self) -> Option<String> {
        let (compilations, artefacts) = (self.under_way.lock().compilations, self.artefacts.lock().by_number.len());
        let is = |what: &str, most: usize| Some(format!("agent has {most} {what} at once for its host, and no more"));
        match () {
            () if compilations >= MAX_COMPILATIONS => is("compilations", MAX_COMPILATIONS),
            () if artefacts >= MAX_ARTEFACTS => is("artefacts", MAX_ARTEFACTS),
            () => None,
        }
    }

    fn answer(&self, request: u64, mut asked: RemoteCompile) -> RemoteCompiled {
        vetting::cap(&mut asked.name, vetting::MAX_TEXT_BYTES);
        let absent = Module::absent(asked.module, asked.name.clone());
        let program = asked.program.map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)));
        let wanted = Wanted {
            module: &absent,
            engine: &asked.engine,
            codegen: asked.codegen,
            tenant: self.tenant.as_deref(),
            limits: &asked.limits,
            profile: asked.profile,
            policy: &asked.policy,
            worker: program.as_deref(),
            deadline: asked.patience.map_or(Deadline::NEVER, Deadline::after),
        };
        let made = self.store.get_or(&wanted, || {
            let fetched = self.fetch(request, asked.module, &asked.name, wanted.deadline);
            let module = fetched.ok_or_else(|| {
                let missing = io::Error::other("the module did not arrive");
                wanted.failed(CompileError::Memory(missing))
            })?;
            (self.compiler)(&Wanted { module: &module, ..wanted })
        });
        match made {
            Ok(artefact) => self.number(&artefact),
            Err(ExecError::Rejected { reason, .. }) => RemoteCompiled::Rejected(reason),
            Err(ExecError::Compile { source: CompileError::Lost(loss), .. }) => RemoteCompiled::Lost(loss),
            Err(error) => {
                let source = std::error::Error::source(&error);
                let mut text = source.map_or_else(|| error.to_string(), ToString::to_string);
                vetting::cap(&mut text, vetting::MAX_TEXT_BYTES);
                RemoteCompiled::Failed(text)
            }
        }
    }

    // ---- artefacts ----

    fn number(&self, artefact: &Arc<Artefact>) -> RemoteCompiled {
        let mut artefacts = self.artefacts.lock();
        artefacts.last += 1;
        let number = artefacts.last;
        artefacts.by_number.insert(number, Arc::clone(artefact));
        RemoteCompiled::Done {
            artefact: number,
            bytes: artefact.bytes(),
            shape: artefact.shape().clone(),
            description: artefact.description().to_vec(),
        }
    }

    /// A descriptor of this artefact's memory.
    pub(super) fn memory_of(&self, number: u64) -> Option<OwnedFd> {
        let artefacts = self.artefacts.lock();
        artefacts.by_number.get(&number).and_then(|artefact| artefact.descriptor().ok())
    }

    pub(super) fn forget(&self, number: u64) {
        self.artefacts.lock().by_number.remove(&number);
    }

    /// The link is gone: whoever waits for a module waits no more.
    pub(super) fn end(&self) {
        self.modules.lock().are_over = true;
        self.came.notify_all();
    }

    /// Whether nobody is at work for it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_quiet(&self) -> bool {
        let under_way = self.under_way.lock();
        under_way.compilations == 0 && under_way.uploads == 0
    }

    // ---- modules ----

    /// The module's bytes, from here or from the host.
    fn fetch(&self, request: u64, id: ModuleId, name: &str, deadline: Deadline) -> Option<Module> {
        let deadline = deadline.sooner(Deadline::after(UPLOAD_PATIENCE));
        let mut modules = self.modules.lock();
        loop {
            if let Some(module) = modules.kept.iter().find(|module| module.id() == id) {
                return Some(module.named(name));
            }
            if modules.are_over {
                return None;
            }
            if modules.expected.insert(id) {
                self.link.push(FromAgent::Need(request).encode());
            }
            if deadline.wait(&self.came, &mut modules).is_err() {
                modules.expected.remove(&id);
                return None;
            }
        }
    }

    /// Takes a module that comes on a stream. One that nobody waits for any more, or never did, is not kept.
    pub(super) fn upload(self: &Arc<Self>, stream: u64, id: ModuleId, bytes: u64) -> io::Result<()> {
        let (send, mut receive) = self.link.accept(stream)?;
        let is_expected = self.modules.lock().expected.contains(&id);
        if bytes > MAX_MODULE_BYTES || self.under_way.lock().uploads >= MAX_UPLOADS {
            return Err(io::Error::other("a module that is larger than modules are, or one too many at once"));
        }
        self.under_way.lock().uploads += 1;
        let compiling = Arc::clone(self);
        spawn("upload", move || {
            let (mut all, mut seen) = (Vec::new(), 0_u64);
            while let Ok(StreamItem::Data(more)) = receive.next_item()
                && seen + more.len() as u64 <= bytes
            {
                seen += more.len() as u64;
                if is_expected {
                    all.extend(more);
                }
            }
            drop(send);
            compiling.under_way.lock().uploads -= 1;
            compiling.has_come(id, all);
        })
    }

    fn has_come(&self, id: ModuleId, bytes: Vec<u8>) {
        let module = Module::of("<bytes>".to_owned(), Bytes::from(bytes));
        let mut modules = self.modules.lock();
        modules.expected.remove(&id);
        // One that is not whole is asked for again, by whoever waits for it.
        if module.id() == id {
            modules.kept_bytes += module.bytes().len();
            modules.kept.push_back(module);
            while modules.kept_bytes > KEPT_BYTES
                && modules.kept.len() > 1
                && let Some(oldest) = modules.kept.pop_front()
            {
                modules.kept_bytes -= oldest.bytes().len();
            }
        }
        self.came.notify_all();
    }
}
