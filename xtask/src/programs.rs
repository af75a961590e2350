//! The programs worth running: the demo and the benchmarks. Both run in release, with everything they need built first.

use std::path::Path;

use anyhow::Result;

use crate::guests;
use crate::peers;
use crate::process::Step;
use crate::workspace::Workspace;

/// Runs the example `audit`.
pub(crate) fn demo(workspace: &Workspace, args: &[String]) -> Result<()> {
    let guests = guests::build(workspace)?.dir;
    Step::cargo("build sandgate and the demo", &workspace.root)
        .args(["build", "--release", "--package", "sandgate-cli", "--bin", "sandgate", "--example", "audit"])
        .run_aside()?;
    run_release(workspace, "demo", &["--package", "sandgate-cli", "--example", "audit"], args, &guests).run()
}

/// Runs the benchmarks, their peers included.
pub(crate) fn bench(workspace: &Workspace, args: &[String]) -> Result<()> {
    let guests = guests::build(workspace)?;
    Step::cargo("build sandgate and the benchmarks", &workspace.root)
        .args(["build", "--release", "--package", "sandgate-cli", "--package", "sandgate-benches"])
        .run_aside()?;
    let mut step = run_release(workspace, "benchmarks", &["--package", "sandgate-benches"], args, &guests.dir);
    if let Some(python) = peers::install(workspace) {
        step = step.env("SANDGATE_BENCH_PYTHON", python);
    }
    for (variable, program) in guests.foreign {
        step = step.env(variable, program);
    }
    step.run()
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
