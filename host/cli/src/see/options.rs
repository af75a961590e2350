//! What the user wants to see, as command-line options, and what is known about the pool beforehand.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::endpoint::Listen;

/// Options of `sandgate map` about what is shown; to be flattened into its own.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Seeing")]
pub(crate) struct Options {
    /// Show neither progress nor summary; what goes wrong is told all the same
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Show progress on standard error: bars on a terminal, elsewhere a line every ten seconds, with `always` every two
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    pub(crate) progress: When,
    /// Show no summary at the end
    #[arg(long)]
    pub(crate) no_summary: bool,
    /// Write a page with timeline, latencies, memory and failures
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Write a trace for Perfetto and chrome://tracing
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Write metrics in Prometheus' text format, every few seconds and at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// Answer `GET /metrics` over HTTP while it runs: of this machine alone if there is only a port, any free one if that is 0
    #[arg(long, value_name = "[HOST:]PORT", value_parser = Listen::parse)]
    pub(crate) metrics_listen: Option<Listen>,
}

/// Whether progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum When {
    /// Unless standard error is a terminal on which results are printed
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What is known about a pool and its inputs before it works.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The module's name.
    pub(crate) module: String,
    /// How many gateways there will be.
    pub(crate) gateways: usize,
    /// How many tasks there will be, if that is known.
    pub(crate) inputs: Option<u64>,
    /// Whether results are printed on a standard output that is a terminal: bars would be among them.
    pub(crate) prints_to_terminal: bool,
}
