//! Does nothing and does not link the SDK: the smallest module.

fn main() {}
