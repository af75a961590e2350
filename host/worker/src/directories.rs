//! The directories that guests are given: opened once, before the process gives up its rights, and then shared by all
//! executions.
//!
//! What a guest reaches from there is for wasmtime-wasi and cap-std to say, which resolve each path component by component
//! beneath the directory: never `..` out of it, never an absolute path, never through a symbolic link that leaves it.
//! Read-only directories refuse every change. The kernel's Landlock stands behind both.

use std::io;
use std::path::PathBuf;

use sandgate_wire::grants::Grants;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiView};

/// A directory that was granted and cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("directory `{guest}` cannot be given to guests: `{host}` does not open")]
pub(crate) struct DirectoryError {
    guest: String,
    host: PathBuf,
    #[source]
    source: io::Error,
}

/// Directories that are open.
#[derive(Clone, Default)]
pub(crate) struct Directories {
    opened: Option<WasiFilesystemCtx>,
}

/// Opens all that is granted. To be called before the lock-down.
///
/// # Errors
/// The first directory that does not open.
pub(crate) fn open(grants: &Grants) -> Result<Directories, DirectoryError> {
    if grants.directories.is_empty() {
        return Ok(Directories::default());
    }
    let mut builder = WasiCtxBuilder::new();
    // Every operation is done at once, on the guest's own thread: no runtime and no other threads.
    builder.allow_blocking_current_thread(true);
    for directory in &grants.directories {
        let permissions = if directory.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        builder.preopened_dir(&directory.host, &directory.guest, permissions).map_err(|error| DirectoryError {
            guest: directory.guest.clone(),
            host: directory.host.clone(),
            source: error.downcast().unwrap_or_else(io::Error::other),
        })?;
    }
    Ok(Directories { opened: Some(builder.build().filesystem().clone()) })
}

impl Directories {
    pub(crate) fn is_empty(&self) -> bool {
        self.opened.is_none()
    }

    /// Gives them to a guest.
    pub(crate) fn give(&self, wasi: &mut WasiP1Ctx) {
        if let Some(opened) = &self.opened {
            *wasi.ctx().ctx.filesystem() = opened.clone();
        }
    }
}
