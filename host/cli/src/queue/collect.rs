//! `sandgate collect`: the results of a job, each once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use sandgate::durable::{Collected, CollectionSettings, JobId, JobResult, Queue};
use sandgate::{Group, Spec};

use super::options::{Options, connect, duration, job_id};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::map::arguments::Format;
use crate::map::job;
use crate::map::ledger::Meta;
use crate::map::output::Output;
use crate::map::render::{self, Rendered};
use crate::options::Entry;
use crate::{options, print};

/// How often the reader of the output is looked at while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Failures that are told one by one.
const MAX_TOLD: u64 = 100;

/// Get the results of a job from a queue on NATS JetStream
///
/// Every input has exactly one result, however often it was run. Waits for those that are not there yet, and ends when all
/// are. Results stay on the server, so that collecting can begin again at any time: for 14 days, unless --forget is given.
#[derive(Debug, Args)]
#[command(after_help = "\
Results look as those of `sandgate map`; with --output json, `gateway` says which worker ran it, and `attempts` how often it ran
there.

Exit codes:
  0    every input has its result; a pipe that is closed by its reader counts as well
  1    some inputs failed
  2    the command line is wrong, or a file that it names: of certificates, keys or credentials
  3    results could not be had or written, as standard error says
  130  interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP")]
pub(crate) struct Arguments {
    /// The job's id, as `sandgate submit` has printed it
    #[arg(value_parser = job_id)]
    job: JobId,
    /// Results as soon as they are there, instead of in the order of their inputs
    #[arg(long)]
    unordered: bool,
    /// Leave out the results of the first COUNT inputs, as when they are there already
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    skip: u64,
    /// What a result looks like
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Lines)]
    output: Format,
    /// Forget the job afterwards: its results are gone from the server then
    #[arg(long, conflicts_with = "skip")]
    forget: bool,
    /// Give up when no result has come for so long [default: wait for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,

    #[command(flatten)]
    queue: Options,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    // Whatever was printed can be had again: an interruption ends this at once, wherever it waits.
    let _interrupt = Interrupt::install()?;
    let queue = connect(arguments.queue.settings()?)?;
    let job = describe(&queue, &arguments.job)?;
    let mut settings = CollectionSettings::default();
    (settings.unordered, settings.skip) = (arguments.unordered, arguments.skip);
    let mut collection = queue.collect(&arguments.job, settings)?;
    let mut writer = Writer { output: Output::open(None, &[])?, format: arguments.output, succeeded: 0, failed: 0 };
    let mut last = Instant::now();
    loop {
        match collection.next(LOOK_EVERY) {
            Ok(Collected::Results(results)) => {
                last = Instant::now();
                for result in results {
                    writer.write(&job, result)?;
                }
                writer.output.flush()?;
            }
            Ok(Collected::Nothing) if writer.output.is_hung_up() => return Ok(Exit::Success),
            Ok(Collected::Nothing) => {
                if let Some(wait) = arguments.wait.filter(|wait| last.elapsed() >= *wait) {
                    bail!("no result has come for {} s; {} are there", wait.as_secs(), writer.count());
                }
            }
            Ok(Collected::End) => break,
            Err(error) => {
                return Err(error).with_context(|| format!("only {} results could be had", writer.count()));
            }
        }
    }
    drop(collection);
    if arguments.forget {
        queue.forget(&arguments.job).context("results are complete, but the job could not be forgotten")?;
    }
    if writer.failed > 0 {
        print::complain(&format!("{} of {} inputs failed", writer.failed, writer.count()));
        return Ok(Exit::No);
    }
    Ok(Exit::Success)
}

/// How results of the job are read: a task's types are in its module, which is looked at as before a run.
fn describe(queue: &Queue, id: &JobId) -> Result<job::Job> {
    let (job, _) = queue.job(id)?;
    let Some(task) = &job.task else { return Ok(job::Job::Program) };
    let spec = Spec::popen();
    let module = queue.module(&job, spec.module_limits().module_bytes)?;
    let described = options::describe(&module, &Group::builder(), &spec)?;
    job::Job::new(&Entry::Task(task.clone()), &described, job.json)
}

struct Writer {
    output: Output,
    format: Format,
    succeeded: u64,
    failed: u64,
}

impl Writer {
    fn count(&self) -> u64 {
        self.succeeded + self.failed
    }

    fn write(&mut self, job: &job::Job, result: JobResult) -> Result<()> {
        let meta = Meta::queued(result.index, result.name.as_deref());
        let Rendered { success, text, .. } = render::queued(self.format, job, &meta, result);
        match success {
            true => self.succeeded += 1,
            false => self.failed += 1,
        }
        if success || self.format == Format::Json {
            return self.output.write(&meta, &text);
        }
        // What is told stands behind what came before it.
        self.output.flush()?;
        match self.failed {
            ..=MAX_TOLD => print::complain(&String::from_utf8_lossy(&text)),
            failed if failed == MAX_TOLD + 1 => {
                print::complain("more failures are counted, not told; `--output json` has all of them");
            }
            _ => {}
        }
        Ok(())
    }
}
