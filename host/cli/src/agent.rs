//! `sandgate agent`: what a launcher starts on another machine, for a host that has `exec=` in a spec.

use anyhow::Result;
use clap::Args;
use sandgate::agent::Bounds;

use crate::exit::Exit;
use crate::print;

/// Serve a host over standard input and output: what `exec=` in a gateway's spec has to start
#[derive(Debug, Args)]
#[command(after_help = "\
Examples, as specs of gateways elsewhere:
  exec=docker run -i --rm IMAGE sandgate agent
  exec=kubectl exec -i POD -- sandgate agent
  exec=sudo -u nobody sandgate agent
  ssh=me@host                              starts it by itself, and copies it there if it has to

For hosts that are to have guests here and nothing else, in ~/.ssh/authorized_keys of an account made for it:
  restrict,command=\"sandgate agent --confined\" ssh-ed25519 AAAA… somebody

Exit codes:
  0    the host has closed the link, or is gone
  1    there was no link, or it was lost, as standard error says
  2    the command line is wrong")]
pub(crate) struct Arguments {
    /// Gives the host guests and nothing else: no other programs, no directories, no sandbox with less than this machine has
    #[arg(long)]
    confined: bool,
    /// Most processes that the host may have here at once
    #[arg(long, value_name = "N", default_value_t = sandgate::agent::DEFAULT_PROCESSES)]
    max_processes: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let mut bounds = if arguments.confined { Bounds::confined() } else { Bounds::default() };
    bounds.processes = arguments.max_processes;
    match sandgate::agent::run(bounds) {
        Ok(()) => Ok(Exit::Success),
        Err(error) => {
            print::complain(&format!("{:#}", anyhow::Error::from(error)));
            Ok(Exit::No)
        }
    }
}
