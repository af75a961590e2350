//! Thousands of hostile executions in a row on one worker, and what host and worker hold after each tenth of them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandgate::{Call, Limits, Module, OutputSink};

use crate::fixtures::Fixtures;
use crate::hostile::kinds::{BRIEF, ENDLESS};
use crate::machine::Machine;

/// The time that those have that would not end.
const TIMEOUT: Duration = Duration::from_millis(4);
/// All of memory takes too long for a run of so many; the table of interruptions has them.
const TOO_LARGE: &str = "1 GiB";

/// Runs so many executions, all kinds in turn, and prints a table.
pub(crate) fn run(fixtures: &Fixtures, count: u32) -> Result<()> {
    println!("{}", Machine::describe().summary());
    let kinds: Vec<_> = BRIEF.iter().chain(ENDLESS).filter(|kind| !kind.name.contains(TOO_LARGE)).collect();
    println!("{count} executions of {} kinds in turn, on one worker\n", kinds.len());
    let modules: Vec<Module> = kinds.iter().map(|kind| kind.module()).collect::<Result<_>>()?;
    let group = fixtures.builder().output(OutputSink::Discard).build();
    let gateway = group.make_gateway("popen")?;
    let sibling = gateway.remote_exec(&fixtures.module("echo")?)?;
    let pid = gateway.pid().context("a worker has a process")?;
    let limits = Limits { wall_time: Some(TIMEOUT), ..Limits::default() };
    let call = Call::start().limits(limits);
    println!(
        "{:>10}{:>10}{:>12}{:>10}{:>10}{:>10}{:>12}{:>10}{:>10}",
        "", "seconds", "host MB", "fds", "threads", "children", "worker MB", "fds", "threads"
    );
    let start = Instant::now();
    let part = (count / 10).max(1);
    let mut outcomes = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..count {
        if number % part == 0 {
            print_held(number, start, pid)?;
        }
        let channel = gateway.remote_exec_with(&modules[number as usize % modules.len()], &call)?;
        let _ = channel.wait_close_timeout(Duration::from_secs(30));
        let outcome = channel.outcome().with_context(|| format!("execution {number} does not end"))?;
        let name = format!("{outcome:?}");
        let name: String = name.chars().take_while(char::is_ascii_alphabetic).collect();
        *outcomes.entry(name).or_default() += 1;
        if number % 100 == 0 {
            sibling.send_timeout(&number, Duration::from_secs(10))?;
            ensure!(sibling.receive_timeout::<u32>(Duration::from_secs(10))? == number, "the sibling is confused");
        }
    }
    print_held(count, start, pid)?;
    println!("\noutcomes: {outcomes:?}");
    ensure!(gateway.pid() == Some(pid) && gateway.is_alive(), "the worker was lost on the way");
    Ok(())
}

fn print_held(number: u32, start: Instant, worker: u32) -> Result<()> {
    let count = |of: &str, what: &str| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{of}/{what}"))?.count()) };
    let worker = worker.to_string();
    println!(
        "{number:>10}{:>10.1}{:>12.1}{:>10}{:>10}{:>10}{:>12.1}{:>10}{:>10}",
        start.elapsed().as_secs_f64(),
        megabytes("self")?,
        count("self", "fd")?,
        count("self", "task")?,
        children()?,
        megabytes(&worker)?,
        // A worker that is locked in does not show them to everybody.
        count(&worker, "fd").map_or_else(|_| "?".to_owned(), |count| count.to_string()),
        count(&worker, "task")?,
    );
    Ok(())
}

fn megabytes(process: &str) -> Result<f64> {
    let statm = fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages: f64 = statm.split(' ').nth(1).context("a number of pages")?.parse()?;
    Ok(pages * 4096.0 / 1e6)
}

fn children() -> Result<usize> {
    let mut children = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let list = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children += list.split_whitespace().count();
    }
    Ok(children)
}
