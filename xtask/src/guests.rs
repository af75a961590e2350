//! Builds the guests. Which compiler does it is for [`toolchain`] to say.

use std::path::PathBuf;

use anyhow::Result;

use crate::toolchain::{self, TARGET, Toolchain};
use crate::workspace::Workspace;

/// Guests that are built.
#[derive(Debug)]
pub(crate) struct Guests {
    /// The directory of the `.wasm` files.
    pub(crate) dir: PathBuf,
    /// What built them.
    pub(crate) toolchain: Toolchain,
    /// The variables that name the programs of others, as many as could be fetched.
    pub(crate) foreign: Vec<(&'static str, PathBuf)>,
}

/// Builds every guest, in release, and says which toolchain does it.
pub(crate) fn build(workspace: &Workspace) -> Result<Guests> {
    let toolchain = toolchain::find(&workspace.root)?;
    let target_dir = target_dir(workspace);
    toolchain
        .cargo("build the guests", &workspace.guests(), "build")
        .args(["--workspace", "--release", "--target-dir"])
        .arg(&target_dir)
        .run_aside()?;
    Ok(Guests { dir: target_dir.join(TARGET).join("release"), toolchain, foreign: crate::foreign::fetch(workspace) })
}

/// A target directory apart from the main workspace's: two cargos that build different workspaces do not wait for one
/// another, and `target/` stays the only directory to delete.
pub(crate) fn target_dir(workspace: &Workspace) -> PathBuf {
    workspace.target.join("guests")
}
