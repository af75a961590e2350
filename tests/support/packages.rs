//! Real input: the source of the packages that this workspace depends on, which every machine has that builds it.

use std::path::PathBuf;

use serde_json::Value;

use crate::command::output;
use crate::fixtures::repository;

/// The names and directories of all packages, sorted; always the same ones for the same lock file.
///
/// # Panics
///
/// When cargo does not tell.
pub fn packages() -> Vec<(String, PathBuf)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Without the filter, cargo downloads what only other platforms need.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let said = output(cargo, &["metadata", "--format-version=1", "--filter-platform", &platform], repository());
    assert!(said.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&said.stderr));
    let metadata: Value = serde_json::from_slice(&said.stdout).expect("cargo writes JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let packages = metadata["packages"].as_array().expect("a list").iter();
    let mut packages: Vec<(String, PathBuf)> = packages
        .map(|package| (text(&package["name"]), PathBuf::from(text(&package["manifest_path"])).with_file_name("")))
        .collect();
    packages.sort();
    packages
}
