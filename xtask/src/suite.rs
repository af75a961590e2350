//! The tests, and the checks that come before them. Each is a step; the first that fails ends the run.
//!
//! The test runner comes last, so that a run ends with its summary.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::guests::{self, Guests};
use crate::process::Step;
use crate::servers;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// Runs everything: checks, if `lint`, then doctests, then tests; those that matter there over sockets before, where nextest is.
pub(crate) fn test(workspace: &Workspace, lint: bool, runner_args: &[String]) -> Result<()> {
    if lint {
        check_format(workspace)?;
        check_lints(workspace)?;
        check_docs(workspace)?;
    }
    let guests = guests::build(workspace)?;
    if lint {
        check_guest_lints(workspace, &guests)?;
    }
    let worker = build_tests(workspace)?;
    let servers = servers::install(workspace);
    let with_servers = |step: Step| servers.iter().fold(step, |step, (variable, value)| step.env(variable, value));

    match Runner::find(workspace) {
        Runner::Nextest => {
            run_doctests(workspace, &guests, &worker, runner_args)?;
            if lint && runner_args.is_empty() {
                run_over_sockets(workspace, &guests, &worker)?;
            }
            with_servers(Runner::Nextest.step(workspace, &guests, &worker)).args(runner_args).run()
        }
        Runner::CargoTest => with_servers(Runner::CargoTest.step(workspace, &guests, &worker)).args(runner_args).run(),
    }
}

/// Runs the tests up to `times` times, stops at the first run that fails, and prints how long each took.
pub(crate) fn soak(workspace: &Workspace, times: u32) -> Result<()> {
    let guests = guests::build(workspace)?;
    let worker = build_tests(workspace)?;
    let step = Runner::find(workspace).step(workspace, &guests, &worker);

    let mut runs: Vec<(Duration, Result<()>)> = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        let outcome = step.run();
        let failed = outcome.is_err();
        runs.push((start.elapsed(), outcome));
        if failed {
            break;
        }
    }

    eprintln!("\n run  result  seconds");
    for (number, (duration, outcome)) in (1..).zip(&runs) {
        let result = if outcome.is_ok() { "pass" } else { "FAIL" };
        eprintln!("{number:>4}  {result:<6}  {:>7.1}", duration.as_secs_f64());
    }
    let passed = runs.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    eprintln!("{passed} passed of {times} asked for");
    runs.into_iter().try_for_each(|(_, outcome)| outcome)
}

fn check_format(workspace: &Workspace) -> Result<()> {
    let has_rustfmt = Step::cargo("find rustfmt", &workspace.root).args(["fmt", "--version"]).probe().is_some();
    if !has_rustfmt {
        skip("formatting", "rustfmt");
        return Ok(());
    }
    for (name, dir) in [("formatting", &workspace.root), ("formatting of the guests", &workspace.guests())] {
        Step::cargo(name, dir).args(["fmt", "--all", "--check"]).run()?;
    }
    Ok(())
}

fn check_lints(workspace: &Workspace) -> Result<()> {
    if !has_clippy(workspace) {
        skip("lints", "clippy");
        return Ok(());
    }
    Step::cargo("lints", &workspace.root).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()
}

fn check_guest_lints(workspace: &Workspace, guests: &Guests) -> Result<()> {
    // The distribution's packages have no clippy, and the one of rustup cannot read what their compiler writes.
    if guests.toolchain == Toolchain::Distro || !has_clippy(workspace) {
        return Ok(());
    }
    Toolchain::Rustup
        .cargo("lints of the guests", &workspace.guests(), "clippy")
        .arg("--target-dir")
        .arg(guests::target_dir(workspace))
        .args(["--workspace", "--", "-D", "warnings"])
        .run()
}

