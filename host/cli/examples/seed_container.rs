//! `MultiChannel`: a container for several channels.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod guests;

use sandgate::{Group, MultiChannel};

fn main() -> anyhow::Result<()> {
    sandgate_worker::run_if_worker();

    let group = Group::new(["popen"; 2])?;
    let one = group[0].remote_exec(&guests::module("send_one")?)?;
    let two = group[1].remote_exec(&guests::module("send_two")?)?;

    let channels = MultiChannel::new([one.clone(), two.clone()]);
    println!("{} channels: {:?}", channels.len(), channels.iter().collect::<Vec<_>>());
    assert_eq!(channels.len(), 2);
    assert!(channels[0] == one && channels[1] == two);
    assert!(channels.contains(&one) && channels.contains(&two));

    let sum: u32 = channels.receive_each::<u32>()?.iter().sum();
    println!("the sum of what each sends is {sum}");
    assert_eq!(sum, 3);
    Ok(())
}
