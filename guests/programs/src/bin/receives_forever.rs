//! Receives on its own channel again and again, whatever it is answered, and sends `()` once at first: only the host ends it.

fn main() -> sandgate_guest::Result {
    let channel = sandgate_guest::channel();
    channel.send(&())?;
    loop {
        let _ = channel.receive_bytes();
    }
}
