//! Takes three channels as its argument and sends `(position, Some(value))` for each `u32` that comes on one of them, and
//! `(position, None)` when one ends, until all have.

use sandgate_guest::{Channel, ReceiveError, wait};

fn main() -> sandgate_guest::Result {
    let report = sandgate_guest::channel();
    let channels: [Channel; 3] = sandgate_guest::args()?;
    let mut open: Vec<(u32, &Channel)> = (0..).zip(&channels).collect();
    while !open.is_empty() {
        let waiting: Vec<&Channel> = open.iter().map(|&(_, channel)| channel).collect();
        let ready = wait(&waiting)?;
        let (position, channel) = open[ready];
        match channel.try_receive::<u32>() {
            Ok(Some(value)) => report.send(&(position, Some(value)))?,
            Ok(None) => {}
            Err(ReceiveError::Closed) => {
                open.remove(ready);
                report.send(&(position, None::<u32>))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
