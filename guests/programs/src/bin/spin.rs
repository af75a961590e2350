//! Computes for ever and calls nothing.

use std::hint::black_box;

fn main() -> sandgate_guest::Result {
    let mut count = 0u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}
