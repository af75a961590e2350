//! `sandgate work`: runs tasks of a queue.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use sandgate::durable::{Stopper, Worked, WorkerSettings};
use sandgate::{Group, Module, OutputSink, Pool};

use super::options::{Options, ack_wait, connect, duration, some_time};
use crate::exit::Exit;
use crate::hosts::Hosts;
use crate::interrupt::Interrupt;
use crate::map::arguments::jobs;
use crate::map::cores;
use crate::options::{Sandbox, setting};
use crate::print;

/// Run tasks of a queue on NATS JetStream
///
/// Takes as many tasks as its gateways can hold, runs each in a sandbox of its own, and acknowledges one only after its result
/// is stored. What a worker that dies had is given to others. Goes on until it is stopped: the first SIGTERM or Ctrl-C
/// lets what runs come to its end and gives the rest back, all of it within --grace; the second ends it at once.
///
/// The sandbox and its limits are this command's; a job decides the module, the task and its arguments, retries, and a
/// timeout up to --timeout.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate work --nats nats://queue:4222
  sandgate work --nats tls://queue --creds worker.creds --jobs 16 --timeout 10m --memory 512M
  sandgate work --nats nats://queue:4222 --gateway popen --gateway ssh=me@big
  sandgate work --nats nats://queue:4222 --stop-when-idle 30s    ends when there was nothing to do

Exit codes:
  0    stopped by SIGTERM, Ctrl-C or --stop-when-idle: what it had is done or given back
  2    the command line is wrong, or a file that it names: of machines, certificates, keys or credentials
  3    it could not go on, or not give back what it had, as standard error says
  130  ended at once by a second Ctrl-C; 143 by SIGTERM, 129 by SIGHUP")]
