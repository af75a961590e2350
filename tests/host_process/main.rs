//! A host for tests to look at from outside, and to kill: runs guests on a gateway each and, when all have begun, does what it
//! was told.
//!
//! `host-process MODE GUEST..`, where a guest is the name of one, or a path of a `.wasm` file; `spec:SPEC` before it says what
//! its gateway, and those of the next ones, are to be. It prints the workers' process
//! ids in one line when all guests have begun, waits for the end of its stdin, and then:
//!
//! | mode | does |
//! |---|---|
//! | `terminate` | terminates its group |
//! | `leave` | drops its group and returns from `main` |
//! | `exit` | calls `exit` without dropping anything |
//!
//! A guest in the middle of sending, computing or sleeping cannot say so. What it can be asked is whether it runs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "stdout is how it talks with the test")]

use std::error::Error;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sandgate::{Channel, Group, Module, OutputSink};

const BEGIN_LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match host(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn host(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mode = arguments.next().ok_or("no mode")?;
    let group = Group::builder().output(OutputSink::Discard).build();
    let mut channels = Vec::new();
    let mut spec = "popen".to_owned();
    for guest in arguments {
        if let Some(text) = guest.strip_prefix("spec:") {
            spec = text.to_owned();
            continue;
        }
        let gateway = group.make_gateway(&spec)?;
        channels.push(gateway.remote_exec(&module(&guest)?)?);
    }
    wait_until_all_run(&group, &channels)?;
    let pids: Vec<String> = group.iter().filter_map(|gateway| Some(gateway.pid()?.to_string())).collect();
    println!("{}", pids.join(" "));

    std::io::stdin().read_to_end(&mut Vec::new())?;
    match &mode[..] {
        "terminate" => drop(group.terminate(Duration::from_secs(1))),
        "leave" => {}
        "exit" => std::process::exit(0),
        mode => return Err(format!("no mode `{mode}`").into()),
    }
    Ok(())
}

fn module(guest: &str) -> Result<Module, Box<dyn Error>> {
    if guest.ends_with(".wasm") {
        return Ok(Module::from_file(guest)?);
    }
    let directory = std::env::var("SANDGATE_GUESTS")?;
    Ok(Module::from_file(format!("{directory}/{guest}.wasm"))?)
}

fn wait_until_all_run(group: &Group, channels: &[Channel]) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    for (gateway, channel) in group.iter().zip(channels) {
        while gateway.status()?.running == 0 {
            if channel.is_closed() || start.elapsed() > BEGIN_LIMIT {
                return Err(format!("{channel:?} does not begin: {:?}", channel.outcome()).into());
            }
        }
    }
    Ok(())
}
