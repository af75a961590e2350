//! `sandgate doctor`: what this machine enforces around a worker, layer by layer, and whether it is true.
//!
//! 1. A worker is started as any gateway's is, and says what is in force around it; it compiles and runs two modules.
//! 2. Each layer is tried by itself, in processes of their own: what must work, and what must not ([`self_test`]).
//! 3. All of it is printed, as a table or as JSON, and the exit code says whether the policy holds.

mod machine;
mod report;
mod self_test;
mod worker;

use anyhow::Result;
use clap::Args;
use sandgate::isolation::{Demand, Layer, Policy, State};

use crate::exit::Exit;
use crate::print;
use report::{Diagnosis, LayerRow};

/// Tell what this machine enforces around a worker, layer by layer, and test it
///
/// Starts a worker and asks what is in force around it; then tries each layer by itself: what must work behind it, and what
/// must not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate doctor                          a table for a person
  sandgate doctor --json | jq .holds       the same for a script
  sandgate doctor --require all            fails unless every layer is wholly in force
  sandgate doctor --require seccomp,landlock

The default policy prefers every layer: it holds if a worker starts under it, compiles, runs and stops a guest, and no
layer that claims to be in force fails its self-test. Layers that this machine lacks are listed with the way to get them.

Exit codes: 0 if the policy holds, 1 if it does not, 2 for a wrong command line.")]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Layers without which the policy does not hold, with commas between them, or `all`
    #[arg(long, value_name = "LAYER", value_delimiter = ',', value_parser = required)]
    require: Vec<Required>,
}

#[derive(Debug, Clone, Copy)]
enum Required {
    All,
    One(Layer),
}

fn required(name: &str) -> Result<Required, String> {
    if name == "all" {
        return Ok(Required::All);
    }
    let known = || Layer::ALL.map(Layer::name).join(", ");
    name.parse().map(Required::One).map_err(|_| format!("no layer has this name; there are {}, and `all`", known()))
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let policy = arguments.require.iter().fold(Policy::default(), |policy, required| match required {
        Required::All => Policy::all(Demand::Require),
        Required::One(layer) => policy.with(*layer, Demand::Require),
    });
    let diagnosis = diagnose(&policy);
    let text = if arguments.json { diagnosis.to_json() + "\n" } else { diagnosis.to_string() };
    print::result(&text)?;
    Ok(if diagnosis.holds() { Exit::Success } else { Exit::No })
}

fn diagnose(policy: &Policy) -> Diagnosis {
    let worker = worker::check();
    let tests = self_test::run_all();
    let isolation = worker.isolation.clone().unwrap_or_default();
    let layers = Layer::ALL.into_iter().map(|layer| LayerRow {
        layer,
        required: policy.demand(layer) == Demand::Require,
        state: isolation.state(layer).cloned().unwrap_or_else(|| State::Missing("no worker said anything".to_owned())),
        tests: tests.iter().filter(|test| test.layer == layer).cloned().collect(),
    });
    Diagnosis { machine: machine::describe(), worker, layers: layers.collect() }
}
