//! `sandgate completions` and `sandgate man`: what a shell and a manual want to know, made from the command line itself.

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::print;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate completions bash > ~/.local/share/bash-completion/completions/sandgate
  sandgate completions zsh  > ~/.zfunc/_sandgate
  sandgate completions fish > ~/.config/fish/completions/sandgate.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page, in roff
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate man | man -l -
  sandgate man map > /usr/local/share/man/man1/sandgate-map.1")]
pub(crate) struct Man {
    /// A subcommand, for a page of its own
    subcommand: Option<String>,
}

pub(crate) fn completions(arguments: &Completions, mut command: Command) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "sandgate", &mut script);
    print::result(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

pub(crate) fn man(arguments: &Man, mut command: Command) -> Result<Exit> {
    command.build();
    let page = match &arguments.subcommand {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            found.with_context(|| format!("there is no subcommand `{name}`; `sandgate --help` has them"))?
        }
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff)?;
    print::result(&String::from_utf8_lossy(&roff))?;
    Ok(Exit::Success)
}
