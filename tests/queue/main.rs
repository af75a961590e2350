//! The durable queue, with the shipped command and real NATS servers: what goes in comes out once, whatever dies meanwhile, and
//! nothing that is secret is told. Each test has a server of its own ([`server`]).
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

mod client;
mod cluster;
mod commands;
mod credentials;
mod hostile;
mod hosts;
mod kinds;
mod losses;
mod marathon;
mod reviving;
mod round;
mod secrets;
mod server;
mod stopping;
