//! Where things are: the repository and cargo's target directory. Asks, and changes nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::Step;

/// The directories that every chore starts from. All are absolute.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The root of the repository.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever `CARGO_TARGET_DIR` or a configuration puts it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        // Set by `cargo run`. The path from compile time serves when the program is started by hand.
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest_dir).parent().context("xtask lies in no directory")?.to_owned();

        let metadata = Step::cargo("find the target directory", &std::env::current_dir()?)
            .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
            .arg(root.join("Cargo.toml"))
            .read()?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo's metadata is not JSON")?;
        let target = metadata["target_directory"].as_str().context("cargo's metadata names no target directory")?;
        Ok(Self { root, target: target.into() })
    }

    /// The workspace of the guests.
    pub(crate) fn guests(&self) -> PathBuf {
        self.root.join("guests")
    }
}
