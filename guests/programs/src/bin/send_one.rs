//! Sends `1u32`.

fn main() -> sandgate_guest::Result {
    sandgate_guest::channel().send(&1u32)?;
    Ok(())
}