pub(crate) struct Arguments {
    /// Tasks at once, without --gateway and --hosts, whose machines have one for each of their cores [default: one for each core]
    #[arg(long, short, value_name = "COUNT", value_parser = jobs, help_heading = "Execution")]
    jobs: Option<usize>,
    /// A machine that takes tasks, as for `sandgate map`; can be given again
    #[arg(long, value_name = "SPEC", help_heading = "Execution", conflicts_with = "jobs")]
    gateway: Vec<String>,
    /// A file with a SPEC on each line, as for --gateway; what follows a `#` is a comment. It is looked at every 2 seconds while
    /// this runs: machines on new lines join, those whose lines are gone leave once what runs there is done
    #[arg(long, value_name = "FILE", help_heading = "Execution", conflicts_with = "jobs")]
    hosts: Option<PathBuf>,
    /// The most time for each task, whatever its job says [default: as the job has it, or 60s]
    #[arg(long, value_name = "DURATION", value_parser = some_time, help_heading = "Execution")]
    timeout: Option<Duration>,
    /// The most that a program may print, as in 1M; one that prints more has failed [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = setting("output"), help_heading = "Execution")]
    max_output: Option<String>,
    /// The largest module, as in 100M [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = setting("module"), help_heading = "Execution")]
    max_module: Option<String>,
    /// How long this may take to stop, also if the server is away. What runs has this time but for its last quarter, at
    /// most 2s, in which the rest is given back
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "25s", help_heading = "Execution")]
    grace: Duration,
    /// Stop when there was nothing to do for so long
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Execution")]
    stop_when_idle: Option<Duration>,
    /// What results call this worker [default: the machine's name]
    #[arg(long, value_name = "NAME", help_heading = "Execution")]
    name: Option<String>,

    /// Most tasks that this worker has at once [default: a tenth of a second of work, from 2 to 64 for each gateway]
    #[arg(long, value_name = "COUNT", value_parser = count, help_heading = "Deliveries")]
    in_flight: Option<usize>,
    /// How long a task may go without a sign of life before another worker gets it; for the whole queue, the last one to say
    /// it counts [default: as it is, 30s at first]
    #[arg(long, value_name = "DURATION", value_parser = ack_wait, help_heading = "Deliveries")]
    ack_wait: Option<Duration>,
    /// Most tasks that all workers together have at once; for the whole queue [default: as it is, 65536 at first]
    #[arg(long, value_name = "COUNT", value_parser = count, help_heading = "Deliveries")]
    max_pending: Option<usize>,
    /// How often a task is given to workers before it is a dead letter
    #[arg(long, value_name = "COUNT", value_parser = count, default_value = "10", help_heading = "Deliveries")]
    max_deliveries: usize,

    #[command(flatten)]
    queue: Options,
    #[command(flatten)]
    sandbox: Sandbox,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let queue = arguments.queue.settings()?;
    let more = [("output", arguments.max_output.as_deref()), ("module", arguments.max_module.as_deref())];
    let spec = arguments.sandbox.spec(&more)?;
    let mut hosts = Hosts::read(&arguments.gateway, arguments.hosts.as_deref())?;
    let machines = hosts.machines().clone();
    let gateways = arguments.jobs.unwrap_or_else(cores);
    let interrupt = Interrupt::install()?;
    // There is nothing yet that could be given back.
    interrupt.on_interrupt(|| std::process::exit(Exit::Success.code().into()));
    let (sandbox, max_module) = (arguments.sandbox.clone(), spec.module_limits().module_bytes);
    let defaults = spec.clone();
    let maker = move |module: &Module| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
        let module = sandbox.prepared(module.clone(), &spec)?;
        // Guests of a queue are no business of a terminal: what a program prints is in its result.
        let group = Group::builder().output(OutputSink::Discard);
        Ok(Pool::builder(&module).spec(spec.clone()).gateways(gateways).machines_of(&machines).group(group))
    };
    let mut settings = WorkerSettings::new(gateways, maker)
        .name(arguments.name.clone().unwrap_or_else(machine_name))
        .max_deliveries(u32::try_from(arguments.max_deliveries).unwrap_or(u32::MAX))
        .max_module_bytes(max_module)
        .grace(arguments.grace);
    if let Some(tasks) = arguments.in_flight {
        settings = settings.in_flight(tasks);
    }
    if let Some(wait) = arguments.ack_wait {
        settings = settings.ack_wait(wait);
    }
    if let Some(tasks) = arguments.max_pending {
        settings = settings.max_pending(tasks);
    }
    if let Some(timeout) = arguments.timeout {
        settings = settings.max_timeout(timeout);
    }
    if let Some(idle) = arguments.stop_when_idle {
        settings = settings.stop_when_idle(idle);
    }
    let queue = connect(queue)?;
    hosts.look(&defaults)?;
    let stopper = Stopper::default();
    let settings = settings.stopper(&stopper);
    interrupt.on_interrupt(move || {
        print::complain("stopping: what runs comes to its end, and nothing more is taken");
        stopper.stop();
    });
    let worker = queue.work(settings)?;
    hosts.watch(print::complain)?;
    print::complain("working");
    let ended = worker.wait();
    drop(hosts);
    let (worked, problem) = match ended {
        Ok(worked) => (worked, None),
        Err(ended) => (ended.worked, Some(ended.source)),
    };
    print::complain(&summary(&worked));
    if worked.kept > 0 {
        let tasks = if worked.kept == 1 { "1 task".to_owned() } else { format!("{} tasks", worked.kept) };
        print::complain(&format!(
            "{tasks} could be neither finished nor given back, for the NATS server did not answer in time: others get it after \
             the ack wait"
        ));
    }
    match problem {
        Some(problem) => Err(problem.into()),
        None if worked.kept > 0 => Ok(Exit::Failure),
        None => Ok(Exit::Success),
    }
}

fn summary(worked: &Worked) -> String {
    let Worked { done, failed, dead, returned, garbage, .. } = worked;
    let mut text = format!("{done} tasks done");
    for (count, what) in
        [(failed, "failed"), (dead, "given up"), (returned, "given back"), (garbage, "no tasks at all")]
    {
        if *count > 0 {
            text = format!("{text}, {count} {what}");
        }
    }
    text
}

/// What the machine calls itself.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("worker").to_owned()
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=10_000_000) => Ok(count),
        _ => Err("is not a number from 1 to 10000000".to_owned()),
    }
}
