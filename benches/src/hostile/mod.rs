//! Measures hostile guests: how late they are stopped ([`interruption`]), whether ten thousand of them leave anything behind
//! ([`many`]), and what each layer of the defence costs ([`layers`]). These have no peer, and tables of their own.

pub(crate) mod interruption;
mod kinds;
pub(crate) mod layers;
pub(crate) mod many;
