//! Receives up to the end of the channel and says nothing.

fn main() -> sandgate_guest::Result {
    for message in sandgate_guest::channel().iter::<()>() {
        // What it is does not matter.
        drop(message);
    }
    Ok(())
}
