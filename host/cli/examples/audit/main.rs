//! Audits real Rust source code inside the sandbox: every file of the crates that cargo has downloaded, or of the
//! directories that you name.
//!
//! ```text
//! sources ──► farm ══ Group, MultiChannel, ReceiveQueue ══► audit guest on every CPU ──► table
//! ```
//!
//! A file that makes the parser panic, recurse too deep or take too long ends one task; it is reported for that file and
//! costs nothing else. Run it with `cargo xtask demo`. `--mapped` compares what `sandgate map` makes of the same task.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod farm;
#[path = "../guests/mod.rs"]
mod guests;
mod load;
mod mapped;
mod native;
mod progress;
mod sources;
mod table;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use sandgate::{Module, Spec};

use crate::farm::{FileResult, Pass, Settings};
use crate::native::Native;
use crate::progress::Progress;
use crate::sources::{SourceFile, Sources};

/// With one gateway, more than this is not worth the wait.
const MAX_BASELINE_MEGABYTES: f64 = 40.0;
/// How many files stand for all where all would take too long.
const BASELINE_FILES: usize = 2000;

/// Audits Rust source code in a sandbox, on every CPU.
#[derive(Debug, Parser)]
struct Arguments {
    /// Directories to audit instead of the crates that cargo has downloaded.
    directories: Vec<PathBuf>,
    /// How many gateways; one per CPU unless given.
    #[arg(long)]
    gateways: Option<NonZeroUsize>,
    /// Audits this many files, of all sizes.
    #[arg(long)]
    limit: Option<NonZeroUsize>,
    /// Prints this many crates.
    #[arg(long, default_value_t = 20)]
    top: usize,
    /// Prints every crate.
    #[arg(long)]
    all: bool,
    /// Seconds that one file may take.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// Does not run again with one gateway to tell the speed-up.
    #[arg(long)]
    no_baseline: bool,
    /// Runs the same analysis natively, on as many threads.
    #[arg(long)]
    native: bool,
    /// Compares each result with the native one; fails if one differs.
    #[arg(long)]
    verify: bool,
    /// Compares results with native ones that `sandgate map --task audit --output json` printed here, and runs no sandbox
    #[arg(long, value_name = "FILE", conflicts_with_all = ["directories", "limit", "native", "verify"])]
    mapped: Option<PathBuf>,
}

fn main() -> Result<()> {
    sandgate_worker::run_if_worker();
    let arguments = Arguments::parse();

    let gateways = arguments.gateways.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    if let Some(mapped) = &arguments.mapped {
        let (files, results) = mapped::read(mapped)?;
        return verify(&native::run(&files, &results, gateways)?, &results);
    }
    let directories = match arguments.directories.as_slice() {
        [] => sources::registries()?,
        named => named.to_vec(),
    };
    let mut sources = Sources::find(&directories)?;
    if let Some(limit) = arguments.limit {
        sources.limit(limit.get());
    }
    let settings = Settings { gateways, spec: Spec::popen(), file_timeout: Duration::from_secs(arguments.timeout) };
    let module = guests::module("audit")?;

    let pass = audit(&module, &sources.files, &settings, "auditing")?;
    print_findings(&sources, &pass, if arguments.all { usize::MAX } else { arguments.top });
    print_work(&sources.files, &pass);
    if !arguments.no_baseline && gateways > 1 {
        baseline(&module, &sources.files, &settings, &pass)?;
    }
    if arguments.native || arguments.verify {
        compare(&sources.files, &pass, gateways, arguments.verify)?;
    }
    Ok(())
}

fn audit(module: &Module, files: &[SourceFile], settings: &Settings, what: &str) -> Result<Pass> {
    let mut progress = Progress::new(what, files.len());
    let pass = farm::run(module, files, settings.clone(), |_, _| progress.add_one())?;
    ensure!(pass.results.len() == files.len(), "every file has one result");
    Ok(pass)
}

fn print_findings(sources: &Sources, pass: &Pass, top: usize) {
    println!("{}", table::crates(sources, &pass.results, top));
    match table::bad_files(&sources.files, &pass.results).as_str() {
        "" => println!("every file was audited\n"),
        bad => println!("files that ended their task:\n{bad}"),
    }
}

fn print_work(files: &[SourceFile], pass: &Pass) {
    println!("{}", table::throughput(files, &pass.results, pass.elapsed));
    let restarts = pass.restarts;
    println!("gateways were ready after {:.2?}; task processors that were started again: {restarts}", pass.setup);
    print!("{}", table::loads(pass));
    for gateway in &pass.termination.gateways {
        println!("  {:<5} ended: {:?}", gateway.gateway, gateway.ending);
    }
}

/// The speed-up over one gateway: of the same files, since some take longer for each byte than others.
fn baseline(module: &Module, files: &[SourceFile], settings: &Settings, pass: &Pass) -> Result<()> {
    let is_large = table::megabytes(files) > MAX_BASELINE_MEGABYTES;
    let sample = if is_large { sources::sample(files, BASELINE_FILES) } else { files.to_vec() };
    let one = audit(module, &sample, &Settings { gateways: 1, ..settings.clone() }, "one gateway")?;
    let which = if is_large { format!("a sample of {} files", sample.len()) } else { "the same files".to_owned() };
    println!("\none gateway, {which}: {}", table::throughput(&sample, &one.results, one.elapsed));
    let again = if is_large { Some(audit(module, &sample, settings, "the same files")?) } else { None };
    let all = again.as_ref().unwrap_or(pass);
    let speed_up = one.elapsed.as_secs_f64() / all.elapsed.as_secs_f64();
    let (many, few) = (table::processors(all), table::processors(&one));
    println!(
        "speed-up of {} gateways over one: {speed_up:.2}, with {many:.2} processors over {few:.2}",
        settings.gateways
    );
    Ok(())
}

fn compare(files: &[SourceFile], pass: &Pass, threads: usize, must_be_equal: bool) -> Result<()> {
    let native = native::run(files, &pass.results, threads)?;
    println!("\nnatively, {threads} threads: {}", table::throughput(files, &pass.results, native.elapsed));
    let ratio = |sandbox: Duration, native: Duration| sandbox.as_secs_f64() / native.as_secs_f64();
    println!(
        "the sandbox takes {:.2} times as long, and {:.2} times the processor time, its host included",
        ratio(pass.elapsed, native.elapsed),
        ratio(pass.elapsed.mul_f64(table::processors(pass)), native.cpu),
    );
    if must_be_equal { verify(&native, &pass.results) } else { Ok(()) }
}

fn verify(native: &Native, sandboxed: &[FileResult]) -> Result<()> {
    let comparison = native.compare(sandboxed);
    println!("compared file by file: {comparison:?}");
    ensure!(comparison.different == 0, "the sandbox counts otherwise than this process");
    Ok(())
}
