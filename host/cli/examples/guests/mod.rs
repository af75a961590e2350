//! Finds the guests that the examples run. `cargo xtask guests` builds them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sandgate::Module;

/// The module of the guest `name`.
pub(crate) fn module(name: &str) -> Result<Module> {
    let path = directory().join(name).with_extension("wasm");
    Module::from_file(path).context("guests are built by `cargo xtask guests`; SANDGATE_GUESTS names another directory")
}

fn directory() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/wasm32-wasip1/release");
    std::env::var_os("SANDGATE_GUESTS").map_or_else(built, PathBuf::from)
}
