//! What our side is measured with: the guests' modules and groups of gateways.
//!
//! Compiled modules are kept in memory alone. So a module is compiled once in a run, before the clock of its row starts,
//! and no cache of an earlier run is mixed in.

use std::path::PathBuf;

use anyhow::{Context, Result};
use sandgate::{Group, GroupBuilder, Module};

#[derive(Debug)]
pub(crate) struct Fixtures {
    guests: PathBuf,
}

impl Fixtures {
    pub(crate) fn from_environment() -> Result<Fixtures> {
        for variable in ["SANDGATE_GUESTS", "SANDGATE_WORKER"] {
            let path = variable_of_xtask(variable)?;
            anyhow::ensure!(path.exists(), "{variable} is `{}`, and nothing is there", path.display());
        }
        Ok(Fixtures { guests: variable_of_xtask("SANDGATE_GUESTS")? })
    }

    /// The module of the guest `name`.
    pub(crate) fn module(&self, name: &str) -> Result<Module> {
        Ok(Module::from_file(self.guests.join(name).with_extension("wasm"))?)
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
