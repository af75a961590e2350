//! Pre-initialised modules: [`Init`], and how a snapshot is asked for and kept.
//!
//! ```text
//!  Module, Init ──► in memory or on disk? ──► initializer process ──► sealed memfd ──► Module
//!                        └ by the hash of all that can change it       └ a module like any other: checked, compiled, cached
//! ```
//!
//! The host looks into a snapshot no more than into any module.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use sandgate_wire::frame::Frame;
use sandgate_wire::limits::{DEFAULT_TASK_WALL_TIME, OUTPUT_WINDOW_BYTES};
use sandgate_wire::message::{Codegen, Initialize, Initialized, SNAPSHOT_PATIENCE, Stream};
use sandgate_wire::module_limits::ModuleLimitName;
use sandgate_wire::outcome::{LossCause, Outcome, Rejection};
use sandgate_wire::{ModuleLimits, ToHost, ToWorker};
use serde::Serialize;

use crate::artefact::{Artefact, ArtefactStore, Key, memory, sealed_memory};
use crate::deadline::Deadline;
use crate::errand::{Errand, INITIALIZER, Places, Understood};
use crate::error::{CodecError, CompileError, InitError};
use crate::module::Module;
use crate::output::OutputSink;
use crate::schema::{self, SchemaError, TaskSchema};
use crate::spec::Spec;
use crate::{cache, compile, value, vetting};

/// What the kernel ends a process with that has used up its processor time.
const SIGXCPU: i32 = 24;

/// What to run in a module before a snapshot is taken of it: an init function, its input, and what it may use.
///
/// ```
/// use std::time::Duration;
/// use sandgate::{Init, Spec};
///
/// let spec = Spec::popen().memory(256 << 20).timeout(Duration::from_secs(5));
/// let init = Init::new("load").input(&("a list of words",))?.spec(spec);
/// # Ok::<(), sandgate::CodecError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Init {
    name: String,
    input: Bytes,
    spec: Spec,
    output: Option<OutputSink>,
    cache: Option<PathBuf>,
    timeout: Option<Duration>,
}

impl Init {
    /// The init function of this name, with no input.
    pub fn new(name: impl Into<String>) -> Init {
        Init {
            name: name.into(),
            input: Bytes::new(),
            spec: Spec::popen(),
            output: None,
            cache: cache::default_directory(),
            timeout: None,
        }
    }

    /// Its input, as a task's arguments are given: the tuple of its parameters. The default is that of a function without
    /// parameters.
    ///
    /// # Errors
    /// [`CodecError`] if it cannot be serialised, or holds channels: there are none to be had yet.
    pub fn input<T: Serialize + ?Sized>(mut self, input: &T) -> Result<Init, CodecError> {
        let encoded = value::encode(input)?;
        if !encoded.channels.is_empty() {
            return Err(CodecError::new("the input of an init function holds no channels"));
        }
        self.input = encoded.bytes;
        Ok(self)
    }

    /// Its input as JSON, for an init function as its module describes it
    /// ([`ModuleDescription::inits`](crate::schema::ModuleDescription::inits)).
    ///
    /// # Errors
    /// [`SchemaError`] names the parameter and the place in it that does not fit.
    pub fn json_input(mut self, init: &TaskSchema, input: &serde_json::Value) -> Result<Init, SchemaError> {
        self.input = schema::encode_arguments(init, input)?.into();
        Ok(self)
    }

    /// What the function may use and is given, what module and snapshot may be, and what is demanded of the system's
    /// sandbox: a gateway's spec, of which directories and environment count for nothing. What it does not say is that of a
    /// gateway, but for three:
    ///
    /// * `timeout=` is 60 s, as for a pool's tasks;
    /// * clocks stand still and random numbers are the same each time: [`deterministic(0)`](Spec::deterministic), by which
    ///   equal input gives equal snapshots;
    /// * `output=` is 64 KiB at most, and the rest is dropped.
    #[must_use]
    pub fn spec(mut self, spec: Spec) -> Init {
        self.spec = spec;
        self
    }

    /// Where goes what the function prints, once it has ended; nothing is printed when there is a snapshot already. Default:
    /// the host's standard error, or the sink of the [group](crate::Group::preinitialize).
    #[must_use]
    pub fn output(mut self, sink: OutputSink) -> Init {
        self.output = Some(sink);
        self
    }

