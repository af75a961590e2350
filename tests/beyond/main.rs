//! Gateways elsewhere, over every kind of link that this machine can have: the far end is this machine too, reached by a
//! launcher or by ssh. What they share is in [`places`].
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod agents;
mod bounds;
mod changing;
mod joining;
mod launchers;
mod losses;
mod network;
mod packets;
mod places;
mod pools;
mod secure_shell;
mod trust;
