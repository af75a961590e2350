//! Receives `u32` up to the end of the channel and sends their sum as `u64` on the channel that is its argument.

use sandgate_guest::Channel;

fn main() -> sandgate_guest::Result {
    let result: Channel = sandgate_guest::args()?;
    let mut sum = 0u64;
    for number in sandgate_guest::channel().iter::<u32>() {
        sum += u64::from(number?);
    }
    result.send(&sum)?;
    Ok(())
}
