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
        let own = PathBuf::from("/proc/self/exe");
        return if own.exists() { Ok(own) } else { std::env::current_exe().map_err(LaunchError::Resources) };
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // An empty entry means the current directory, which is no place to look for something to execute.
    let mut directories = std::env::split_paths(&paths).filter(|directory| directory.is_absolute());
    let shipped = directories.find_map(|directory| {
        let path = directory.join(SHIPPED_BINARY);
        path.is_file().then_some(path)
    });
    shipped.ok_or(LaunchError::NoWorker)
}
