//! Programs for `wasm32-wasip1` that others wrote and compiled.

use std::path::PathBuf;

/// What a variable is set to on a machine that cannot have the program.
const NONE: &str = "none";

/// As [`foreign`], for a program that has to be there: only where its variable is `none` may its test be left out.
///
/// # Panics
///
/// When the variable names no module, so that nobody takes a test that ran nothing for one that passed.
pub fn required(name: &str) -> Option<PathBuf> {
    let variable = format!("SANDGATE_{name}");
    let path = foreign(name);
    assert!(
        path.is_some() || std::env::var_os(&variable).is_some_and(|value| value == NONE),
        "{variable} names no module: `cargo xtask test` fetches it; where that cannot be, say so with {variable}={NONE}"
    );
    path
}

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
