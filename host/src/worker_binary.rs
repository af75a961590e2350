//! Finds the executable that becomes a worker.

use std::path::{Path, PathBuf};

use sandgate_wire::launch::{SHIPPED_BINARY, WORKER_VARIABLE, current_executable_is_worker};

use crate::error::LaunchError;

/// In this order: what the caller names, what the environment names, this very executable if it said that it can be a
/// worker, the shipped command on the search path.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, LaunchError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if let Some(named) = std::env::var_os(WORKER_VARIABLE) {
        return Ok(named.into());
    }
    if current_executable_is_worker() {
        // Also right when the file was replaced or removed since this process started.
        return Ok(PathBuf::from("/proc/self/exe")).and_then(resolve_own);
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let shipped = std::env::split_paths(&paths).map(|directory| directory.join(SHIPPED_BINARY));
    shipped.into_iter().find(|path| path.is_file()).ok_or(LaunchError::NoWorker)
}

fn resolve_own(own: PathBuf) -> Result<PathBuf, LaunchError> {
    if own.exists() {
        return Ok(own);
    }
    std::env::current_exe().map_err(LaunchError::Resources)
}
