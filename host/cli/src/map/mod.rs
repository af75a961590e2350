//! `sandgate map`: a task for each input, on every core.
//!
//! ```text
//!            ┌─ feeder (a thread) ──────────────┐                    ┌─ collector (the command's thread) ───────┐
//!  stdin, ──►│ input ─► known to the journal?   │──► Pool ──► results│ render ─► journal ─► in order? ─► output │──► stdout,
//!  files     │          not what the task takes?│                    └──────────────────────────────────────────┘    files
//!            └──────────────────────────────────┘        ledger: what is under way, and how much that may be
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `arguments` | the command line |
//! | `input` | streams and files as inputs |
//! | `job` | an input as what the task takes; its value as what is printed |
//! | `feeder`, `ledger` | what is under way |
//! | `collector`, `render` | from results to bytes |
//! | `output` | lines on standard output, or a file for each input |
//! | `journal` | results that survive |
//!
//! What is seen of it meanwhile and afterwards is made in [`see`]: an observer is told of inputs, results and the pool's events.

pub(crate) mod arguments;
mod collector;
pub(crate) mod feeder;
pub(crate) mod input;
pub(crate) mod job;
mod journal;
pub(crate) mod ledger;
pub(crate) mod output;
pub(crate) mod render;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use sandgate::{Group, Module, Pool, RetryOn};

pub(crate) use self::arguments::Arguments;
use self::collector::Collector;
use self::input::{Inputs, Separator};
use self::job::Job;
use self::journal::{Header, Journal};
use self::ledger::Ledger;
use self::output::Output;
use crate::exit::Exit;
use crate::hosts::Hosts;
use crate::interrupt::Interrupt;
use crate::{options, print, see};

/// Runs the task for every input. All that can be known to be wrong before the first of them runs is an error before that.
pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let more = [
        ("timeout", arguments.timeout.as_deref()),
        ("output", arguments.max_output.as_deref()),
        ("message", arguments.max_input.as_deref()),
    ];
    let spec = arguments.sandbox.spec(&more)?;
    let module = options::module(&arguments.module, &spec)?;
    // A signal ends this as it ends any command.
    let module = arguments.sandbox.prepared(module, &spec)?;
    let interrupt = Interrupt::install()?;
    let inputs = inputs(&arguments.files, arguments.nul)?.max_bytes(spec.limits().message_bytes);
    let output = Output::open(arguments.output_dir.as_deref(), inputs.paths())?;
    let prepared = see::Prepared::check(&arguments.see, arguments.journal.as_deref())?;
    let group = Group::builder();
    let described = options::describe(&module, &group, &spec)?;
    let entry = options::entry(&module, &described, arguments.task.as_deref())?;
    let job = Arc::new(Job::new(&entry, &described, arguments.json)?);
    let journal = journal(arguments, &module)?;
    let mut hosts = Hosts::read(&arguments.gateway, arguments.hosts.as_deref())?;
    let builder = Pool::builder(&module)
        .spec(spec)
        .argv(&arguments.arg)
        .gateways(arguments.jobs.unwrap_or_else(cores))
        .machines_of(hosts.machines())
        .retries(arguments.retries, RetryOn::any_failure());
    let facts = see::Facts {
        module: module.name().to_owned(),
        gateways: builder.gateway_count(),
        inputs: (!inputs.paths().is_empty()).then_some(inputs.paths().len() as u64),
        prints_to_terminal: arguments.output_dir.is_none() && io::stdout().is_terminal(),
    };
    let observer = Arc::new(see::Observer::start(&arguments.see, prepared, facts)?);
    let builder = builder.group(group.output(observer.guest_output())).events(observer.sink());
    let builder = match &*job {
        Job::Program => builder.program(),
        Job::Task(task) => builder.task(&task.name),
    };
    let speaker = Arc::clone(&observer);
    hosts.watch(move |told| speaker.suspend(|| print::complain(told)))?;
    let pool = builder.build()?;
    let ledger = Arc::new(Ledger::new(pool.gateways()));
    let (token, closing) = (pool.cancel_token(), Arc::clone(&ledger));
    interrupt.on_interrupt(move || {
        closing.close();
        token.cancel();
    });
    let collector = Collector {
        ledger: Arc::clone(&ledger),
        journal: journal.clone(),
        output,
        format: arguments.output,
        ordered: !arguments.unordered,
        fail_fast: arguments.fail_fast,
        token: pool.cancel_token(),
        interrupt,
        observer: Arc::clone(&observer),
    };
    let feeder = |feed| feeder::start(inputs, feed, &ledger, &job, arguments.template(), journal, &observer);
    let format = arguments.output;
    let summary = match &*job {
        Job::Program => {
            let (feed, results) = pool.stream_programs();
            feeder(feed)?;
            collector.run(&results, |meta, result| render::program(format, meta, result))
        }
        Job::Task(task) => {
            let (feed, results) = pool.stream_encoded();
            feeder(feed)?;
            collector.run(&results, |meta, result| render::task(format, task, meta, result))
        }
    };
    let stats = pool.stats();
    drop(hosts);
    drop(pool);
    let seen = observer.finish(&stats);
    let summary = summary?;
    seen?;
    Ok(summary.finish(arguments.journal.is_some()))
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The content of files if there are any, else the parts of standard input.
pub(crate) fn inputs(files: &[OsString], nul: bool) -> Result<Inputs> {
    if !files.is_empty() {
        return Ok(Inputs::files(files)?);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        print::complain("inputs are read from the terminal, until Ctrl-D");
    }
    let separator = if nul { Separator::Nul } else { Separator::Line };
    Ok(Inputs::stream(stdin, separator))
}

fn journal(arguments: &Arguments, module: &Module) -> Result<Option<Arc<Mutex<Journal>>>> {
    let Some(path) = &arguments.journal else { return Ok(None) };
    let header = Header { module: module.id().0, settings: arguments.fingerprint() };
    let journal = if arguments.resume { Journal::resume(path, &header) } else { Journal::create(path, &header) };
    let journal = journal.context("nothing was run")?;
    if journal.dropped() > 0 {
        let dropped = journal.dropped();
        print::complain(&format!("journal `{}`: its last {dropped} bytes were cut off or damaged", path.display()));
    }
    if journal.len() > 0 {
        let (results, many) = (journal.len(), if journal.len() == 1 { "" } else { "s" });
        print::complain(&format!("journal `{}` has {results} result{many} already", path.display()));
    }
    Ok(Some(Arc::new(Mutex::new(journal))))
}
