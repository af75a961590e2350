//! `sandgate run`: one execution in the sandbox, with this process's input and output.
//!
//! 1. The module is described: it is refused here if it will not run, and says whether it reads standard input.
//! 2. Standard input is read whole, if it does. What the guest prints goes out as it comes.
//! 3. The execution's end becomes an exit code, and one line on standard error if it is not the program's own.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use sandgate::schema::{ModuleDescription, decode_result};
use sandgate::{Call, Channel, Gateway, Group, LossCause, Module, Outcome, OutputSink, ReceiveError, Stream};
use serde_json::Value;

use crate::exit::{self, Exit};
use crate::interrupt::Interrupt;
use crate::options::{self, Entry, Refused, Sandbox};
use crate::print;

/// Bytes that the execution may print. There is no bound on it, for nothing of it is kept.
const OUTPUT_BYTES: &str = "1000000G";
/// How long a wait lasts before signals and pipes are looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The largest standard input: that of the largest message.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Run a WebAssembly program in the sandbox
///
/// The program is any for wasm32-wasip1. It has this command's standard output and error, and prints as it goes. Its
/// standard input is read whole, up to 64 MiB, before it starts, if it reads any; it has no files, no variables and no
/// network unless options give it some.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate run hello.wasm
  sandgate run jq.wasm -- .name < people.json
  sandgate run --dir /data=./input --timeout 10s --memory 256M report.wasm -- /data/a.csv
  sandgate run --task add tools.wasm -- '[1, 2]'        a task of a module made with the SDK
  sandgate run --init 'load=\"de\"' --task spell tools.wasm -- '\"Haus\"'

Exit codes:
  the program's own (255 for one that is not between 0 and 255), and
  1    a task that returned an error
  2    the command line is wrong
  124  the deadline was reached (--timeout)
  125  it could not be run, as standard error says
  126  the module was refused
  130  interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP
  134  it trapped or panicked
  137  it reached a limit, or its worker was lost")]
pub(crate) struct Arguments {
    /// The module's file
    module: PathBuf,
    /// The program's arguments; with --task, the task's, as JSON
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
    /// Run this task of a module made with the SDK, and print its result as JSON
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Time that it has, as in 10s; [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = options::setting("timeout"))]
    timeout: Option<String>,
    #[command(flatten)]
    sandbox: Sandbox,
}

mod code {
    pub(super) const TIMED_OUT: u8 = 124;
    pub(super) const NOT_RUN: u8 = 125;
    pub(super) const REFUSED: u8 = 126;
    pub(super) const TRAPPED: u8 = 134;
    pub(super) const STOPPED: u8 = 137;
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    match execute(arguments) {
        Err(error) if error.downcast_ref::<Refused>().is_some() => {
            print::complain(&format!("{error:#}"));
            Ok(Exit::Of(code::REFUSED))
        }
        result => Ok(match exit::code(result) {
            Exit::Failure => Exit::Of(code::NOT_RUN),
            exit => exit,
        }),
    }
}

fn execute(arguments: &Arguments) -> Result<Exit> {
    let broken = Arc::new(Mutex::new(None));
    let more = [("timeout", arguments.timeout.as_deref()), ("output", Some(OUTPUT_BYTES))];
    let spec = arguments.sandbox.spec(&more)?.executions(1);
    let module = options::module(&arguments.module, &spec)?;
    // A signal ends this as it ends any command.
    let module = arguments.sandbox.prepared(module, &spec)?;
    let interrupt = Interrupt::install()?;
    let group = Group::builder().output(to_streams(&broken)).build();
    let gateway = group.make_gateway(spec)?;
    let described = options::describe_on(&gateway, &module)?;
    let call = match options::entry(&module, &described, arguments.task.as_deref())? {
        Entry::Program => Call::start().stdin(input(&described)?).argv(&arguments.arguments),
        Entry::Task(name) => task_call(&described, &name, &arguments.arguments)?,
    };
    let channel = gateway.remote_exec_with(&module, &call)?;
    let (ours, group_of) = (interrupt.clone(), gateway.clone());
    interrupt.on_interrupt(move || group_of.kill());
    let ended = wait(&channel, &gateway, &ours, &broken);
    let exit = match (ours.exit(), ended?) {
        (Some(interrupted), _) => interrupted,
        (None, None) => Exit::Success,
        (None, Some((outcome, result))) => {
            if let (true, Some(name)) = (outcome.is_success(), &arguments.task) {
                print_result(&result, &described, name)?;
            }
            exit_of(&module, &outcome)
        }
    };
    gateway.kill();
    Ok(exit)
}

/// The guest's output goes where ours goes. The first error ends that.
fn to_streams(broken: &Arc<Mutex<Option<io::Error>>>) -> OutputSink {
    let broken = Arc::clone(broken);
    OutputSink::pieces(move |piece| {
        let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.is_some() {
            return;
        }
        let write = || match piece.stream {
            Stream::Stderr => io::stderr().lock().write_all(piece.bytes),
            _ => {
                let mut out = io::stdout().lock();
                out.write_all(piece.bytes)?;
                out.flush()
            }
        };
        *broken = write().err();
    })
}

