//! What each layer of the defence costs: each with and without, in turn, in one run, as a ratio.
//!
//! Two kinds of work: tasks of about 100 µs, one execution each, and the demo's work, source files that one task audits. A
//! ratio is that of the least of all rounds, with the layer over without it; 1.02 is a cost of two in a hundred. Beside the
//! time that passed stands the ratio of processor time, worker and host together, which others on the machine disturb less.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use audit_core::{Request, Response, audit_bytes};
use rustix::time::{ClockId, clock_gettime};
use sandgate::measuring::workers_in_threads;
use sandgate::{Call, Channel, Gateway, Limits, Module, Outcome};
use sandgate_wire::transport::{ReceiveHalf, SendHalf};

use crate::fixtures::Fixtures;
use crate::machine::Machine;
use crate::stats::quantile;
use crate::{bare, busy};

/// How long a task computes on the bare engine.
const TASK_MICROS: u32 = 100;
/// Tasks that a new worker runs before those that count.
const WARM_UP_TASKS: u32 = 20;
/// Bytes of source code that one sample audits.
const SOURCE_BYTES: usize = 400_000;

/// A layer: the spec with it, the spec without it, and fuel if that is the layer.
struct Layer {
    name: &'static str,
    with: &'static str,
    without: &'static str,
    fuel: bool,
    /// Without it the worker is a thread of this process.
    hop: bool,
}

const fn layer(name: &'static str, with: &'static str, without: &'static str) -> Layer {
    Layer { name, with, without, fuel: false, hop: false }
}

const UNPROTECTED: &str = "popen//sandbox=off";

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
    Layer { fuel: true, ..layer("fuel", "popen", "popen") },
    Layer { hop: true, ..layer("process hop", UNPROTECTED, UNPROTECTED) },
];

/// Measures every layer and prints a table.
pub(crate) fn run(fixtures: &Fixtures, rounds: u32, tasks: u32) -> Result<()> {
    println!("{}", Machine::describe().summary());
    let bytes = busy::bytes(busy::turns(TASK_MICROS)?)?;
    let task = Module::from_bytes(bytes.clone())?;
    let work = Work { bytes, task, audit: fixtures.module("audit")?, sources: sources()?, tasks };
    let alone = 1.0 / bare::Tasks::compile(&work.bytes, 1)?.per_second(1, 1000)?;
    println!(
        "{rounds} rounds, with and without in turn; a sample is {tasks} tasks that compute for {:.0} µs, or {:.1} MB of source code in {} files\n",
        alone * 1e6,
        work.sources.iter().map(Vec::len).sum::<usize>() as f64 / 1e6,
        work.sources.len(),
    );
    println!("{:<28}{:>38}{:>38}", "", "task of 100 µs", "the demo's work");
    let headings = format!("{:>12}{:>12}{:>7}{:>7}", "without", "with", "ratio", "cpu");
    println!("{:<28}{headings}{headings}", "");
    for layer in LAYERS {
        match measure(fixtures, &work, layer, rounds) {
            Ok(samples) => print_row(layer.name, &samples)?,
            Err(error) => println!("{:<28}{error:#}", layer.name),
        }
    }
    all_of_it(fixtures, &work, rounds)
}

/// Of tasks and of the demo's work, without and with.
type Samples = [[Vec<Taken>; 2]; 2];

fn print_row(name: &str, samples: &Samples) -> Result<()> {
    let of = |[without, with]: &[Vec<Taken>; 2]| -> Result<Pair> { Ok((least(without)?, least(with)?)) };
    println!("{name:<28}{}{}", pair(of(&samples[0])?, 1e6, "µs"), pair(of(&samples[1])?, 1e3, "ms"));
    Ok(())
}

struct Work {
    bytes: Vec<u8>,
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

/// The least: without, with.
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
    // A worker in a thread has none.
    let worker = gateway.pid().map(|pid| pid.to_string());
    let processor = || {
        let own = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime))?.as_secs_f64();
        let of_worker = worker.as_ref().map_or(Ok(0.0), |worker| processor_seconds(worker));
        anyhow::Ok(own + of_worker?)
    };
    let (before, start) = (processor()?, Instant::now());
    body()?;
    let (seconds, processor_seconds) = (start.elapsed().as_secs_f64(), processor()? - before);
    let count = f64::from(count);
    Ok(Taken { seconds: seconds / count, processor_seconds: processor_seconds / count })
}

/// What a worker has had of processors, all of its threads together; they live as long as it does.
fn processor_seconds(process: &str) -> Result<f64> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += stat.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(nanoseconds as f64 * 1e-9)
}

