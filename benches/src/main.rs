//! Measures sandgate beside its peers, on one machine and in one run, and prints one table.
//!
//! ```text
//!  catalogue ─► rounds ──┬─► ours: the library, with the worker of SANDGATE_WORKER ──────┐
//!     ▲           │ ▲    └─► the other: a script of peers/, or this process without us ──┴─► samples ─► stats ─► results
//!     │           └─┘ A B B A …                                                                                    │
//!     └ the same parameters for both sides                                       table, RESULTS.md, JSON, plots ◄──┘
//! ```
//!
//! `cargo xtask bench` builds and installs what this needs and runs it; README.md says how. A row that fails is reported in
//! its place, one that never ends is ended ([`watchdog`]), and the rest of the table stands.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for a terminal")]

mod bare;
mod busy;
mod calls;
mod catalogue;
mod copies;
mod delayed;
mod first_result;
mod fixtures;
mod fresh;
mod hostile;
mod idle;
mod instructions;
mod interpreter;
mod machine;
mod order;
mod peer;
mod ping_pong;
mod plot;
mod remote_exec;
mod results;
mod rounds;
mod rows;
mod saturation;
mod script;
mod stats;
mod streams;
mod table;
mod tasks;
mod terminate;
mod watchdog;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sandgate::isolation::Layer;

use crate::fixtures::Fixtures;
use crate::machine::Machine;
use crate::peer::Peers;
use crate::results::Results;
use crate::rows::{Effort, Row};

/// Measures sandgate beside its peers and prints one table.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --", after_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    program: Option<Program>,
    /// Takes fewer samples in fewer rounds: to see that all works, not to compare
    #[arg(long)]
    quick: bool,
    /// How often each row is measured, both sides in turn; 7, or 3 with --quick. What takes long has fewer rounds
    #[arg(long)]
    rounds: Option<NonZeroU32>,
    /// Measures the row of this name alone, or those whose names begin with it; may be given again
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Leaves the peers out
    #[arg(long)]
    no_peers: bool,
    /// Writes the results with every round's figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes benches/RESULTS.md, the figures beside it as JSON, and the plots
    #[arg(long)]
    write_results: bool,
    /// Writes the plots into this directory
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// Prints the names of the rows and what they measure
    #[arg(long)]
    list: bool,
}

/// What is measured without a peer, each with a table of its own.
#[derive(Debug, Clone, Subcommand)]
enum Program {
    /// Time past the deadline at which each kind of hostile guest is stopped
    Interruption {
        /// Runs of each kind
        #[arg(long, default_value_t = 200)]
        runs: u32,
        /// Runs the kinds whose name contains this
        #[arg(long)]
        only: Option<String>,
        /// Fails unless each kind ends within this time of its deadline, as in `10ms`, and names those that do not
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        assert: Option<Duration>,
        /// The share of its runs that has to, from 0 to 1
        #[arg(long, value_name = "SHARE", default_value_t = 0.99, value_parser = share, requires = "assert")]
        quantile: f64,
    },
    /// Hostile executions in a row, and what host and worker hold meanwhile
    Hostile {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: u32,
    },
    /// Instructions of the hot paths, counted by valgrind: the same on a noisy machine. Compared with `benches/instructions.json`
    Instructions {
        /// Writes them there, to be compared with from now on
        #[arg(long)]
        write: bool,
        /// Fails and names the paths that take so many percent more than they did
        #[arg(long, value_name = "PERCENT")]
        assert: Option<f64>,
    },
    /// Messages to a task and back, each compared with what was sent in its place
    Order {
        /// How many each way
        #[arg(long, default_value_t = 100_000_000)]
        count: u64,
        /// Over what
        #[arg(long, value_enum, default_value = "both")]
        transport: order::Over,
    },
    /// Prints what the host needs for each gateway
    #[command(hide = true)]
    HostMemory {
        #[arg(long)]
        gateways: usize,
    },
    /// Runs a command behind a slow network
    #[command(hide = true)]
    Delayed {
        #[arg(value_parser = humantime::parse_duration)]
        delay: Duration,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// What each layer of the defence costs
    Layers {
        /// How often each is measured, with and without in turn
        #[arg(long, default_value_t = 15)]
        rounds: u32,
        /// Tasks of 100 µs in a sample
        #[arg(long, default_value_t = 200)]
        tasks: u32,
    },
}

const ENVIRONMENT: &str = "\
Environment, all of it set by `cargo xtask bench`:
  SANDGATE_WORKER        the `sandgate` binary, built in release
  SANDGATE_GUESTS        the directory of the guests' modules
  SANDGATE_BENCH_PYTHON  a Python that has the peers
  SANDGATE_CPYTHON       the module of CPython";

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("it is not from 0 to 1".to_owned()) }
}

