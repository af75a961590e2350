//! Sends messages of 1 KiB for ever. The first eight bytes of each are its number, little-endian.

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    let mut message = [0x5a; 1024];
    for number in 0u64.. {
        message[..8].copy_from_slice(&number.to_le_bytes());
        channel.send_bytes(&message)?;
    }
    Ok(())
}
