//! A *link*: the way to another machine, which carries everything between a host and the agent there.
//!
//! ```text
//!  host ══ stdin and stdout of an ssh client, or of any other launcher ══ agent ── local transport ── worker
//!          │ hello · beats                                          │     └────── local transport ── worker
//!          │ requests and answers ([`message`])                     │
//!          └ streams, one for each worker, each with its own credit ┘
//! ```
//!
//! A link is one byte stream that others share. So it is cut into frames with checksums ([`frame`]), each stream on it may
//! send only what the far end has room for ([`stream`]), streams take turns (`writing`), and both sides say so often that
//! they are there that silence means something ([`mod@core`]). The streams implement the traits of [`crate::transport`]: what
//! is above does not see that its worker is elsewhere.

pub mod core;
pub mod frame;
pub mod message;
pub mod pipes;
pub mod stream;
mod writing;

#[cfg(test)]
mod tests;

pub use self::core::{Link, LinkEnd};
pub use self::stream::{StreamItem, StreamReceive, StreamSend};
