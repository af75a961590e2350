//! CPython 3.12 for `wasm32-wasip1`, a real program of 26 MB.

use std::path::PathBuf;

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
}
