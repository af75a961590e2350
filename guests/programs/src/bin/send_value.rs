//! Sends one number: its argument (`u32`), or 1 without one.

use sandgate_guest::ArgsError;

fn main() -> sandgate_guest::Result {
    let value = match sandgate_guest::args::<u32>() {
        Err(ArgsError::Missing) => 1,
        value => value?,
    };
    sandgate_guest::channel().send(&value)?;
    Ok(())
}
