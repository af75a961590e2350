//! Receives as many messages as its argument (`u32`) says, and then sends how many bytes they had, a `u64`.

fn main() -> sandgate_guest::Result {
    let count: u32 = sandgate_guest::args()?;
    let channel = sandgate_guest::channel();
    let mut message = Vec::new();
    let mut sum = 0u64;
    for _ in 0..count {
        channel.receive_bytes_into(&mut message)?;
        sum += message.len() as u64;
    }
    channel.send(&sum)?;
    Ok(())
}
