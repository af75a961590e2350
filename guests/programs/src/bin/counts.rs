//! Sends `0u32` up to the number that is its argument (`u32`), which is not sent.

fn main() -> sandgate_guest::Result {
    let count: u32 = sandgate_guest::args()?;
    let channel = sandgate_guest::channel();
    for number in 0..count {
        channel.send(&number)?;
    }
    Ok(())
}
