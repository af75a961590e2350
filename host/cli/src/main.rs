//! The `sandgate` command. The same binary is the worker and the compiler when a host starts it as one.
//!
//! This file is the command line: what there is, and the way from arguments to an exit code. Each subcommand has a file of
//! its own.
#![forbid(unsafe_code)]

mod doctor;
mod exit;
mod map;
mod print;
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
    Doctor(doctor::Arguments),
    Completions(shell::Completions),
    Man(shell::Man),
}

fn main() -> ExitCode {
    sandgate_worker::run_if_worker();
    let result = match Arguments::parse().command {
        Command::Doctor(arguments) => doctor::run(&arguments),
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
