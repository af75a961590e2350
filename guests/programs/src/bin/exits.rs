//! Exits with the code that is its argument (`i32`).

use std::process;

fn main() -> sandgate_guest::Result {
    process::exit(sandgate_guest::args()?)
}
