//! CPython 3.12 for `wasm32-wasip1`, a real program of 26 MB.

use std::path::PathBuf;

<<<<<<< HEAD
use crate::fixtures::repository;

/// Names the module of CPython.
const VARIABLE: &str = "SANDGATE_CPYTHON";

/// The path of the module: what `$SANDGATE_CPYTHON` names, else what `cargo xtask test` has fetched. `None`, with a word on how to
/// get it, if there is none: then the test that needs it is left out.
pub fn cpython() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let path = named.unwrap_or_else(|| target().join("cpython/python-3.12.0.wasm"));
    if path.is_file() {
        return Some(path);
    }
    eprintln!("left out: no `{}`; `cargo xtask test` fetches it with pip, or name it in {VARIABLE}", path.display());
    None
}

fn target() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| repository().join("target"))
=======
/// Names the module of CPython.
const VARIABLE: &str = "SANDGATE_CPYTHON";

/// The path of the module. `None`, with a word on how to get it, if there is none: then the test that needs it is left out.
#[expect(clippy::print_stderr, reason = "who reads a test's output is to see that it ran nothing")]
pub fn cpython() -> Option<PathBuf> {
    let path = std::env::var_os(VARIABLE).map(PathBuf::from).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("left out: {VARIABLE} names no module; `cargo xtask test` fetches it with pip");
    }
    path
>>>>>>> 6191b23 (compiler: tuned limits, memory that runs out, end-to-end tests and CPython)
}