/// What disturbs a sample only adds to it: the least of each figure.
fn least(samples: &[Taken]) -> Result<Taken> {
    let of = |figure: fn(&Taken) -> f64| {
        quantile(&samples.iter().map(figure).collect::<Vec<_>>(), 0.0).context("there are no samples")
    };
    Ok(Taken { seconds: of(|it| it.seconds)?, processor_seconds: of(|it| it.processor_seconds)? })
}

fn task(gateway: &Gateway, module: &Module, call: &Call) -> Result<f64> {
    let start = Instant::now();
    let channel = gateway.remote_exec_with(module, call)?;
    channel.wait_close_timeout(Duration::from_secs(60))?;
    Ok(start.elapsed().as_secs_f64())
}

fn run_tasks(gateway: &Gateway, work: &Work, call: &Call) -> Result<()> {
    (0..work.tasks).try_for_each(|_| task(gateway, &work.task, call).map(drop))
}

/// A worker in a thread of this process.
fn serve(send: Box<dyn SendHalf>, receive: Box<dyn ReceiveHalf>) {
    // Whatever is wrong, its host sees a connection that ended.
    drop(sandgate_worker::run(send, receive));
}

fn measure(fixtures: &Fixtures, work: &Work, layer: &Layer, rounds: u32) -> Result<Samples> {
    let plain = Call::start();
    let metered = Call::start().limits(Limits { fuel: Some(u64::MAX), ..Limits::default() });
    let with = fixtures.builder().build();
    let without = if layer.hop { workers_in_threads(fixtures.builder(), serve) } else { fixtures.builder() }.build();
    let sides = [(&without, layer.without, &plain), (&with, layer.with, if layer.fuel { &metered } else { &plain })];
    let mut samples = Samples::default();
    for _ in 0..rounds {
        for (side, (group, spec, call)) in sides.into_iter().enumerate() {
            // Processes that are alike differ in speed, all their lives: each round has others.
            let (tasks, auditing) = (group.make_gateway(spec)?, group.make_gateway(spec)?);
            let auditor = auditing.remote_exec_with(&work.audit, call)?;
            ensure!(matches!(auditor.receive::<Response>()?, Response::Ready), "the auditor is not ready");
            // They warm up.
            (0..WARM_UP_TASKS).try_for_each(|_| task(&tasks, &work.task, call).map(drop))?;
            audit(&auditor, &work.sources)?;
            samples[0][side].push(taken(&tasks, work.tasks, || run_tasks(&tasks, work, call))?);
            samples[1][side].push(taken(&auditing, 1, || audit(&auditor, &work.sources))?);
            stop(&auditor)?;
        }
        with.terminate(Duration::from_secs(5));
        without.terminate(Duration::from_secs(5));
    }
    Ok(samples)
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

/// What is under all layers: the tasks' module on the bare engine in a thread of this process, and the demo's work by this
/// process itself, beside the same over a gateway.
fn all_of_it(fixtures: &Fixtures, work: &Work, rounds: u32) -> Result<()> {
    let group = fixtures.group(1)?;
    let auditor = group[0].remote_exec(&work.audit)?;
    ensure!(matches!(auditor.receive::<Response>()?, Response::Ready), "the auditor is not ready");
    let bare = bare::Tasks::compile(&work.bytes, 1)?;
    let mut samples = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for round in 0..=rounds {
        let of_tasks = [
            taken(&group[0], work.tasks, || bare.per_second(1, work.tasks).map(drop))?,
            taken(&group[0], work.tasks, || run_tasks(&group[0], work, &Call::start()))?,
        ];
        let of_audit = [
            taken(&group[0], 1, || {
                work.sources.iter().for_each(|source| drop(std::hint::black_box(audit_bytes(source))));
                Ok(())
            })?,
            taken(&group[0], 1, || audit(&auditor, &work.sources))?,
        ];
        if round > 0 {
            for (kept, taken) in samples.iter_mut().zip([of_tasks, of_audit]) {
                kept.iter_mut().zip(taken).for_each(|(kept, taken)| kept.push(taken));
            }
        }
    }
    print_row("WebAssembly and all of it", &samples)?;
    println!("\nprocess hop: the worker as a process without a sandbox, and as a thread of this process");
    println!("all of it: a gateway, and without: the tasks' module on the bare engine, the demo's work as native code");
    stop(&auditor)
}

fn stop(auditor: &Channel) -> Result<()> {
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
