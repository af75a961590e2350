//! Sends every message back as it is, up to the end of the channel.

use sandgate_guest::ReceiveError;

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    let mut bytes = Vec::new();
    loop {
        match channel.receive_bytes_into(&mut bytes) {
            Ok(()) => channel.send_bytes(&bytes)?,
            Err(ReceiveError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
