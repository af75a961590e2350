//! Finds the executable that becomes a worker.

use std::path::{Path, PathBuf};

use sandgate_wire::launch::{SHIPPED_BINARY, WORKER_VARIABLE, current_executable_is_worker};

use crate::error::LaunchError;

/// In this order: what the caller names, what the environment names, this very executable if it said that it can be a
/// worker, the shipped command on the search path.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, LaunchError> {
    let named = named.map(ToOwned::to_owned).or_else(|| std::env::var_os(WORKER_VARIABLE).map(PathBuf::from));
    if let Some(named) = named {
        // Relative to where the host is now, whatever directory the worker is to start in.
        return if named.components().count() == 1 && !named.exists() {
            on_search_path(&named)
        } else {
            std::path::absolute(&named).map_err(LaunchError::Resources)
        };
    }
    if current_executable_is_worker() {
        // Also right when the file was replaced or removed since this process started.
        let own = PathBuf::from("/proc/self/exe");
        return if own.exists() { Ok(own) } else { std::env::current_exe().map_err(LaunchError::Resources) };
    }
    on_search_path(Path::new(SHIPPED_BINARY))
}

/// The executable that can be an agent on another machine, in the same order; this very one only if it said that it can be
/// an agent too.
pub(crate) fn find_agent() -> Result<PathBuf, LaunchError> {
    let is_named = std::env::var_os(WORKER_VARIABLE).is_some();
    if is_named || crate::agent::current_executable_is_agent() {
        return find(None);
    }
    on_search_path(Path::new(SHIPPED_BINARY))
}

fn on_search_path(name: &Path) -> Result<PathBuf, LaunchError> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // An empty entry means the current directory, which is no place to look for something to execute.
    let mut directories = std::env::split_paths(&paths).filter(|directory| directory.is_absolute());
    let found = directories.find_map(|directory| {
        let path = directory.join(name);
        path.is_file().then_some(path)
    });
    found.ok_or(LaunchError::NoWorker)
}
