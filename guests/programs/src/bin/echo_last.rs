//! Receives messages up to the end of the channel and sends the last one back, as it is. Without any it sends nothing.
//!
//! When the host closed both directions, the send fails with "closed", and so does the task.

use sandgate_guest::ReceiveError;

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    let mut last = None;
    loop {
        match channel.receive_bytes() {
            Ok(bytes) => last = Some(bytes),
            Err(ReceiveError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(bytes) = last {
        channel.send_bytes(&bytes)?;
    }
    Ok(())
}
