//! Prints what its argument ([`Print`]) says to stdout and stderr, then sends `()`.

use guest_protocol::Print;

fn main() -> sandgate_guest::Result {
    let Print { lines, line_bytes, unfinished } = sandgate_guest::args()?;
    let line = "x".repeat(line_bytes as usize);
    for _ in 0..lines {
        println!("{line}");
        eprintln!("{line}");
    }
    if unfinished {
        print!("unfinished");
    }
    sandgate_guest::channel().send(&())?;
    Ok(())
}
