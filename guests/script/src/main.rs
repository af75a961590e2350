//! Runs scripts in the language [Rhai](https://rhai.rs): the host sends source text, and the script talks with the host.
//!
//! ```text
//!  host                          script
//!  send(source: String) ───────► channel.receive() + 1
//!  send(ScriptValue) ──────────►    │
//!  receive::<ScriptValue>() ◄──── channel.send(..)
//! ```
//!
//! `main` takes the source as the first message; the task `run` takes it as its argument and gives back the value of the
//! last expression. Both run it in an engine that the init function has made, if there was one, and otherwise in a new one.
//! An error of the script is the task's, with its line.

mod engine;
mod value;

use guest_protocol::ScriptValue;
use sandgate_guest::{Channel, Error, Result, channel, init, task};

/// Makes the engine, and defines the functions of a script that every later script can call.
#[init]
fn prepare(prelude: String) -> Result {
    engine::prepare(&prelude).map_err(Error::msg)
}

/// Runs a script and gives back its value.
#[task]
fn run(_channel: Channel, source: String) -> Result<ScriptValue> {
    engine::run(&source).map_err(Error::msg)
}

fn main() -> Result {
    let source: String = channel().receive()?;
    engine::run(&source).map_err(Error::msg)?;
    Ok(())
}
