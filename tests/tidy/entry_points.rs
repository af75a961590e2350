//! Nothing lies about unused: each guest and each fuzz target is run by something, and CI runs what a newcomer runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sandgate_tests::repository;

use crate::tree::{assert_none, metadata, sources};

#[test]
fn every_guest_is_run_by_something() {
    let users: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.is_rust() && !source.path.starts_with("guests/"))
        .map(|source| source.text)
        .collect();
    let is_used = |guest: &str| {
        let names = [format!("\"{guest}\""), format!("{guest}.wasm")];
        users.iter().any(|text| names.iter().any(|name| text.contains(name)))
    };
    let unused: Vec<String> = guests().into_iter().filter(|guest| !is_used(guest)).collect();
    assert_none("a guest that no test, example or benchmark names is deleted, or gets a test", &unused);
}

#[test]
fn every_fuzz_target_is_built_run_and_told_of() {
    let sources = sources();
    let text = |path: &str| sources.iter().find(|source| source.path == path).map_or("", |source| &source.text[..]);
    let mut offences = Vec::new();
    let names = sources.iter().filter_map(|source| source.path.strip_prefix("fuzz/fuzz_targets/")?.strip_suffix(".rs"));
    for name in names {
        for (path, needed) in [
            ("fuzz/Cargo.toml", format!("name = \"{name}\"")),
            ("fuzz/README.md", format!("`{name}`")),
            ("xtask/src/fuzz.rs", format!("name: \"{name}\"")),
        ] {
            if !text(path).contains(&needed) {
                offences.push(format!("{path}: has no `{needed}`"));
            }
        }
        let test = format!("fn the_body_of_{name}_holds_for_its_seeds");
        if !sources.iter().any(|source| source.is_rust() && source.text.contains(&test)) {
            offences.push(format!("fuzz target {name}: there is no `{test}`"));
        }
    }
    assert_none("a fuzz target is built by cargo-fuzz, run by xtask, and its body by a test", &offences);
}

#[test]
fn ci_runs_the_command_of_the_readme() {
    let script = repository().join(".ci/run");
    let text = fs::read_to_string(&script).expect(".ci/run");
    assert!(
        text.lines().any(|line| line.trim_start().trim_start_matches("exec ").starts_with("cargo xtask test")),
        "{text}"
    );
    let mode = fs::metadata(&script).expect(".ci/run").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, ".ci/run has to be executable, and has the mode {mode:o}");
}

/// The binaries of the guests' workspace.
fn guests() -> Vec<String> {
    let metadata = metadata("guests");
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let members = list(&metadata["workspace_members"]);
    list(&metadata["packages"])
        .iter()
        .filter(|package| members.contains(&package["id"]))
        .flat_map(|package| list(&package["targets"]))
        .filter(|target| list(&target["kind"]).contains(&"bin".into()))
        .map(|target| target["name"].as_str().expect("a target has a name").to_owned())
        .collect()
}
