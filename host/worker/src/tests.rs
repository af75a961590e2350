//! The worker in a thread of this process, driven by a scripted host over a socket pair. Guests are inline text, so that
//! the reader sees guest and expectation together.

mod abi;
mod bulk;
mod compiling;
mod dozing;
mod ending;
mod granted;
pub(crate) mod host;
mod landing;
mod leading;
mod lifecycle;
mod limits;
mod memory;
mod module_limits;
mod pocket;
mod promptness;
mod stopping;
mod straight;
