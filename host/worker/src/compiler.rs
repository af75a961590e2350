//! Turns one module into an artefact. As a process of its own it reads one COMPILE, answers it, and is done.
//!
//! 1. The module's size and digest are checked.
//! 2. What is no core module is refused, with a word on what it seems to be. Nothing is ever deserialised here.
//! 3. The module is validated against the one set of features, and its imports are compared with what workers offer.
//! 4. Cranelift compiles it. If that brings the process down, the host reports it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sandgate_wire::ModuleId;
use sandgate_wire::frame::FrameReader;
use sandgate_wire::message::{Codegen, Compile, Compiled};
use sandgate_wire::module_limits::Shape;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::transport::{ReceiveHalf, SendHalf};
use sandgate_wire::{Outbox, ToHost, ToWorker};
use sha2::{Digest, Sha256};
use wasmparser::{Encoding, FuncType, Parser, Payload, TypeRef, ValType};
use wasmtime::{Engine, Module};

use crate::process::Surroundings;
use crate::worker::WorkerError;
use crate::{ending, engine, imports};

/// A module's native code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compilation {
    /// The engine that it is for, as in a worker's hello.
    pub engine: String,
    /// The artefact.
    pub artefact: Vec<u8>,
}

/// Compiles a module to interruptible code, by the default limits and the minimal profile.
///
/// # Errors
/// The reason why no worker would run it.
///
/// # Panics
/// See [`compile_with`].
pub fn compile(module: &[u8]) -> Result<Compilation, Rejection> {
    compile_with(module, Codegen::default())
}

/// Compiles a module.
///
/// # Errors
/// The reason why no worker would run it.
///
/// # Panics
/// Cranelift may; a module can do that on purpose. Run it in a process that can be lost.
pub fn compile_with(module: &[u8], codegen: Codegen) -> Result<Compilation, Rejection> {
    let failed = |error: wasmtime::Error| Rejection::Compilation { message: ending::engine_text(&error) };
    check_kind(module)?;
    let engine = engine::for_compiler(codegen).map_err(failed)?;
    Module::validate(&engine, module)
        .map_err(|error| Rejection::InvalidModule { message: ending::engine_text(&error) })?;
    check_imports(module)?;
    Ok(Compilation {
        engine: engine::compatibility(&engine::for_compiler(Codegen::default()).map_err(failed)?),
        artefact: engine.precompile_module(module).map_err(failed)?,
    })
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
    // The module is not looked at before.
    if let Some(enclosure) = enclosure {
        enclosure.seal_or_refuse()?;
    }
    let compiled = answer(&request, &File::from(module), &File::from(artefact))?;
    let _ = outbox.push(ToHost::Compiled(compiled).encode());
    outbox.flush();
    outbox.shutdown();
    let _ = writer.join();
    Ok(())
}

fn answer(request: &Compile, module: &File, artefact: &File) -> Result<Compiled, WorkerError> {
    let system = |what| move |source| WorkerError::System { what, source };
    let module = read(module, request).map_err(system("read the module"))?;
    let compiled = module.and_then(|module| compile_with(&module, request.codegen));
    match compiled {
        Ok(Compilation { engine, artefact: bytes }) => {
            artefact.write_all_at(&bytes, 0).map_err(system("write the artefact"))?;
            let bytes = bytes.len() as u64;
            Ok(Compiled::Done { engine, bytes, shape: Shape::default() })
        }
        Err(rejection) => Ok(Compiled::Rejected(rejection)),
    }
}

fn read(file: &File, request: &Compile) -> io::Result<Result<Vec<u8>, Rejection>> {
    let found = file.metadata()?.len();
    if found != request.bytes {
        let announced = request.bytes;
        return Ok(invalid(format!("module has {found} bytes instead of {announced}")));
    }
    let size = usize::try_from(found).map_err(io::Error::other)?;
    let mut module = vec![0; size];
    file.read_exact_at(&mut module, 0)?;
    if ModuleId(Sha256::digest(&module).into()) != request.module {
        return Ok(invalid("module does not have the digest it is called by".to_owned()));
    }
    Ok(Ok(module))
}

fn invalid<T>(message: String) -> Result<T, Rejection> {
    Err(Rejection::InvalidModule { message })
}

/// Refuses everything that does not begin as a core module does.
fn check_kind(bytes: &[u8]) -> Result<(), Rejection> {
    if let Some(rest) = bytes.strip_prefix(b"\0asm") {
        return match rest {
            [1, 0, 0, 0, ..] => Ok(()),
            [_, _, 1, 0, ..] => {
                invalid("this is a component; sandgate runs core modules: build for `wasm32-wasip1`".to_owned())
            }
            _ => invalid("unknown version of WebAssembly".to_owned()),
        };
    }
    let what = if bytes.is_empty() {
        "an empty file"
    } else if Engine::detect_precompiled(bytes).is_some() {
        "compiled native code, which is never taken from outside"
    } else if bytes.starts_with(b"\x7fELF") {
        "an ELF file"
    } else if bytes.trim_ascii_start().starts_with(b"(") {
        "WebAssembly text; translate it to binary first"
    } else {
        "no WebAssembly"
    };
    invalid(format!("this is {what}"))
}

/// Compares imports with what workers offer, by name and by type. The module is valid.
fn check_imports(module: &[u8]) -> Result<(), Rejection> {
    let mut types = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.or_else(|error| invalid(error.to_string()))?;
        match payload {
            Payload::Version { encoding, .. } if encoding != Encoding::Module => {
                return invalid("this is no core module".to_owned());
            }
            Payload::TypeSection(section) => {
                types = section
                    .into_iter_err_on_gc_types()
                    .collect::<Result<Vec<_>, _>>()
                    .or_else(|error| invalid(error.to_string()))?;
            }
            Payload::ImportSection(section) => {
                let mut checked = HashMap::new();
                for import in section.into_imports() {
                    let import = import.or_else(|error| invalid(error.to_string()))?;
                    if let Some(ty) = checked.insert((import.module, import.name), import.ty)
                        && ty == import.ty
                    {
                        continue;
                    }
                    check_import(import.module, import.name, import.ty, &types)?;
                }
            }
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

fn check_import(module: &str, name: &str, import: TypeRef, types: &[FuncType]) -> Result<(), Rejection> {
    let Some((parameters, results)) = imports::signature(module, name) else {
        return Err(imports::unknown(module, name));
    };
    let found = match import {
        TypeRef::Func(index) => usize::try_from(index).ok().and_then(|index| types.get(index)),
        _ => None,
    };
    let fits = found.is_some_and(|ty| letters(ty.params()) == parameters && letters(ty.results()) == results);
    if fits {
        return Ok(());
    }
    let import = ending::capped(&format!("{module}::{name}"), 256);
    invalid(format!("import `{import}` is of another type than what workers offer"))
}

/// A list of types as the tables of imports write it.
fn letters(types: &[ValType]) -> String {
    types
        .iter()
        .map(|ty| match ty {
            ValType::I32 => 'i',
            ValType::I64 => 'I',
            _ => '?',
        })
        .collect()
}
