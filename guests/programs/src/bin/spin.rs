//! Computes for ever and calls nothing.

use std::hint::black_box;

fn main() {
    // The SDK is linked, but never called.
    use sandgate_guest as _;
    let mut count = 0u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}
