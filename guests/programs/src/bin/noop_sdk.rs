//! Does nothing, with the SDK linked.

fn main() -> sandgate_guest::Result {
    Ok(())
}
