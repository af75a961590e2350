//! Receives one `u32` and sends its successor.

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    let value: u32 = channel.receive()?;
    channel.send(&(value + 1))?;
    Ok(())
}
