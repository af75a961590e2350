//! What our side is measured with: the guests' modules and groups of gateways.
//!
//! Compiled modules are kept in memory alone. So a module is compiled once in a run, before the clock of its row starts,
//! and no cache of an earlier run is mixed in.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sandgate::{Group, GroupBuilder, Module};
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Fixtures {
    guests: PathBuf,
    scratch: TempDir,
    cpython: OnceCell<Module>,
}

impl Fixtures {
    pub(crate) fn from_environment() -> Result<Fixtures> {
        for variable in ["SANDGATE_GUESTS", "SANDGATE_WORKER"] {
            let path = variable_of_xtask(variable)?;
            anyhow::ensure!(path.exists(), "{variable} is `{}`, and nothing is there", path.display());
        }
        let guests = variable_of_xtask("SANDGATE_GUESTS")?;
        Ok(Fixtures { guests, scratch: tempfile::tempdir()?, cpython: OnceCell::new() })
    }

    /// The module of the guest `name`.
    pub(crate) fn module(&self, name: &str) -> Result<Module> {
        Ok(Module::from_file(self.guests.join(name).with_extension("wasm"))?)
    }

    /// CPython, if there is one.
    pub(crate) fn cpython(&self) -> Result<Module> {
        if let Some(module) = self.cpython.get() {
            return Ok(module.clone());
        }
        let module = Module::from_file(crate::interpreter::cpython()?)?;
        Ok(self.cpython.get_or_init(|| module).clone())
    }

    /// A directory that is deleted in the end.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The start of a group.
    #[expect(clippy::unused_self, reason = "whoever has fixtures has a worker")]
    pub(crate) fn builder(&self) -> GroupBuilder {
        Group::builder().cache(None)
    }

    /// A new group of so many gateways.
    pub(crate) fn group(&self, gateways: usize) -> Result<Group> {
        let group = self.builder().build();
        group.make_gateways(vec!["popen"; gateways])?;
        Ok(group)
    }
}

/// The value of a variable that `cargo xtask bench` sets.
pub(crate) fn variable_of_xtask(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    Ok(value.with_context(|| format!("{name} is not set; run `cargo xtask bench`, which sets it"))?.into())
}
