//! What the tests run: the guests and the worker. Under `cargo xtask test` both are built already, and the environment says
//! where. Under any other runner they are built on first use.
//!
//! ```text
//! SANDGATE_GUESTS / SANDGATE_WORKER set?  ──► that
//!            │ no
//! lock ──► built in this nextest run?     ──► the path noted beside the lock
//!            │ no
//!          cargo builds, the path is noted
//! ```
//!
//! The lock keeps test processes that start together from building all at once. The note spares each of them but the first
//! a cargo that would find nothing to do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::command::output;

/// The path of the module that the guest `name` is built to.
///
/// # Panics
///
/// When there is no such guest, or guests cannot be built.
pub fn guest(name: &str) -> PathBuf {
    let dir = guests_dir();
    let module = dir.join(name).with_extension("wasm");
    assert!(
        module.is_file(),
        "there is no guest `{name}` in `{}`: is it a binary of the workspace guests/?",
        dir.display()
    );
    module
}

/// The directory of the guests' modules.
///
/// # Panics
///
/// When guests cannot be built. The message names the target and the command that installs it.
pub fn guests_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| prepared("SANDGATE_GUESTS", "guests", build_guests))
}

/// The path of the `sandgate` binary, which is also the worker.
///
/// # Panics
///
/// When it cannot be built.
pub fn worker() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| prepared("SANDGATE_WORKER", "worker", build_worker))
}

/// The root of the repository.
///
/// # Panics
///
/// Never.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the directory `tests` of the repository")
}

fn prepared(variable: &str, name: &str, build: fn() -> PathBuf) -> PathBuf {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        assert!(path.exists(), "{variable} is `{}`, and nothing is there", path.display());
        return path;
    }

    let dir = repository().join("target").join("test-fixtures");
    fs::create_dir_all(&dir).expect("a directory for the lock");
    let lock = File::create(dir.join(name).with_extension("lock")).expect("a lock file");
    lock.lock().expect("the lock, which ends with this file");

    let note = dir.join(name).with_extension("txt");
    let run = std::env::var("NEXTEST_RUN_ID").ok();
    if let (Some(run), Ok(text)) = (&run, fs::read_to_string(&note))
        && let Some((noted_run, path)) = text.split_once('\n')
        && noted_run == run
        && Path::new(path).exists()
    {
        return path.into();
    }
    let path = build();
    if let Some(run) = run {
        fs::write(&note, format!("{run}\n{}", path.display())).expect("a note for the processes that wait");
    }
    path
}

fn build_guests() -> PathBuf {
    let dir = cargo(
        &["xtask", "guests", "--print-dir"],
        "cannot build the guests; they need the standard library for `wasm32-wasip1`: rustup target add wasm32-wasip1",
    );
    dir.trim_end().into()
}

/// `--workspace` for the sake of features: dependencies get those that the tests' own build has given them, and wasmtime is
/// not compiled once more.
fn build_worker() -> PathBuf {
    let messages = cargo(
        &["build", "--workspace", "--bin", "sandgate", "--message-format=json-render-diagnostics"],
        "cannot build the worker",
    );
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "sandgate")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the binary it was asked to build")
}

fn cargo(args: &[&str], complaint: &str) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = output(program, args, repository());
    assert!(
        output.status.success(),
        "{complaint}\n`cargo {}` says:\n{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo writes text")
}
