//! Receives a message, whatever it is, and sends `42u32`.

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    channel.receive_bytes()?;
    channel.send(&42u32)?;
    Ok(())
}
