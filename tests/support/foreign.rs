//! Programs for `wasm32-wasip1` that others wrote and compiled.

use std::path::PathBuf;

/// The path of a program's module, which the variable `SANDGATE_NAME` has. `None`, with a word on how to get it, if there is
/// none: then the test that needs it is left out.
#[expect(clippy::print_stderr, reason = "who reads a test's output is to see that it ran nothing")]
pub fn foreign(name: &str) -> Option<PathBuf> {
    let variable = format!("SANDGATE_{name}");
    let path = std::env::var_os(&variable).map(PathBuf::from).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("left out: {variable} names no module; `cargo xtask test` fetches it");
    }
    path
}
