//! A task processor on each CPU: every task is done once, no result is lost, and all processes end cleanly.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod guests;

use std::time::Duration;

use guest_protocol::Reply;
use sandgate::{Event, Group};

fn main() -> anyhow::Result<()> {
    sandgate_worker::run_if_worker();

    let group = Group::new(["popen"; 4])?; // 4 CPUs

    // Runs the task processor everywhere, with one queue for all that the processes say.
    let channels = group.remote_exec(&guests::module("process_item")?)?;
    let queue = channels.make_receive_queue::<Reply>()?;

    let mut tasks: Vec<u32> = (0..10).collect();
    let mut results = Vec::new();
    let mut terminating = false;
    for event in queue.iter() {
        let (channel, event) = event?;
        let gateway = channel.gateway_id();
        match event {
            Event::Item(Reply::Ready) => println!("other side {gateway} is ready"),
            Event::Item(Reply::Done(result)) => {
                println!("other side {gateway} returned {result}");
                results.push(result);
            }
            Event::End(outcome) => {
                println!("terminated {gateway}: {outcome}");
                continue;
            }
        }
        if let Some(task) = tasks.pop() {
            channel.send(&Some(task))?;
            println!("sent task {task} to {gateway}");
        } else if !terminating {
            println!("no tasks remain, sending termination request to all");
            channels.send_each(&None::<u32>)?;
            terminating = true;
        }
    }
    println!("got all results, terminating");

    let report = group.terminate(Duration::from_secs(5));
    assert!(report.is_clean(), "{report:?}");

    results.sort_unstable();
    println!("results: {results:?}");
    assert_eq!(results, (0..10).map(|task| task * 10).collect::<Vec<_>>());
    Ok(())
}
