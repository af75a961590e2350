//! Shows an error, which reports it, then goes on and sends `1u32`: the task does not fail.

use sandgate_guest::Error;

fn main() -> sandgate_guest::Result {
    eprintln!("{:?}", Error::msg("shown only"));
    sandgate_guest::channel().send(&1u32)?;
    Ok(())
}
