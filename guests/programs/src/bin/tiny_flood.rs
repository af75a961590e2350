//! Sends messages of one byte for ever.

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    loop {
        channel.send_bytes(&[7])?;
    }
}
