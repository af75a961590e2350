//! The fuzz targets, through cargo-fuzz, with the bounds that each has to stay within.
//!
//! cargo-fuzz asks rustc for options that stable toolchains have and hide; they are shown to its process alone.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::Step;
use crate::workspace::Workspace;

/// A target and its bounds.
#[derive(Debug)]
struct Target {
    name: &'static str,
    /// Whether it is built with wasmtime, which takes long.
    needs_engine: bool,
    /// Longest input in bytes. Inputs can repeat parts of themselves, so short ones make long streams.
    max_input_bytes: u32,
    /// Most that one allocation may take, in MiB: what the checked code may rightly hold, and some room.
    allocation_mib: u32,
    /// Most memory of the process, in MiB.
    memory_mib: u32,
}

const TARGETS: [Target; 8] = [
    Target { name: "frames", needs_engine: false, max_input_bytes: 16_384, allocation_mib: 16, memory_mib: 512 },
    Target { name: "ring", needs_engine: false, max_input_bytes: 4096, allocation_mib: 4, memory_mib: 512 },
    Target { name: "host_messages", needs_engine: false, max_input_bytes: 4096, allocation_mib: 16, memory_mib: 1024 },
    Target { name: "link_agent", needs_engine: false, max_input_bytes: 4096, allocation_mib: 8, memory_mib: 512 },
    Target { name: "link_host", needs_engine: false, max_input_bytes: 4096, allocation_mib: 8, memory_mib: 1024 },
    Target { name: "artefact_cache", needs_engine: false, max_input_bytes: 4096, allocation_mib: 2, memory_mib: 512 },
    Target { name: "guest_abi", needs_engine: true, max_input_bytes: 4096, allocation_mib: 16, memory_mib: 1024 },
    Target { name: "preflight", needs_engine: true, max_input_bytes: 16_384, allocation_mib: 64, memory_mib: 1024 },
];

/// Seconds after which an input takes too long.
const INPUT_SECONDS: u32 = 120;

/// Fuzzes one target, or each in its turn, for so many seconds.
pub(crate) fn fuzz(workspace: &Workspace, name: Option<&str>, seconds: u32) -> Result<()> {
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| name.is_none_or(|name| name == target.name)).collect();
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no such target; there are {}", names.join(", "));
    }
    install(workspace)?;
    let sanitizer = sanitizer(workspace)?;
    targets.into_iter().try_for_each(|target| step(workspace, target, sanitizer, seconds).run())
}

fn install(workspace: &Workspace) -> Result<()> {
    let has_it = Step::cargo("find cargo-fuzz", &workspace.root).args(["fuzz", "--version"]).probe().is_some();
    if has_it {
        return Ok(());
    }
    Step::cargo("install cargo-fuzz", &workspace.root)
        .args(["install", "--locked", "cargo-fuzz"])
        .run_aside()
        .context("fuzzing needs cargo-fuzz, and a compiler for C++ to build libFuzzer with")
}

/// The sanitizer that counts allocations, if the toolchain comes with it.
fn sanitizer(workspace: &Workspace) -> Result<&'static str> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let libraries =
        Step::new("find the sanitizer", rustc, &workspace.root).args(["--print", "target-libdir"]).read()?;
    let has_it = std::fs::read_dir(Path::new(libraries.trim_end()))?
        .filter_map(Result::ok)
        .any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"));
    if !has_it {
        eprintln!("==> this toolchain has no address sanitizer: large allocations go unnoticed unless memory runs out");
    }
    Ok(if has_it { "address" } else { "none" })
}

fn step(workspace: &Workspace, target: &Target, sanitizer: &str, seconds: u32) -> Step {
    let mut step = Step::cargo(&format!("fuzz {}", target.name), &workspace.root)
        .args(["fuzz", "run", target.name, "--sanitizer", sanitizer, "--target-dir"])
        // Build scripts look at the variable below, so that builds with and without it must not share a directory.
        .arg(workspace.target.join("fuzz"));
    if !target.needs_engine {
        step = step.arg("--no-default-features");
    }
    // What is freed is kept for a while, to be recognised: of that little, so that the bound is one of what is held.
    step.env("RUSTC_BOOTSTRAP", "1").env("ASAN_OPTIONS", "quarantine_size_mb=16:detect_leaks=0").arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={}", target.max_input_bytes),
        format!("-malloc_limit_mb={}", target.allocation_mib),
        format!("-rss_limit_mb={}", target.memory_mib),
        format!("-timeout={INPUT_SECONDS}"),
        // Scripts are long from the beginning.
        "-len_control=0".to_owned(),
        // Threads that start or end while it looks are leaks to it, here and, by the variable above, at the exit. The targets
        // check what is left themselves.
        "-detect_leaks=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ])
}
