//! Scripts in a sandbox: an interpreter is made once, before a snapshot, and each script runs in a fresh instance of that.
//!
//! With `--measure N`, each of N scripts is run in a fresh instance of the module as it is and of its snapshot, in turn, and
//! the times to their first results are printed.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod guests;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_protocol::ScriptValue;
use sandgate::{Group, Module};

/// What every script finds defined.
const PRELUDE: &str = "fn twice(x) { x * 2 }";

fn main() -> Result<()> {
    sandgate_worker::run_if_worker();

    let cold = guests::module("script")?;
    let began = Instant::now();
    let warm = cold.preinitialize("prepare", &(PRELUDE,))?;
    println!("{} has {} bytes, after {:?}", warm.name(), warm.bytes().len(), began.elapsed());

    let group = Group::new(["popen"])?;
    if std::env::args().nth(1).as_deref() == Some("--measure") {
        let count = std::env::args().nth(2).context("how often?")?.parse()?;
        return measure(&group, &cold, &warm, count);
    }

    // A script talks with the host, as a task in any other language does.
    let channel = group[0].remote_exec(&warm)?;
    channel.send(&"channel.send(channel.receive() + 1)")?;
    channel.send(&ScriptValue::Int(41))?;
    println!("the script answers {:?}", channel.receive::<ScriptValue>()?);
    channel.wait_close()?;

    // One that goes wrong fails alone, and says where.
    for source in ["twice(21)", "let x = 1;\nx / 0", "loop { throw \"enough\" }", "twice(4)"] {
        let channel = group[0].remote_exec_fn(&warm, "run", &(source,))?;
        match channel.receive::<ScriptValue>() {
            Ok(value) => println!("{source:?} is {value:?}"),
            Err(error) => println!("{source:?}: {error}"),
        }
    }
    Ok(())
}

/// The time from `remote_exec_fn` to the first result, in turn.
fn measure(group: &Group, cold: &Module, warm: &Module, count: usize) -> Result<()> {
    let run = |module: &Module, source: &str| -> Result<Duration> {
        let began = Instant::now();
        let channel = group[0].remote_exec_fn(module, "run", &(source,))?;
        channel.receive::<ScriptValue>()?;
        let took = began.elapsed();
        channel.wait_close()?;
        Ok(took)
    };
    // Both are compiled and loaded before anything counts.
    run(cold, "1")?;
    run(warm, "1")?;
    let (mut colds, mut warms) = (Vec::new(), Vec::new());
    for number in 0..count {
        let source = format!("{number} + 1");
        colds.push(run(cold, &source)?);
        warms.push(run(warm, &source)?);
    }
    let spread = |times: &mut Vec<Duration>| {
        times.sort();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied();
        (at(10).unwrap_or_default(), at(50).unwrap_or_default(), at(90).unwrap_or_default())
    };
    let (cold, warm) = (spread(&mut colds), spread(&mut warms));
    println!("to the first result, of {count} (10 %, median, 90 %)");
    println!("  as it is         {:>12?} {:>12?} {:>12?}", cold.0, cold.1, cold.2);
    println!("  pre-initialised  {:>12?} {:>12?} {:>12?}", warm.0, warm.1, warm.2);
    println!("  ratio of the medians {:.1}", cold.1.as_secs_f64() / warm.1.as_secs_f64());
    Ok(())
}