fn check_docs(workspace: &Workspace) -> Result<()> {
    Step::cargo("documentation", &workspace.root)
        // The binary `sandgate` would write its pages over those of the library `sandgate`.
        .args(["doc", "--workspace", "--exclude", "sandgate-cli", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()
}

fn has_clippy(workspace: &Workspace) -> bool {
    Step::cargo("find clippy", &workspace.root).args(["clippy", "--version"]).probe().is_some()
}

fn skip(check: &str, component: &str) {
    eprintln!("==> {check}: left out, {component} is missing; to have it: rustup component add {component}");
}

/// Builds all that the tests run, and gives back the path of the worker, the `sandgate` binary.
///
/// One command builds the binary and the tests, so that cargo unifies the features of the dependencies once. Two would
/// compile wasmtime twice.
fn build_tests(workspace: &Workspace) -> Result<PathBuf> {
    let messages = Step::cargo("build the tests and the worker", &workspace.root)
        .args(["build", "--workspace", "--all-targets", "--message-format=json-render-diagnostics"])
        .run_and_read()?;
    worker_among(&messages).context("cargo has built no binary `sandgate`")
}

/// The path of the `sandgate` binary in what cargo says it has built, a JSON object a line.
fn worker_among(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = &message["target"];
        let is_worker =
            target["name"] == "sandgate" && target["kind"][0] == "bin" && message["profile"]["test"] == false;
        if is_worker { message["executable"].as_str().map(PathBuf::from) } else { None }
    })
}

fn run_doctests(workspace: &Workspace, guests: &Guests, worker: &Path, runner_args: &[String]) -> Result<()> {
    // Names of tests filter doctests too; nextest's options mean nothing to them.
    if runner_args.iter().any(|arg| arg.starts_with('-')) {
        eprintln!("==> doctests: left out, the options are for another runner");
        return Ok(());
    }
    let step = Step::cargo("doctests", &workspace.root).args(["test", "--workspace", "--doc"]).args(runner_args);
    with_fixtures(step, guests, worker).run()
}

/// What guests can do and what is to be survived, over the transport that local gateways fall back to. What traces look for is the same.
fn run_over_sockets(workspace: &Workspace, guests: &Guests, worker: &Path) -> Result<()> {
    let step = Step::cargo("tests over sockets", &workspace.root)
        .args(["nextest", "run", "--workspace", "--no-tests=warn", "-E"])
        .args(["binary(hostile) | binary(execnet) | (binary(end_to_end) - test(/^traced::/))"])
        .env("SANDGATE_TRANSPORT", "socket");
    with_fixtures(step, guests, worker).run()
}

/// Where tests find what was built for them.
fn with_fixtures(step: Step, guests: &Guests, worker: &Path) -> Step {
    let step = step.env("SANDGATE_GUESTS", &guests.dir).env("SANDGATE_WORKER", worker);
    guests.foreign.iter().fold(step, |step, (variable, module)| step.env(variable, module))
}

#[derive(Debug, Clone, Copy)]
enum Runner {
    /// A process for each test, and limits on each.
    Nextest,
    /// What every cargo has. It runs doctests too.
    CargoTest,
}

impl Runner {
    fn find(workspace: &Workspace) -> Self {
        let nextest = Step::cargo("find nextest", &workspace.root).args(["nextest", "--version"]).probe();
        if nextest.is_some() { Self::Nextest } else { Self::CargoTest }
    }

    fn step(self, workspace: &Workspace, guests: &Guests, worker: &Path) -> Step {
        let step = Step::cargo("tests", &workspace.root);
        let step = match self {
            // A filter may name a doctest, of which nextest knows nothing.
            Self::Nextest => step.args(["nextest", "run", "--workspace", "--no-tests=warn"]),
            Self::CargoTest => step.args(["test", "--workspace"]),
        };
        with_fixtures(step, guests, worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_the_binary_and_not_its_unit_tests() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"sandgate"},"profile":{"test":false},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"sandgate"},"profile":{"test":true},"executable":"/t/deps/sandgate-1"}
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"sandgate"},"profile":{"test":false},"executable":"/t/sandgate"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(worker_among(messages), Some(PathBuf::from("/t/sandgate")));
        assert_eq!(worker_among("no JSON\n"), None);
    }
}
