//! A queue of what several processes send, as it comes.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod guests;

use std::time::Duration;

use sandgate::{Event, Group, MultiChannel};

fn main() -> anyhow::Result<()> {
    sandgate_worker::run_if_worker();

    let group = Group::new(["popen"; 2])?;
    let one = group[0].remote_exec(&guests::module("send_one")?)?;
    let two = group[1].remote_exec(&guests::module("send_two")?)?;
    let queue = MultiChannel::new([one, two]).make_receive_queue::<u32>()?;

    // Two results and two ends come; each channel's end after its result.
    let mut sum = 0;
    let mut take = |(channel, event)| match event {
        Event::Item(result) => {
            println!("{channel:?} sent {result}");
            sum += result;
        }
        Event::End(outcome) => println!("{channel:?} ended: {outcome}"),
    };
    take(queue.get()?);
    take(queue.get_timeout(Duration::from_secs(3))?);
    // Or all that is left, until every channel has ended.
    for event in queue.iter() {
        take(event?);
    }

    println!("the sum is {sum}");
    assert_eq!(sum, 3);
    Ok(())
}
