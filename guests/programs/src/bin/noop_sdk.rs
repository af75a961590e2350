//! Does nothing, with the SDK linked.

use sandgate_guest as _;

fn main() {}
