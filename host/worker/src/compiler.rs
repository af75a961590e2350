//! Turns one module into an artefact. As a process of its own it reads one COMPILE, answers it, and is done.
//!
//! 1. The module's size and digest are checked.
//! 2. Its [`preflight`]: what is no core module, over a limit, or beyond the profile is refused. Nothing is ever
//!    deserialised here.
//! 3. Operations on much memory are made interruptible ([`bulk`]).
//! 4. Cranelift compiles it. If that brings the process down, the host reports it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rustix::io::Errno;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::message::{Codegen, Compile, Compiled};
use sandgate_wire::module_limits::{ModuleLimitName, Shape};
use sandgate_wire::outcome::Rejection;
use sandgate_wire::transport::{ReceiveHalf, SendHalf};
use sandgate_wire::{ModuleId, ModuleLimits, Outbox, Profile, ToHost, ToWorker};
use sha2::{Digest, Sha256};

use crate::preflight::{self, Checked};
use crate::process::{Surroundings, exit_code};
use crate::worker::WorkerError;
use crate::{bulk, describe, ending, engine};

/// Stack of the thread that compiles. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

/// A module's native code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compilation {
    /// The engine that it is for, as in a worker's hello.
    pub engine: String,
    /// The artefact.
    pub artefact: Vec<u8>,
    /// What the module turned out to be.
    pub shape: Shape,
    /// What it says of itself, encoded.
    pub description: Vec<u8>,
}

/// Compiles a module to interruptible code, by the default limits and the minimal profile.
///
/// # Errors
/// See [`compile_within`].
///
/// # Panics
/// See [`compile_within`].
pub fn compile(module: &[u8]) -> Result<Compilation, Rejection> {
    compile_with(module, Codegen::default())
}

/// Compiles a module in this way, by the default limits and the minimal profile.
///
/// # Errors
/// See [`compile_within`].
///
/// # Panics
/// See [`compile_within`].
pub fn compile_with(module: &[u8], codegen: Codegen) -> Result<Compilation, Rejection> {
    compile_within(module, codegen, &ModuleLimits::default(), Profile::MINIMAL)
}

/// Compiles a module. What the compilation itself may cost is for the process around it to see to.
///
/// # Errors
/// The reason why no worker would run it.
///
/// # Panics
/// Cranelift may; a module can do that on purpose. Run it in a process that can be lost.
pub fn compile_within(
    module: &[u8],
    codegen: Codegen,
    limits: &ModuleLimits,
    profile: Profile,
) -> Result<Compilation, Rejection> {
    let failed = |error: wasmtime::Error| failed(&error, limits);
    let Checked { shape, bulk_bodies } = preflight::check(module, limits, profile)?;
    let description =
        describe::describe(module).map_err(|error| Rejection::InvalidModule { message: error.to_string() })?;
    // Code without checks is not interrupted anywhere.
    let bulk_bodies = if codegen == Codegen::Unchecked { &[] } else { &bulk_bodies[..] };
    let rewritten =
        bulk::rewrite(module, bulk_bodies).map_err(|error| Rejection::Compilation { message: error.to_string() })?;
    let default = engine::for_compiler(Codegen::default()).map_err(failed)?;
    let engine = engine::for_compiler(codegen).map_err(failed)?;
    let artefact = engine.precompile_module(&rewritten).map_err(failed)?;
    Ok(Compilation { engine: engine::compatibility(&default), artefact, shape, description })
}

/// What an error of the engine's says about the module.
pub(crate) fn failed(error: &wasmtime::Error, limits: &ModuleLimits) -> Rejection {
    let is_out_of_memory = error.chain().any(|cause| {
        let system = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let rustix = cause.downcast_ref::<Errno>().copied();
        system == Some(Errno::NOMEM.raw_os_error()) || rustix == Some(Errno::NOMEM)
    });
    if is_out_of_memory {
        let value = limits.compile_memory_bytes;
        return Rejection::ModuleLimit { limit: ModuleLimitName::CompileMemory, found: 0, value, item: String::new() };
    }
    Rejection::Compilation { message: ending::engine_text(error) }
}

