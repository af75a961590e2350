//! Sends `"asleep"` and sleeps for 1000 s.

use std::thread;
use std::time::Duration;

fn main() -> sandgate_guest::Result {
    sandgate_guest::channel().send("asleep")?;
    thread::sleep(Duration::from_secs(1000));
    Ok(())
}
