//! `sandgate agent`: what a launcher starts on another machine, for a host that has `exec=` in a spec.

use anyhow::Result;
use clap::Args;

use crate::exit::Exit;

/// Serve a host over standard input and output: what `exec=` in a gateway's spec has to start
#[derive(Debug, Args)]
#[command(after_help = "\
Examples, as specs of gateways elsewhere:
  exec=docker run -i --rm IMAGE sandgate agent
  exec=kubectl exec -i POD -- sandgate agent
  exec=sudo -u nobody sandgate agent
  ssh=me@host                              starts it by itself, and copies it there if it has to

Exit codes: 0 when the host has closed the link, 1 if there was none.")]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<Exit> {
    sandgate::agent::run()?;
    Ok(Exit::Success)
}
