//! Takes a number of bytes as its argument (`u32`), and for each message it receives sends two: an empty one, and one of
//! that many bytes right after it.

use sandgate_guest::ReceiveError;

fn main() -> sandgate_guest::Result {
    let length: u32 = sandgate_guest::args()?;
    let big = vec![0xb1; length as usize];
    let channel = sandgate_guest::channel();
    loop {
        match channel.receive_bytes() {
            Ok(_) => {
                channel.send_bytes(&[])?;
                channel.send_bytes(&big)?;
            }
            Err(ReceiveError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
