//! `sandgate submit`: puts a task for each input into a queue.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use sandgate::durable::{Input, Job, JobId, MAX_RETRIES, Submission};
use sandgate::{Group, Spec};

use super::options::{Options, connect, job_id, some_time, wrong_file};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::map::arguments::Template;
use crate::map::ledger::Meta;
use crate::map::{feeder, inputs, job};
use crate::options::setting;
use crate::{options, print};

/// Inputs that are too large and told one by one.
const MAX_TOLD: u64 = 100;

/// Put a task for each input into a queue on NATS JetStream
///
/// Inputs and tasks are those of `sandgate map`. The job's id is printed; `sandgate work` runs its tasks, wherever it is started,
/// and `sandgate collect JOB` gives the results. The module is kept in the server's object store.
///
/// A submission that was interrupted goes on with the same command and `--job JOB`. Submitting a job that is there already
/// changes nothing: its inputs are compared, and other ones are an error.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate submit --nats nats://queue:4222 upper.wasm < words.txt
  sandgate submit --nats tls://queue --creds me.creds --job nightly --json --task add tools.wasm < pairs.jsonl
  sandgate work --nats nats://queue:4222
  sandgate collect --nats nats://queue:4222 nightly

Exit codes:
  0    all inputs are in the queue, or were there before
  2    the command line is wrong, or a file that it names: the module, certificates, keys or credentials
  3    they are not, as standard error says; what is there stays, and the same command with --job goes on
  130  interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP")]
pub(crate) struct Arguments {
    /// The module's file
    module: PathBuf,
    /// The task of a module made with the SDK [default: the module's `_start`, as a program]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// An argument for the program, after its own name
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// Put the file's name in the place of this text in each --arg
    #[arg(long, short = 'I', value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    #[arg(requires = "files", requires = "arg", conflicts_with = "task")]
    replace: Option<String>,
    /// The job's id: letters, digits, `-` and `_` [default: one that no other job has]
    #[arg(long, value_name = "JOB", value_parser = job_id)]
    job: Option<JobId>,

    /// Files as inputs, instead of lines: names, patterns, and directories with all that is in them
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Inputs", conflicts_with = "nul")]
    files: Vec<OsString>,
    /// Inputs end with NUL bytes, not with line breaks
    #[arg(long, help_heading = "Inputs")]
    nul: bool,
    /// Inputs are JSON: the argument of a task that takes one, else an array or object of them. Results are JSON too
    #[arg(long, help_heading = "Inputs", requires = "task")]
    json: bool,
    /// The largest input, as in 100K; a larger one has failed [default: what the server takes]
    #[arg(long, value_name = "SIZE", value_parser = setting("message"), help_heading = "Inputs")]
    max_input: Option<String>,

    /// Time for each task, as in 10s; workers may allow less [default: as workers have it]
    #[arg(long, value_name = "DURATION", value_parser = some_time, help_heading = "Execution")]
    timeout: Option<Duration>,
    /// How often a task that failed is run again
    #[arg(long, value_name = "COUNT", value_parser = retries, default_value_t = 0, help_heading = "Execution")]
    retries: u32,
    /// A setting of the gateway that looks at the module, as in `nesting=2000`; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = options::part_of_spec(&options::CHECKED_KEYS), help_heading = "Execution")]
    set: Vec<String>,

    #[command(flatten)]
    queue: Options,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let interrupt = Interrupt::install()?;
    let queue = arguments.queue.settings()?;
    let spec = spec(arguments)?;
    let module = options::module(&arguments.module, &spec).map_err(|error| wrong_file(&error))?;
    let inputs = inputs(&arguments.files, arguments.nul)?.max_bytes(spec.limits().message_bytes);
    let described = options::describe(&module, &Group::builder(), &spec)
        .map_err(|error| if error.is::<options::Refused>() { wrong_file(&error) } else { error })?;
    let entry = options::entry(&module, &described, arguments.task.as_deref())?;
    let encoding = job::Job::new(&entry, &described, arguments.json)?;
    let template = Template::new(arguments.replace.as_deref(), &arguments.arg);
    let id = match &arguments.job {
        Some(id) => id.clone(),
        None => JobId::random().context("no id for the job")?,
    };
    let mut job = Job::new(&module);
    (job.task, job.json, job.argv) = (arguments.task.clone(), arguments.json, arguments.arg.clone());
    (job.timeout, job.retries) = (arguments.timeout, arguments.retries);
    let queue = connect(queue)?;
    let mut submission = queue.submit(&id, job, &module).with_context(|| format!("job `{id}` was not submitted"))?;
    let complete = submission.complete();
    let incomplete = || match complete {
        None => format!("job `{id}` is incomplete; go on with `--job {id}` and the same inputs"),
        Some(_) => format!("job `{id}` is complete, and was not changed"),
    };
    let (ours, text) = (interrupt.clone(), incomplete());
    interrupt.on_interrupt(move || {
        print::complain(&format!("interrupted: {text}"));
        std::process::exit(ours.exit().unwrap_or(Exit::Failure).code().into());
    });
    let mut too_large = 0;
    for (index, input) in (0..).zip(inputs) {
        let pushed = match input {
            Ok(input) => push(&mut submission, input, &encoding, template.as_ref(), |name, problem| {
                too_large += 1;
                if too_large <= MAX_TOLD {
                    print::complain(&format!(
                        "{}: {problem}; its result will say so",
                        Meta::queued(index, name).name()
                    ));
                }
            }),
            Err(error) if error.is_of_one_input() => {
                let meta = feeder::unreadable(index, error);
                let name = meta.path.as_ref().map(|path| path.display().to_string());
                submission.refuse(name, meta.problem().to_owned())
            }
            Err(error) => return Err(error).with_context(incomplete),
        };
        pushed.with_context(incomplete)?;
    }
    let count = submission.finish().with_context(incomplete)?;
    if too_large > MAX_TOLD {
        print::complain(&format!("{} more inputs are too large", too_large - MAX_TOLD));
    }
    let inputs = format!("{count} input{}", if count == 1 { "" } else { "s" });
    print::complain(&match complete {
        None => format!("job `{id}` has {inputs}"),
        Some(_) => format!("job `{id}` is there already, with the same {inputs}; nothing was changed"),
    });
    print::result(&format!("{id}\n"))?;
    Ok(Exit::Success)
}

fn push(
    submission: &mut Submission<'_>,
    input: crate::map::input::Input,
    job: &job::Job,
    template: Option<&Template>,
    mut tell_large: impl FnMut(Option<&str>, &str),
) -> Result<(), sandgate::durable::DurableError> {
    let name = input.path.as_ref().map(|path| path.display().to_string());
    let argv = template.map(|template| template.filled(input.path.as_deref())).transpose();
    match argv.and_then(|argv| Ok((job.encode(input.bytes)?, argv))) {
        Ok((bytes, argv)) => {
            let input = Input { name, argv, bytes };
            if let Some(problem) = submission.too_large(&input) {
                tell_large(input.name.as_deref(), &problem);
            }
            submission.push(input)
        }
        Err(problem) => submission.refuse(name, problem),
    }
}

fn retries(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_RETRIES);
    count.ok_or_else(|| format!("is not a number from 0 to {MAX_RETRIES}"))
}

fn spec(arguments: &Arguments) -> Result<Spec> {
    let mut text = "popen".to_owned();
    if let Some(size) = &arguments.max_input {
        text = format!("{text}//message={size}");
    }
    for part in &arguments.set {
        text = format!("{text}//{part}");
    }
    Ok(text.parse()?)
}