/// Where in RESULTS.md that begins which the table's run does not write.
const REST: &str = "# The defence";

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every row was measured.
fn run(cli: &Cli) -> Result<bool> {
    let effort = if cli.quick { Effort::Quick } else { Effort::Full };
    let rows = chosen(catalogue::all(effort), &cli.only)?;
    if cli.list {
        rows.iter().for_each(|row| println!("{:<22}  {}", row.key, row.title));
        return Ok(true);
    }
    if let Some(Program::Instructions { write, assert }) = &cli.program {
        return instructions::run(*write, *assert);
    }
    if let Some(Program::Delayed { delay, command }) = &cli.program {
        return delayed::run(*delay, command).map(|()| true);
    }
    let fixtures = Fixtures::from_environment()?;
    match &cli.program {
        Some(Program::Interruption { runs, only, assert, quantile }) => {
            let bound = assert.map(|time| hostile::interruption::Bound { time, quantile: *quantile });
            return hostile::interruption::run(&fixtures, *runs, only.as_deref(), bound);
        }
        Some(Program::Hostile { count }) => return hostile::many::run(&fixtures, *count).map(|()| true),
        Some(Program::Order { count, transport }) => return order::run(&fixtures, *count, *transport).map(|()| true),
        Some(Program::Layers { rounds, tasks }) => {
            return hostile::layers::run(&fixtures, *rounds, *tasks).map(|()| true);
        }
        Some(Program::HostMemory { gateways }) => {
            println!("{}", idle::host_memory(&fixtures, *gateways)?);
            return Ok(true);
        }
        Some(Program::Instructions { .. } | Program::Delayed { .. }) | None => {}
    }
    let peers = (!cli.no_peers).then(Peers::from_environment);
    let rounds = cli.rounds.map_or(effort.rounds(), NonZeroU32::get);

    let machine = Machine::describe();
    let sandbox = sandbox(&fixtures)?;
    let measured = rounds::measure(&rows, &fixtures, peers.as_ref(), rounds);
    let results = Results { sandbox, ..Results::new(machine, effort, rounds, peers.as_ref(), &rows, &measured) };

    print!("{}", table::text(&results));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(path) = &cli.json {
        write(path, &serde_json::to_string_pretty(&results)?)?;
    }
    if let Some(directory) = &cli.plots {
        write_plots(&results, directory)?;
    }
    if cli.write_results {
        write_plots(&results, &directory.join("plots"))?;
        write(&directory.join("results.json"), &serde_json::to_string(&results)?)?;
        let path = directory.join("RESULTS.md");
        // What stands there of other programs' runs stays.
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let rest = old.find(REST).map_or("", |start| &old[start..]);
        write(&path, &(table::markdown(&results) + "\n" + rest))?;
    }
    Ok(results.is_complete())
}

/// Which layers of the system's sandbox are in force around a worker as the rows start theirs.
fn sandbox(fixtures: &Fixtures) -> Result<String> {
    let report = fixtures.group(1)?[0].isolation();
    let missing = Layer::ALL.into_iter().filter(|layer| !report.is_enforced(*layer));
    let missing: Vec<String> = missing.map(|layer| layer.to_string()).collect();
    Ok(if missing.is_empty() {
        "every layer is in force".to_owned()
    } else {
        format!("without {}", missing.join(", "))
    })
}

fn write_plots(results: &Results, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
    plot::all(results).iter().try_for_each(|(name, svg)| write(&directory.join(name).with_extension("svg"), svg))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

fn chosen(mut rows: Vec<Row>, only: &[String]) -> Result<Vec<Row>> {
    let unknown = only.iter().find(|name| !rows.iter().any(|row| row.key.starts_with(name.as_str())));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        bail!("there is no row `{unknown}`; there are: {}", known.join(", "));
    }
    let whole: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
    let picks =
        |name: &str, key: &str| if whole.iter().any(|key| key == name) { key == name } else { key.starts_with(name) };
    rows.retain(|row| only.is_empty() || only.iter().any(|name| picks(name, &row.key)));
    Ok(rows)
}
