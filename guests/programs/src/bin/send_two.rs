//! Sends `2u32`.

fn main() -> sandgate_guest::Result {
    sandgate_guest::channel().send(&2u32)?;
    Ok(())
}
