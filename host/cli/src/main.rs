//! The `sandgate` command. The same binary is the worker and the compiler when a host starts it as one.
#![forbid(unsafe_code)]

use clap::Parser;

/// Sandboxed WebAssembly workers with execnet's groups, gateways and channels.
///
/// Programs that use the `sandgate` library start this command as their worker process; it needs no arguments from you.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {}

fn main() {
    sandgate_worker::run_if_worker();
    Arguments::parse();
}
