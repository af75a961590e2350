//! The `sandgate` command. The same binary is the worker and the compiler when a host starts it as one.
//!
//! This file is the command line: what there is, and the way from arguments to an exit code. Each subcommand has a file of
//! its own.
#![forbid(unsafe_code)]

mod agent;
mod cache;
mod check;
mod doctor;
mod exit;
mod hosts;
mod interrupt;
mod map;
mod new;
mod options;
mod print;
mod queue;
mod run;
mod see;
mod shell;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::Exit;

/// Sandboxed WebAssembly workers with execnet's groups, gateways and channels.
///
/// Programs that use the `sandgate` library start this command as their worker process; that needs no arguments from you.
#[derive(Debug, Parser)]
#[command(name = "sandgate", version, arg_required_else_help = true, after_help = exit::TABLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Arguments>),
    Map(Box<map::Arguments>),
    Submit(Box<queue::submit::Arguments>),
    Work(Box<queue::work::Arguments>),
    Collect(Box<queue::collect::Arguments>),
    Check(check::Arguments),
    New(new::Arguments),
    Cache(cache::Arguments),
    Doctor(doctor::Arguments),
    Agent(agent::Arguments),
    Completions(shell::Completions),
    Man(shell::Man),
}

fn main() -> ExitCode {
    sandgate_worker::run_if_worker();
    sandgate::agent::run_if_agent();
    let arguments = Arguments::try_parse().unwrap_or_else(|error| queue::options::exit_without_secrets(&error));
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Map(arguments) => map::run(&arguments),
        Command::Submit(arguments) => queue::submit::run(&arguments),
        Command::Work(arguments) => queue::work::run(&arguments),
        Command::Collect(arguments) => queue::collect::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::New(arguments) => new::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments, Arguments::command()),
        Command::Man(arguments) => shell::man(&arguments, Arguments::command()),
    };
    exit::code(result).into()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
