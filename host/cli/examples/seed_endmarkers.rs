//! Results and ends from one queue, also the ends of tasks that wait for ever and are terminated.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod guests;

use std::time::Duration;

use anyhow::bail;
use sandgate::{Event, Group};

fn main() -> anyhow::Result<()> {
    sandgate_worker::run_if_worker();

    let group = Group::new(["popen"; 3])?;
    let channels = group.remote_exec(&guests::module("add_one")?)?;
    let queue = channels.make_receive_queue::<u32>()?;

    channels[0].send(&1_u32)?;
    let (channel, Event::Item(result)) = queue.get()? else { bail!("a result comes before any end") };
    println!("{} sent {result}", channel.gateway_id());
    assert_eq!(result, 2);

    // The other two wait for a number that never comes.
    let report = group.terminate(Duration::from_secs(1));
    for gateway in &report.gateways {
        println!("{} was terminated: {:?}", gateway.gateway, gateway.ending);
    }
    for _ in 0..3 {
        let (channel, Event::End(outcome)) = queue.get()? else { bail!("nobody sends anything any more") };
        println!("{} ended: {outcome}", channel.gateway_id());
    }

    println!("{group:?}");
    assert_eq!(format!("{group:?}"), "<Group []>");
    Ok(())
}
