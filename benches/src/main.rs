//! Measures sandgate beside execnet, on one machine and in one run, and prints one table.
//!
//! ```text
//!  rows ──► rounds ──┬─► ours: the library, with the worker of SANDGATE_WORKER ──┐
//!     ▲        │ ▲   └─► the peer: one run of peers/execnet_peer.py a question ──┴─► samples ──► stats ──► table
//!     │        └─┘ A B A B …
//!     └ the same parameters for both sides
//! ```
//!
//! `cargo xtask bench` builds and installs what this needs and runs it. A row that fails is reported in its place, and the
//! rest of the table stands.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for a terminal")]

mod first_result;
mod fixtures;
mod hostile;
mod idle;
mod machine;
mod peer;
mod ping_pong;
mod remote_exec;
mod results;
mod rounds;
mod rows;
mod stats;
mod streams;
mod table;
mod tasks;
mod terminate;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::fixtures::Fixtures;
use crate::machine::Machine;
use crate::peer::Peer;
use crate::results::Results;
use crate::rows::{Effort, Row};

/// Measures sandgate beside execnet and prints one table.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --", after_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    program: Option<Program>,
    /// Takes fewer samples in fewer rounds: to see that all works, not to compare
    #[arg(long)]
    quick: bool,
    /// How often each row is measured, ours and the peer in turn; 7, or 3 with --quick
    #[arg(long)]
    rounds: Option<NonZeroU32>,
    /// Measures this row alone; may be given again
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Leaves the peer out
    #[arg(long)]
    no_peer: bool,
    /// Writes the results with every round's figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table to benches/RESULTS.md
    #[arg(long)]
    write_results: bool,
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
    },
    /// Hostile executions in a row, and what host and worker hold meanwhile
    Hostile {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: u32,
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
  SANDGATE_BENCH_PYTHON  a Python that has execnet";

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
    let rows = chosen(rows::all(effort), &cli.only)?;
    if cli.list {
        rows.iter().for_each(|row| println!("{:<18}  {}", row.key, row.title));
        return Ok(true);
    }
    let fixtures = Fixtures::from_environment()?;
    match &cli.program {
        Some(Program::Interruption { runs, only }) => {
            return hostile::interruption::run(&fixtures, *runs, only.as_deref()).map(|()| true);
        }
        Some(Program::Hostile { count }) => return hostile::many::run(&fixtures, *count).map(|()| true),
        Some(Program::Layers { rounds, tasks }) => {
            return hostile::layers::run(&fixtures, *rounds, *tasks).map(|()| true);
        }
        None => {}
    }
    let peer = if cli.no_peer { None } else { Some(Peer::from_environment()?) };
    let rounds = cli.rounds.map_or(effort.rounds(), NonZeroU32::get);

    let machine = Machine::describe();
    let measured = rounds::measure(&rows, &fixtures, peer.as_ref(), rounds);
    let results = Results::new(machine, effort, rounds, peer.and_then(|peer| peer.version()), &rows, &measured);

    print!("{}", table::text(&results));
    if let Some(path) = &cli.json {
        let json = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, json).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    if cli.write_results {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md");
        std::fs::write(path, table::markdown(&results)).with_context(|| format!("cannot write `{path}`"))?;
    }
    Ok(results.failures.is_empty())
}

fn chosen(mut rows: Vec<Row>, only: &[String]) -> Result<Vec<Row>> {
    let known: Vec<_> = rows.iter().map(|row| row.key).collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no row `{unknown}`; there are: {}", known.join(", "));
    }
    rows.retain(|row| only.is_empty() || only.iter().any(|name| name == row.key));
    Ok(rows)
}
