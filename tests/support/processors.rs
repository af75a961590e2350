//! The task processors of the seed document, over whatever gateways a group has.

use std::time::Duration;

use guest_protocol::Reply;
use sandgate::{Event, Group, Module, Outcome};

use crate::fixtures::guest;

/// Has one processor on each gateway take ten tasks, sees that each has its result and each processor its end, and terminates
/// the group. Each wait takes `patience` at most.
///
/// # Panics
/// When something is missing, doubled or late, or an end is not clean.
pub fn process_ten_tasks(group: &Group, patience: Duration) {
    let module = Module::from_file(guest("process_item")).expect("a module");
    let channels = group.remote_exec(&module).expect("it is accepted");
    let queue = channels.make_receive_queue::<Reply>().expect("a queue");
    let mut tasks: Vec<u32> = (0..10).collect();
    let (mut results, mut ended, mut terminating) = (Vec::new(), 0, false);
    while ended < channels.len() {
        let (channel, event) = queue.get_timeout(patience).expect("an event in time");
        match event {
            Event::End(outcome) => {
                assert_eq!(outcome, Outcome::Returned, "of {channel:?}");
                ended += 1;
                continue;
            }
            Event::Item(Reply::Done(result)) => results.push(result),
            Event::Item(Reply::Ready) => {}
        }
        if let Some(task) = tasks.pop() {
            channel.send_timeout(&Some(task), patience).expect("it takes a task");
        } else if !terminating {
            channels.send_each(&None::<u32>).expect("they take the end");
            terminating = true;
        }
    }
    let report = group.terminate(patience);
    assert!(report.is_clean(), "{report:?}");
    results.sort_unstable();
    assert_eq!(results, (0..10).map(|task| task * 10).collect::<Vec<u32>>());
}