/// Standard input, if the program reads any.
fn input(described: &ModuleDescription) -> Result<Vec<u8>> {
    let reads = |name: &str| matches!(name, "fd_read" | "fd_pread" | "poll_oneoff");
    if !described.is_cut && !described.imports.iter().any(|import| reads(&import.name)) {
        return Ok(Vec::new());
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        print::complain("the program's input is read from the terminal, until Ctrl-D");
    }
    let mut input = Vec::new();
    stdin.lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut input).context("standard input cannot be read")?;
    if input.len() as u64 > MAX_INPUT_BYTES {
        bail!("standard input is larger than {MAX_INPUT_BYTES} bytes, the most that a program can be given");
    }
    Ok(input)
}

fn task_call(described: &ModuleDescription, name: &str, arguments: &[String]) -> Result<Call> {
    let task = described.task(name).with_context(|| format!("task `{name}` does not describe its types"))?;
    let parsed =
        arguments.iter().map(|text| serde_json::from_str(text).with_context(|| format!("`{text}` is not JSON")));
    let mut values: Vec<Value> = parsed.collect::<Result<_>>()?;
    // One argument is as `encode_arguments` has it; several are the task's one by one.
    let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
    Ok(Call::task(name).json_args(task, &value)?)
}

/// Waits for the end of the execution and of its output; `None` if nobody reads that any more.
fn wait(
    channel: &Channel,
    gateway: &Gateway,
    interrupt: &Interrupt,
    broken: &Mutex<Option<io::Error>>,
) -> Result<Option<(Outcome, Vec<u8>)>> {
    let is_over = || {
        let error = broken.try_lock().ok().and_then(|mut broken| broken.take());
        match error {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
            Some(error) => Err(error).context("output cannot be written"),
            None => Ok(interrupt.exit().is_some()),
        }
    };
    let mut last = Vec::new();
    let outcome = loop {
        // What it sends is taken, for a task that sends much would wait otherwise. The last of it is the result.
        match channel.receive_bytes_timeout(LOOK_EVERY) {
            Ok(bytes) => last = bytes,
            Err(ReceiveError::Ended(outcome)) => break outcome,
            Err(_) if is_over()? => return Ok(None),
            Err(_) => {}
        }
    };
    while !gateway.wait_output(LOOK_EVERY) {
        if is_over()? {
            return Ok(None);
        }
    }
    if is_over()? { Ok(None) } else { Ok(Some((outcome, last))) }
}

fn print_result(bytes: &[u8], described: &ModuleDescription, name: &str) -> Result<()> {
    let task = described.task(name).context("the task has lost its description")?;
    let value = decode_result(task, bytes)?;
    print::result(&format!("{value}\n"))?;
    Ok(())
}

fn exit_of(module: &Module, outcome: &Outcome) -> Exit {
    let code = match outcome {
        Outcome::Returned | Outcome::Closed => return Exit::Success,
        // The program's own word, and it has said what there is to say.
        Outcome::Exited { code } => return Exit::Of(u8::try_from(*code).unwrap_or(u8::MAX)),
        Outcome::Failed { .. } => 1,
        Outcome::TimedOut { .. } => code::TIMED_OUT,
        Outcome::Rejected { .. } => code::REFUSED,
        Outcome::Panicked { .. } | Outcome::Trapped { .. } => code::TRAPPED,
        Outcome::LimitExceeded { .. } | Outcome::Killed { .. } => code::STOPPED,
        Outcome::WorkerLost { loss } if matches!(loss.cause, LossCause::Unknown { .. }) => code::NOT_RUN,
        Outcome::WorkerLost { .. } => code::STOPPED,
        _ => code::NOT_RUN,
    };
    print::complain(&format!("`{}`: {outcome}", module.name()));
    Exit::Of(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome, code: u8) {
        let module = Module::from_bytes(*b"x").unwrap();
        assert_eq!(exit_of(&module, &outcome).code(), code, "{outcome}");
    }

    #[test]
    fn an_outcome_has_its_code() {
        check(Outcome::Returned, 0);
        check(Outcome::Exited { code: 7 }, 7);
        check(Outcome::Exited { code: 256 }, 255);
        check(Outcome::Exited { code: -1 }, 255);
        check(Outcome::Failed { message: String::new() }, 1);
        check(Outcome::TimedOut { after: Duration::from_secs(1) }, 124);
        check(Outcome::Trapped { kind: sandgate::TrapKind::Unreachable, backtrace: vec![], stack_bytes: None }, 134);
        check(Outcome::LimitExceeded { limit: sandgate::LimitName::Fuel, value: 1 }, 137);
    }
}
