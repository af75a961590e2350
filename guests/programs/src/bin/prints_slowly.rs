//! A program that knows nothing of sandgate: prints a line, and then sleeps for an hour.

use std::time::Duration;

fn main() {
    println!("now");
    std::thread::sleep(Duration::from_secs(3600));
}
