//! A callback that gets each message when it comes, while the program does something else.
//!
//! It runs on a thread of its own and may block; then it holds up its own channel and nothing else.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod guests;

use std::sync::mpsc;

use sandgate::{Event, Group};

fn main() -> anyhow::Result<()> {
    sandgate_worker::run_if_worker();

    let group = Group::new(["popen"])?;
    let channel = group[0].remote_exec(&guests::module("receive_then_42")?)?;

    let (collector, collected) = mpsc::channel();
    channel.set_callback(move |event: Event<u32>| {
        if let Event::Item(value) = event {
            // Nobody minds if the program has stopped to listen.
            let _ = collector.send(value);
        }
    })?;
    channel.send(&1_u32)?;
    channel.wait_close()?;

    // The callback was dropped after its last event, and the collector with it.
    let collected: Vec<u32> = collected.iter().collect();
    println!("collected {collected:?}");
    assert_eq!(collected, [42]);
    Ok(())
}
