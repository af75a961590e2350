//! Panics with "nobody is told", without the SDK: the host sees a trap, and the text on stderr only.

fn main() {
    panic!("nobody is told");
}
