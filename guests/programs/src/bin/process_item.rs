//! A task processor that sits on each CPU: sends `Reply::Ready`, and `Reply::Done(x * 10)` for each `Some(x)` after a sleep
//! of 0 to 20 ms. `None` or the end of the channel ends it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::thread;
use std::time::Duration;

use guest_protocol::Reply;

const MAX_SLEEP_MILLIS: u64 = 20;

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    channel.send(&Reply::Ready)?;
    for item in channel.iter::<Option<u32>>() {
        let Some(item) = item? else { break };
        // The standard library's one way to random numbers: the keys of a hash map.
        let random = RandomState::new().hash_one(item);
        thread::sleep(Duration::from_millis(random % (MAX_SLEEP_MILLIS + 1)));
        channel.send(&Reply::Done(item * 10))?;
    }
    Ok(())
}
