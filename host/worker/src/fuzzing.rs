//! The bodies of the fuzz targets `guest_abi` and `preflight`, and their seeds. Built for tests and for cargo-fuzz only; see
//! `fuzz/README.md`.

mod abi;
mod guest;
mod host;
mod preflight;

pub use abi::{guest_abi, guest_abi_seeds};
pub use preflight::{preflight, preflight_seeds};
