//! `cargo xtask`: every chore of this repository as one command, with the set-up it needs.
//!
//! This file is the command line and nothing else. Each command reads as a list of steps in a file of its own, and every
//! step is a process that [`process`] starts.
//!
//! What xtask has to say goes to stderr; stdout belongs to what was asked for, so that `$(cargo xtask guests --print-dir)`
//! works.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "xtask is a program for a terminal")]

mod foreign;
mod fuzz;
mod guests;
mod peers;
mod process;
mod programs;
mod servers;
mod suite;
mod toolchain;
mod workspace;

use std::num::NonZeroU32;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::workspace::Workspace;

/// The chores of this repository. Each command does its own set-up.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    chore: Option<Chore>,
}

const ENVIRONMENT: &str = "\
Environment:
  SANDGATE_GUEST_TOOLCHAIN=rustup|distro  builds guests with this toolchain, instead of the first that works
  SANDGATE_CPYTHON=none                   runs the tests where CPython's module cannot be fetched; also _QUICKJS, _FLITE
  SANDGATE_BENCH_BASE_PYTHON              makes the environment of the benchmarks' peers with this Python
  CARGO_TARGET_DIR                        as for cargo; guests are built in its subdirectory `guests`";

#[derive(Debug, Subcommand)]
enum Chore {
    /// Runs every check and every test: formatting, lints, documentation, doctests, tests
    Test(TestArgs),
    /// Builds the guests and says where they are
    Guests {
        /// Prints the directory on stdout, and nothing else
        #[arg(long)]
        print_dir: bool,
    },
    /// Builds everything in release and runs the demo, the example `audit`
    Demo {
        /// Arguments of the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds everything in release, installs the peers beside it, and runs the benchmarks; see benches/README.md
    Bench {
        /// Arguments of the benchmarks
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzzes what takes bytes from strangers: one target, or each in its turn; see fuzz/README.md
    Fuzz {
        /// Name of the target
        target: Option<String>,
        /// How long each runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// What CI runs: the same as `test`
    Ci,
    /// Runs the tests again and again, without lints and doctests, until one fails
    Soak {
        /// How often
        #[arg(long)]
        times: NonZeroU32,
    },
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Leaves out formatting, lints and documentation
    #[arg(long)]
    no_lint: bool,
    /// Filters and options of the test runner
    #[arg(last = true)]
    runner_args: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Some(chore) = cli.chore else {
        Cli::command().print_help()?;
        return Ok(());
    };
    let workspace = Workspace::find()?;
    match chore {
        Chore::Test(args) => suite::test(&workspace, !args.no_lint, &args.runner_args),
        Chore::Ci => suite::test(&workspace, true, &[]),
        Chore::Soak { times } => suite::soak(&workspace, times.get()),
        Chore::Guests { print_dir } => {
            let dir = guests::build(&workspace)?.dir;
            if print_dir {
                println!("{}", dir.display());
            } else {
                println!("guests are in {}", dir.display());
            }
            Ok(())
        }
        Chore::Demo { args } => programs::demo(&workspace, &args),
        Chore::Fuzz { target, seconds } => fuzz::fuzz(&workspace, target.as_deref(), seconds),
        Chore::Bench { args } => programs::bench(&workspace, &args),
    }
}