/// The compiler process over the two halves of a transport.
pub(crate) fn run(
    send: Box<dyn SendHalf>,
    receive: Box<dyn ReceiveHalf>,
    surroundings: Option<&Surroundings>,
) -> Result<(), WorkerError> {
    let mut reader = FrameReader::new(receive);
    let request = match reader.read_frame()?.map(ToWorker::decode).transpose()? {
        Some(ToWorker::Compile(request)) => request,
        _ => return Err(WorkerError::NoHello(None)),
    };
    let (Some(module), Some(artefact)) = (reader.take_descriptor(), reader.take_descriptor()) else {
        return Err(WorkerError::NoHello(None));
    };
    let open = [module.as_raw_fd(), artefact.as_raw_fd()];
    let enclosure = surroundings.map(|it| it.enclose_compiler(&request, &open)).transpose()?;
    let outbox = Arc::new(Outbox::new(send));
    let outbox_of_thread = Arc::clone(&outbox);
    let writer = std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || outbox_of_thread.run_writer())
        .map_err(|source| WorkerError::System { what: "start a thread", source })?;
    tell_out_of_memory(request.limits.compile_memory_bytes);
    // All threads are there before the last wall is, and the module is not looked at until it is.
    let (sealed, is_sealed) = mpsc::channel();
    let compiling = on_large_stack(move || {
        let () = is_sealed.recv().ok()?;
        Some(answer(&request, &File::from(module), &File::from(artefact)))
    })?;
    if let Some(enclosure) = enclosure {
        let _ = enclosure.seal_or_refuse()?;
    }
    let panicked = || WorkerError::System { what: "compile", source: io::Error::other("it panicked") };
    sealed.send(()).map_err(|_| panicked())?;
    // A panic has ended the process before.
    let compiled = compiling.join().ok().flatten().ok_or_else(panicked)??;
    let _ = outbox.push(ToHost::Compiled(compiled).encode());
    outbox.flush();
    outbox.shutdown();
    let _ = writer.join();
    Ok(())
}

/// Cranelift and the engine panic when some of their allocations fail. What is left tells such a panic from a bug.
pub(crate) fn tell_out_of_memory(limit: u64) {
    let other = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let much = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        if Vec::<u8>::new().try_reserve_exact(much).is_err() {
            crate::quit::quit(exit_code::OUT_OF_MEMORY);
        }
        other(panic);
    }));
}

/// Runs the compiler where its recursion over deeply nested code has room.
pub(crate) fn on_large_stack<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, WorkerError> {
    let thread = std::thread::Builder::new().name("compile".to_owned()).stack_size(STACK_BYTES).spawn(body);
    thread.map_err(|source| WorkerError::System { what: "start a thread", source })
}

fn answer(request: &Compile, module: &File, artefact: &File) -> Result<Compiled, WorkerError> {
    let system = |what| move |source| WorkerError::System { what, source };
    let module = read(module, request.module, request.bytes, 0).map_err(system("read the module"))?;
    let compiled = module.and_then(|module| compile_within(&module, request.codegen, &request.limits, request.profile));
    match compiled {
        Ok(Compilation { engine, artefact: bytes, shape, description }) => {
            artefact.write_all_at(&bytes, 0).map_err(system("write the artefact"))?;
            let bytes = bytes.len() as u64;
            Ok(Compiled::Done { engine, bytes, shape, description })
        }
        Err(rejection) => Ok(Compiled::Rejected(rejection)),
    }
}

/// The module, which stands at the beginning of a file, before so many bytes of something else.
pub(crate) fn read(
    file: &File,
    module_id: ModuleId,
    announced: u64,
    more: u64,
) -> io::Result<Result<Vec<u8>, Rejection>> {
    let found = file.metadata()?.len().saturating_sub(more);
    if found != announced {
        return Ok(invalid(format!("module has {found} bytes instead of {announced}")));
    }
    let size = usize::try_from(found).map_err(io::Error::other)?;
    let mut module = vec![0; size];
    file.read_exact_at(&mut module, 0)?;
    if ModuleId(Sha256::digest(&module).into()) != module_id {
        return Ok(invalid("module does not have the digest it is called by".to_owned()));
    }
    Ok(Ok(module))
}

fn invalid<T>(message: String) -> Result<T, Rejection> {
    Err(Rejection::InvalidModule { message })
}
