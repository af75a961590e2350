//! Counts what a Rust source text consists of.
//!
//! [`audit_source`] is a function of its text alone: natively and in a guest it gives the same numbers, and the same error
//! for a text that is not Rust. It recurses as deep as the text nests, so a hostile text can overflow the stack: run it
//! where that is a task's end and not the program's.
//!
//! [`Request`] and [`Response`] are what the `audit` guest speaks.
#![forbid(unsafe_code)]

mod count;
mod protocol;

pub use crate::count::{Report, audit_bytes, audit_source};
pub use crate::protocol::{Request, Response};