    /// The directory that keeps snapshots beside compiled modules, or `None` to keep them in memory alone. Default:
    /// `$SANDGATE_CACHE`, else `sandgate` in the user's cache directory. A group has its own.
    #[must_use]
    pub fn cache(mut self, directory: Option<PathBuf>) -> Init {
        self.cache = directory;
        self
    }

    /// How long the caller waits. Default: as long as it takes, which `compile-time=`, `timeout=` and 30 s for the snapshot
    /// bound, once those that asked before are served.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Init {
        self.timeout = Some(timeout);
        self
    }

    /// The snapshot, with these defaults where nothing else was said.
    pub(crate) fn preinitialize_for(
        &self,
        module: &Module,
        defaults: &Spec,
        store: &ArtefactStore,
        tenant: Option<&str>,
        sink: &OutputSink,
    ) -> Result<Module, InitError> {
        let ours = Spec::popen().deterministic(0).timeout(DEFAULT_TASK_WALL_TIME);
        let wanted = Wanted {
            module,
            init: self,
            spec: &self.spec.clone().or(defaults).or(&ours),
            deadline: self.timeout.map_or(Deadline::NEVER, Deadline::after),
            sink: self.output.as_ref().unwrap_or(sink),
        };
        wanted.check_size(module.bytes().len() as u64)?;
        // How much the cache may hold changes no snapshot.
        let cache_bytes = wanted.spec.module_limits().cache_bytes;
        let module_limits = ModuleLimits { cache_bytes: 0, ..wanted.spec.module_limits().clone() };
        let settings = (wanted.spec.limits(), module_limits, wanted.spec.taken_profile());
        let settings = postcard::to_allocvec(&(settings, &wanted.spec.grants().execution));
        let settings = settings.map_err(|error| InitError::Input(CodecError::new(error.to_string())))?;
        let key = Key::of_snapshot(module, &self.name, &self.input, &settings, tenant);
        let snapshot = store.snapshot(key, wanted.deadline, cache_bytes, || wanted.take())?;
        let snapshot = snapshot.ok_or_else(|| wanted.timed_out())?;
        let bytes = snapshot.read().map_err(|error| wanted.failed(CompileError::Memory(error)))?;
        Ok(Module::of(format!("{} after {}", module.name(), self.name), bytes.into()))
    }
}

impl Module {
    /// Runs an init function of this module once, and returns the module that it has become: every fresh instance of that
    /// begins where the function left off. See [`preinitialize_with`](Self::preinitialize_with), of which this is the one
    /// with the defaults.
    ///
    /// ```no_run
    /// # use sandgate::{Group, Module};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let module = Module::from_file("words.wasm")?.preinitialize("load", &("a list of words",))?;
    /// let group = Group::new(["popen"])?;
    /// let has = group[0].remote_exec_fn(&module, "has", &("list",))?.receive::<bool>()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`preinitialize_with`](Self::preinitialize_with), and [`InitError::Input`] if the input cannot be serialised.
    pub fn preinitialize<T: Serialize + ?Sized>(&self, init: &str, input: &T) -> Result<Module, InitError> {
        self.preinitialize_with(&Init::new(init).input(input).map_err(InitError::Input)?)
    }

    /// Runs an init function of this module once, and returns the module that it has become. Its memory and its mutable
    /// globals are as the function left them; it has the same tasks, the same `main` and the same description, and no
    /// constructor runs in it again.
    ///
    /// The function runs in a process of its own, locked in as a compiler or a worker is, which ends afterwards. It has no
    /// channel, no directory and no environment. Not in the snapshot is what is not in the module's memory: descriptors it
    /// has open, and what it has read of a clock is what it has read. Random numbers that it drew are the same in every
    /// instance, and no secret.
    ///
    /// A snapshot is kept as compiled modules are, by the module's hash, the function's name, its input, and the limits and
    /// grants. One that is there is returned without a process. It is compiled when it is first executed.
    ///
    /// Blocks until the function has ended: for `compile-time=`, `timeout=` and 30 s at most, after waiting for a place, of
    /// which there are as many as processors. Many modules can be asked for at once, and one at once by many.
    ///
    /// # Errors
    /// [`InitError`]; nothing is kept then, and the next call tries again.
    pub fn preinitialize_with(&self, init: &Init) -> Result<Module, InitError> {
        let store = ArtefactStore::shared(init.cache.clone(), None);
        init.preinitialize_for(self, &Spec::popen(), &store, None, &OutputSink::default())
    }
}

