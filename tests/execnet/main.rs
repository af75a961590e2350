//! The tests of execnet 2.1.2, carried over by behaviour: a file of tests for each file of execnet's, a test of the same name
//! for each test that means something here.
//!
//! `tests/EXECNET.md` says of every original where it went, or why it went nowhere. Where execnet has a defect that this
//! project does not share, the test asserts what is right.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod basics;
mod channel;
mod gateway;
mod multi;
mod table;
mod termination;
mod xspec;
