//! A program that knows nothing of sandgate: upper-cases its standard input, and tells its arguments and environment on
//! standard error. The first argument may be `exit` with a code, `abort`, or `flood`.

use std::io::{Read, Write};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).expect("standard input");
    input.make_ascii_uppercase();
    std::io::stdout().write_all(&input).expect("standard output");
    let variables: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    eprint!("{arguments:?} {variables:?}");
    std::io::stdout().flush().expect("standard output");
    match arguments.first().map(String::as_str) {
        Some("exit") => std::process::exit(arguments[1].parse().expect("a code")),
        Some("abort") => std::process::abort(),
        Some("flood") => loop {
            std::io::stdout().write_all(&[b'x'; 1000]).expect("standard output");
        },
        _ => {}
    }
}
