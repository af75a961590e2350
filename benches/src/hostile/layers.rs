//! What each layer of the defence costs: each with and without, in turn, in one run, as a ratio.
//!
//! Two kinds of work: tasks of about 100 µs, one execution each, and the demo's work, source files that one task audits. A
//! ratio is that of the medians of all rounds, with the layer over without it; 1.02 is a cost of two in a hundred. Beside the
//! time that passed stands the ratio of processor time, worker and host together, which others on the machine disturb less.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use audit_core::{Request, Response, audit_bytes};
use sandgate::{Call, Channel, Gateway, Limits, Module, Outcome};

use crate::busy;
use crate::fixtures::Fixtures;
use crate::machine::Machine;
use crate::stats::quantile;

/// Bytes of source code that one sample audits.
const SOURCE_BYTES: usize = 400_000;

/// A layer: the spec with it, the spec without it, and fuel if that is the layer.
struct Layer {
    name: &'static str,
    with: &'static str,
    without: &'static str,
    fuel: bool,
}

const fn layer(name: &'static str, with: &'static str, without: &'static str) -> Layer {
    Layer { name, with, without, fuel: false }
}

const LAYERS: &[Layer] = &[
    // The same on both sides: what noise there is.
    layer("nothing (noise)", "popen", "popen"),
    layer("epochs", "popen", "popen//epochs=off"),
    layer("seccomp", "popen", "popen//sandbox:seccomp=off"),
    layer("landlock", "popen", "popen//sandbox:landlock=off"),
    layer("namespaces", "popen", "popen//sandbox:namespaces=off"),
    layer("rlimits", "popen", "popen//sandbox:rlimits=off"),
    layer("all of the sandbox", "popen", "popen//sandbox=off"),
    layer("one module, second stage", "popen//modules=one", "popen"),
    layer("sandbox and epochs", "popen", "popen//sandbox=off//epochs=off"),
    Layer { name: "fuel", with: "popen", without: "popen", fuel: true },
];

/// Measures every layer and prints a table.
pub(crate) fn run(fixtures: &Fixtures, rounds: u32, tasks: u32) -> Result<()> {
    println!("{}", Machine::describe().summary());
    let work =
        Work { task: busy::module(busy::turns(100)?)?, audit: fixtures.module("audit")?, sources: sources()?, tasks };
    println!(
        "{rounds} rounds, with and without in turn; a sample is {tasks} tasks of {:.0} µs, or {:.1} MB of source code in {} files\n",
        native_turn(&work, fixtures)? * 1e6,
        work.sources.iter().map(Vec::len).sum::<usize>() as f64 / 1e6,
        work.sources.len(),
    );
    println!("{:<28}{:>38}{:>38}", "", "task of 100 µs", "the demo's work");
    let headings = format!("{:>12}{:>12}{:>7}{:>7}", "without", "with", "ratio", "cpu");
    println!("{:<28}{headings}{headings}", "");
    for layer in LAYERS {
        match measure(fixtures, &work, layer, rounds) {
            Ok([tasks, audit]) => println!("{:<28}{}{}", layer.name, pair(tasks, 1e6, "µs"), pair(audit, 1e3, "ms")),
            Err(error) => println!("{:<28}{error:#}", layer.name),
        }
    }
    hop(fixtures, &work, rounds)
}

struct Work {
    task: Module,
    audit: Module,
    sources: Vec<Vec<u8>>,
    tasks: u32,
}

/// What a sample took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    seconds: f64,
    processor_seconds: f64,
}

/// Medians: without, with.
type Pair = (Taken, Taken);

fn pair((without, with): Pair, factor: f64, unit: &str) -> String {
    format!(
        "{:>9.1} {unit}{:>9.1} {unit}{:>7.3}{:>7.3}",
        without.seconds * factor,
        with.seconds * factor,
        with.seconds / without.seconds,
        with.processor_seconds / without.processor_seconds,
    )
}

/// Does something that is `count` times the same, and says what each took of this process and the worker of `gateway`.
fn taken(gateway: &Gateway, count: u32, body: impl FnOnce() -> Result<()>) -> Result<Taken> {
    let worker = gateway.pid().context("a worker has a process")?.to_string();
    let processor = || anyhow::Ok(processor_seconds("self")? + processor_seconds(&worker)?);
    let (before, start) = (processor()?, Instant::now());
    body()?;
    let (seconds, processor_seconds) = (start.elapsed().as_secs_f64(), processor()? - before);
    let count = f64::from(count);
    Ok(Taken { seconds: seconds / count, processor_seconds: processor_seconds / count })
}

/// What a process has had of processors, all of its threads together.
fn processor_seconds(process: &str) -> Result<f64> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += stat.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(nanoseconds as f64 * 1e-9)
}

fn median(samples: &[Taken]) -> Result<Taken> {
    let of = |figure: fn(&Taken) -> f64| {
        quantile(&samples.iter().map(figure).collect::<Vec<_>>(), 0.5).context("there are no samples")
    };
    Ok(Taken { seconds: of(|it| it.seconds)?, processor_seconds: of(|it| it.processor_seconds)? })
}

