//! Sends as many messages of as many bytes as its arguments `(u32, u32)` say.

fn main() -> sandgate_guest::Result {
    let (count, length): (u32, u32) = sandgate_guest::args()?;
    let channel = sandgate_guest::channel();
    let message = vec![0x5a; usize::try_from(length)?];
    for _ in 0..count {
        channel.send_bytes(&message)?;
    }
    Ok(())
}
