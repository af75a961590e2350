//! Panics with the SDK linked and never called: its hook tells the host.

use sandgate_guest as _;

fn main() {
    panic!("the hook is told");
}