/// What one task computes, without the call: many turns' worth in one execution.
fn native_turn(work: &Work, fixtures: &Fixtures) -> Result<f64> {
    let group = fixtures.group(1)?;
    let mut samples = Vec::new();
    for _ in 0..200 {
        samples.push(task(&group[0], &work.task, &Call::start())?);
    }
    quantile(&samples, 0.5).context("samples")
}

fn task(gateway: &Gateway, module: &Module, call: &Call) -> Result<f64> {
    let start = Instant::now();
    let channel = gateway.remote_exec_with(module, call)?;
    channel.wait_close_timeout(Duration::from_secs(60))?;
    Ok(start.elapsed().as_secs_f64())
}

fn measure(fixtures: &Fixtures, work: &Work, layer: &Layer, rounds: u32) -> Result<[Pair; 2]> {
    let plain = Call::start();
    let metered = Call::start().limits(Limits { fuel: Some(u64::MAX), ..Limits::default() });
    // Both are there all the time, each with two workers: of many modules, and of one.
    let group = fixtures.builder().build();
    let sides = [(layer.without, &plain), (layer.with, if layer.fuel { &metered } else { &plain })];
    let mut gateways = Vec::new();
    for (spec, call) in sides {
        let (tasks, audit) = (group.make_gateway(spec)?, group.make_gateway(spec)?);
        let auditor = audit.remote_exec_with(&work.audit, call)?;
        ensure!(matches!(auditor.receive::<Response>()?, Response::Ready), "the auditor is not ready");
        gateways.push((tasks, audit, auditor, call));
    }
    let mut samples = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for round in 0..=rounds {
        for (side, (tasks, auditing, auditor, call)) in gateways.iter().enumerate() {
            let each =
                taken(tasks, work.tasks, || (0..work.tasks).try_for_each(|_| task(tasks, &work.task, call).map(drop)))?;
            let audit = taken(auditing, 1, || audit(auditor, &work.sources))?;
            // The first round warms up.
            if round > 0 {
                samples[0][side].push(each);
                samples[1][side].push(audit);
            }
        }
    }
    for (_, _, auditor, _) in &gateways {
        auditor.send(&Request::Stop)?;
        auditor.wait_close_timeout(Duration::from_secs(10))?;
    }
    let of = |[without, with]: &[Vec<Taken>; 2]| -> Result<Pair> { Ok((median(without)?, median(with)?)) };
    Ok([of(&samples[0])?, of(&samples[1])?])
}

/// Has all sources audited by a task, one after the other with a few ahead.
fn audit(auditor: &Channel, sources: &[Vec<u8>]) -> Result<()> {
    const AHEAD: usize = 4;
    let mut sent = 0;
    for done in 0..sources.len() {
        while sent < sources.len() && sent < done + AHEAD {
            auditor.send(&Request::File { index: sent as u64, source: sources[sent].clone() })?;
            sent += 1;
        }
        match auditor.receive_timeout::<Response>(Duration::from_secs(60))? {
            Response::Done { .. } => {}
            Response::Ready => bail!("the auditor begins again"),
        }
    }
    Ok(())
}

/// The process and its sandbox against nothing: the same audit by this process itself, and a task against what it computes.
fn hop(fixtures: &Fixtures, work: &Work, rounds: u32) -> Result<()> {
    let group = fixtures.group(1)?;
    let auditor = group[0].remote_exec(&work.audit)?;
    ensure!(matches!(auditor.receive::<Response>()?, Response::Ready), "the auditor is not ready");
    let (mut native, mut remote, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    let nothing = busy::module(1)?;
    for _ in 0..=rounds {
        native.push(taken(&group[0], 1, || {
            work.sources.iter().for_each(|source| drop(std::hint::black_box(audit_bytes(source))));
            Ok(())
        })?);
        remote.push(taken(&group[0], 1, || audit(&auditor, &work.sources))?);
        empty.push(taken(&group[0], work.tasks, || {
            (0..work.tasks).try_for_each(|_| task(&group[0], &nothing, &Call::start()).map(drop))
        })?);
    }
    let (native, remote, empty) = (median(&native)?, median(&remote)?, median(&empty)?);
    println!(
        "{:<28}{:>9.1} µs, of processors {:>6.1} µs {}",
        "WebAssembly and process hop",
        empty.seconds * 1e6,
        empty.processor_seconds * 1e6,
        pair((native, remote), 1e3, "ms")
    );
    println!(
        "\nthe last row: an empty task from call to outcome, and the demo's work in this very process beside a guest's"
    );
    auditor.send(&Request::Stop)?;
    auditor.wait_close_timeout(Duration::from_secs(10))?;
    ensure!(auditor.outcome() == Some(Outcome::Returned), "the auditor has not returned");
    Ok(())
}

/// Source files of this repository, as many as a sample takes.
fn sources() -> Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let mut open = vec![root.join("host"), root.join("guest-sdk"), root.join("tests")];
    let mut files = Vec::new();
    while let Some(directory) = open.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&directory)?.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(std::fs::read(path)?);
            }
        }
    }
    let mut bytes = 0;
    let enough = files.iter().take_while(|file| {
        bytes += file.len();
        bytes < SOURCE_BYTES
    });
    Ok(enough.cloned().collect())
}
