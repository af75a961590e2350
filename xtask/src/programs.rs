//! The programs worth running: the demo and the benchmarks. Both run in release, with everything they need built first.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guests;
use crate::process::Step;
use crate::workspace::Workspace;

/// The peer of the benchmarks.
const EXECNET_VERSION: &str = "2.1.2";

/// Runs the example `audit`.
pub(crate) fn demo(workspace: &Workspace, args: &[String]) -> Result<()> {
    let guests = guests::build(workspace)?.dir;
    Step::cargo("build sandgate and the demo", &workspace.root)
        .args(["build", "--release", "--package", "sandgate-cli", "--bin", "sandgate", "--example", "audit"])
        .run_aside()?;
    run_release(workspace, "demo", &["--package", "sandgate-cli", "--example", "audit"], args, &guests).run()
}

/// Runs the benchmarks, execnet's included.
pub(crate) fn bench(workspace: &Workspace, args: &[String]) -> Result<()> {
    let guests = guests::build(workspace)?.dir;
    Step::cargo("build sandgate and the benchmarks", &workspace.root)
        .args(["build", "--release", "--package", "sandgate-cli", "--package", "sandgate-benches"])
        .run_aside()?;
    let python = install_execnet(workspace)?;
    run_release(workspace, "benchmarks", &["--package", "sandgate-benches"], args, &guests)
        .env("SANDGATE_BENCH_PYTHON", python)
        .run()
}

fn run_release(workspace: &Workspace, name: &str, what: &[&str], args: &[String], guests: &Path) -> Step {
    Step::cargo(name, &workspace.root)
        .args(["run", "--quiet", "--release"])
        .args(what)
        .arg("--")
        .args(args)
        .env("SANDGATE_GUESTS", guests)
        .env("SANDGATE_WORKER", workspace.target.join("release").join("sandgate"))
}

/// Makes a virtual environment with execnet under the target directory, unless it is there already, and gives back the
/// path of its Python.
fn install_execnet(workspace: &Workspace) -> Result<PathBuf> {
    let venv = workspace.target.join("bench-venv");
    let python = venv.join("bin").join("python");
    let installed = Step::new("find execnet", &python, &workspace.root)
        .args(["-c", "import importlib.metadata; print(importlib.metadata.version('execnet'))"])
        .probe();
    if installed.is_some_and(|version| version.trim_end() == EXECNET_VERSION) {
        return Ok(python);
    }
    Step::new("make a Python environment", "python3", &workspace.root)
        .args(["-m", "venv", "--clear"])
        .arg(&venv)
        .run_aside()
        .context(
            "the benchmarks compare with execnet, for which they need `python3` with `venv` (Debian: python3-venv)",
        )?;
    Step::new("install execnet", &python, &workspace.root)
        .args(["-m", "pip", "install", "--quiet"])
        .arg(format!("execnet=={EXECNET_VERSION}"))
        .run_aside()?;
    Ok(python)
}
