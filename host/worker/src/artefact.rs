//! Maps a compiled module. The only unsafe code of the worker, and nothing else.
#![expect(unsafe_code, reason = "loading native code is what this module is for")]

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use wasmtime::{Engine, Module};

/// What makes a memory file unchangeable for good.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why an artefact was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtefactError {
    #[error("artefact could still be changed: it is no sealed memory file")]
    NotSealed,
    #[error("artefact has {found} bytes instead of {announced}")]
    Size { announced: u64, found: u64 },
    #[error("artefact is of another engine")]
    Engine(#[source] wasmtime::Error),
}

/// Loads a module from the sealed memory file that the host sent.
///
/// # Errors
/// See [`ArtefactError`].
pub(crate) fn load(engine: &Engine, artefact: OwnedFd, announced: u64) -> Result<Module, ArtefactError> {
    // A file that has no seals gives an error here, which is the same answer.
    let seals = fcntl_get_seals(&artefact).unwrap_or(SealFlags::empty());
    if !seals.contains(SEALS) {
        return Err(ArtefactError::NotSealed);
    }
    let found = fstat(&artefact).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
    if found != announced {
        return Err(ArtefactError::Size { announced, found });
    }
    // SAFETY: `deserialize_open_file` asks for two things.
    // 1. The bytes were made by wasmtime, for they are native code. The descriptor comes from the host, over a connection
    //    that nobody else holds, and the host passes on only what its own compiler process made from the module of this
    //    id for an engine with this compatibility hash. A compiler that was taken over by its module can break this for
    //    that module alone, and what it gains is native code in this process, which the module's own execution is to be
    //    confined in anyway.
    // 2. The file does not change while it is mapped: F_SEAL_WRITE, F_SEAL_SHRINK and F_SEAL_GROW are set, F_SEAL_SEAL
    //    keeps them, all four were checked above, and a seal cannot be taken off.
    unsafe { Module::deserialize_open_file(engine, File::from(artefact)) }.map_err(ArtefactError::Engine)
}