/// Initializers under way in this process. They have places of their own: one may run for long, and compilers do not wait
/// for it.
static PLACES: Places = Places::new();

/// A snapshot that somebody asks for.
struct Wanted<'a> {
    module: &'a Module,
    init: &'a Init,
    spec: &'a Spec,
    deadline: Deadline,
    sink: &'a OutputSink,
}

/// What an initializer says.
#[derive(Debug, PartialEq)]
enum Said {
    Printed(Stream, Vec<u8>, bool),
    Stands(Initialized),
}

/// What its guest has printed.
type Printed = Vec<(Stream, Vec<u8>, bool)>;

impl Wanted<'_> {
    fn check_size(&self, found: u64) -> Result<(), InitError> {
        let (limit, value) = (ModuleLimitName::ModuleBytes, self.spec.module_limits().module_bytes);
        if found > value {
            return Err(self.rejected(Rejection::ModuleLimit { limit, found, value, item: String::new() }));
        }
        Ok(())
    }

    /// Has the snapshot taken.
    fn take(&self) -> Result<Artefact, InitError> {
        let _place = PLACES.take(self.deadline).ok_or_else(|| self.timed_out())?;
        let output = memory("sandgate-snapshot").map_err(|error| self.failed(CompileError::Memory(error)))?;
        let mut printed = Printed::new();
        let errand = self.send(&output).map_err(|error| self.failed(error))?;
        let result = self.hear(errand, &output, &mut printed);
        let most = self.spec.limits().output_bytes.min(OUTPUT_WINDOW_BYTES);
        self.sink.put_all(&self.init.name, &printed, most);
        result
    }

    fn send(&self, output: &OwnedFd) -> Result<Errand, CompileError> {
        let &Wanted { module, init, spec, .. } = self;
        let grants = spec.grants().execution.clone();
        let given = sealed_memory("sandgate-init", &[module.bytes(), &init.input])?;
        let theirs = output.try_clone().map_err(CompileError::Memory)?;
        let request = ToWorker::Initialize(Initialize {
            module: module.id(),
            bytes: module.bytes().len() as u64,
            input_bytes: init.input.len() as u64,
            init: init.name.clone(),
            codegen: Codegen::of(spec.limits(), &grants, true),
            limits: spec.limits().clone(),
            grants,
            module_limits: spec.module_limits().clone(),
            profile: spec.taken_profile(),
            policy: spec.policy().clone(),
        });
        Errand::send(INITIALIZER, spec.worker_path(), &request, vec![given, theirs])
    }

    /// Hears an initializer out.
    fn hear(&self, mut errand: Errand, output: &OwnedFd, printed: &mut Printed) -> Result<Artefact, InitError> {
        let compile_time = self.spec.module_limits().compile_time;
        let (mut is_compiled, mut limit) = (false, Deadline::after(compile_time));
        loop {
            let answer = errand.answer(limit.sooner(self.deadline), |frame| understand(frame, is_compiled));
            let Some(answer) = answer.map_err(|error| self.failed(error))? else {
                errand.kill();
                return Err(self.too_late(is_compiled));
            };
            match answer {
                Ok(Said::Printed(stream, bytes, truncated)) => {
                    let before: usize = printed.iter().map(|(_, bytes, _)| bytes.len()).sum();
                    if (before + bytes.len()) as u64 <= OUTPUT_WINDOW_BYTES && printed.len() < MAX_PIECES {
                        printed.push((stream, bytes, truncated));
                        continue;
                    }
                    errand.kill();
                    let wrong = Err(Some("its guest prints more than it may".to_owned()));
                    return self.conclude(&errand, wrong, is_compiled, output);
                }
                Ok(Said::Stands(Initialized::Compiled)) => {
                    is_compiled = true;
                    let time = self.spec.limits().wall_time.map(|time| time.saturating_add(SNAPSHOT_PATIENCE));
                    limit = time.map_or(Deadline::NEVER, Deadline::after);
                }
                Ok(Said::Stands(last)) => return self.conclude(&errand, Ok(last), is_compiled, output),
                Err(wrong) => return self.conclude(&errand, Err(wrong), is_compiled, output),
            }
        }
    }

    /// The last has been heard of it.
    fn conclude(
        &self,
        errand: &Errand,
        last: Understood<Initialized>,
        is_compiled: bool,
        output: &OwnedFd,
    ) -> Result<Artefact, InitError> {
        // Only when it is gone can nobody write the snapshot any more.
        match errand.end(last) {
            Ok(Initialized::Done { bytes }) => {
                let memory = |error| self.failed(CompileError::Memory(error));
                let snapshot = Artefact::seal(output.try_clone().map_err(memory)?).map_err(memory)?;
                if bytes != snapshot.bytes() || bytes == 0 {
                    return Err(self.failed(errand.wrote(bytes, snapshot.bytes())));
                }
                self.check_size(bytes)?;
                Ok(snapshot)
            }
            Ok(Initialized::Rejected(reason)) => Err(self.rejected(reason)),
            Ok(Initialized::Ended(outcome)) => Err(self.ended(outcome)),
            // Not its last word, so not here.
            Ok(Initialized::Compiled) => Err(self.failed(errand.wrote(0, 0))),
            Err(CompileError::Lost(loss)) => Err(match (&loss.cause, is_compiled) {
                (LossCause::Signaled { signal: SIGXCPU }, true) => self.too_late(true),
                (_, false) | (LossCause::Signaled { .. } | LossCause::Exited { .. }, true) => {
                    match compile::blame(&loss, self.spec.module_limits(), is_compiled) {
                        Some(reason) => {
                            tracing::warn!("module `{}` ended its initializer: {loss}", self.module.name());
                            self.rejected(reason)
                        }
                        None => self.failed(CompileError::Lost(loss)),
                    }
                }
                _ => self.failed(CompileError::Lost(loss)),
            }),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn too_late(&self, is_compiled: bool) -> InitError {
        if self.deadline.left().is_some_and(|left| left.is_zero()) {
            return self.timed_out();
        }
        if is_compiled {
            return self.ended(Outcome::TimedOut { after: self.spec.limits().wall_time.unwrap_or_default() });
        }
        self.rejected(compile::over(ModuleLimitName::CompileTime, self.spec.module_limits()))
    }

    fn timed_out(&self) -> InitError {
        InitError::Timeout { module: self.module.name().to_owned(), after: self.deadline.timeout() }
    }

    fn rejected(&self, reason: Rejection) -> InitError {
        InitError::Rejected { module: self.module.name().to_owned(), reason }
    }

    fn ended(&self, outcome: Outcome) -> InitError {
        let (module, init) = (self.module.name().to_owned(), self.init.name.clone());
        InitError::Ended { module, init, outcome: Box::new(outcome) }
    }

    fn failed(&self, source: CompileError) -> InitError {
        InitError::Process { module: self.module.name().to_owned(), source }
    }
}

/// Most pieces that what a guest prints can come in: each line is one.
const MAX_PIECES: usize = 1 << 17;

fn understand(frame: Frame<'_>, is_compiled: bool) -> Understood<Said> {
    match ToHost::decode(frame) {
        Ok(ToHost::Output(_, output)) if is_compiled => {
            Ok(Said::Printed(output.stream, output.bytes.to_vec(), output.truncated))
        }
        Ok(ToHost::Initialized(initialized)) => {
            let initialized = vetting::initialized(initialized).map_err(Some)?;
            let fits = match &initialized {
                Initialized::Compiled => !is_compiled,
                Initialized::Done { .. } | Initialized::Ended(_) => is_compiled,
                Initialized::Rejected(_) => true,
            };
            if fits { Ok(Said::Stands(initialized)) } else { Err(Some("it says things out of order".to_owned())) }
        }
        Ok(_) => Err(Some("it did not answer what it was asked".to_owned())),
        Err(error) => Err(Some(error.to_string())),
    }
}

#[cfg(test)]
#[path = "tests/init.rs"]
mod tests;
