//! What sandgate task modules are written with.
//!
//! A *task* is a program in a sandbox: an ordinary binary crate, built with
//! `cargo build --release --target wasm32-wasip1`. The host runs its `main`, or one of its named [`task`]s, and talks with
//! it through a [`Channel`].
//!
//! ```no_run
//! // src/main.rs
//! fn main() -> sandgate_guest::Result<()> {
//!     let channel = sandgate_guest::channel();
//!     for number in channel.iter::<u32>() {
//!         // ends when the host closes the channel
//!         channel.send(&(number? * 10))?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Where a value goes
//!
//! ```text
//!  T ── Channel::send ──► message: bytes and handles ──► sys ──┃ abi ┃──► worker ──► host
//!  T ◄─ Channel::receive ◄─ message: bytes and handles ◄── sys ──┃ abi ┃◄── worker ◄── host
//! ```
//!
//! Values are encoded with [postcard](https://docs.rs/postcard), so any type that serde can describe will do; both sides
//! use the same one. [`Channel::send_bytes`] and [`Channel::receive_bytes`] do without an encoding.
//!
//! # How a task ends
//!
//! | in the guest | what the host sees |
//! |---|---|
//! | `main` or the task's function returns | returned |
//! | it returns an `Err` | failed, with the text of the [`Error`] and its sources |
//! | a panic | panicked, with its text and location; the text is on stderr as well |
//! | `std::process::exit(code)` | exited, with the code |
//! | the arguments of a named task cannot be decoded | rejected, with the reason |
//!
//! A panic ends the task, because the target cannot unwind. To tell the host about it, the crate sets a panic hook before
//! `main` runs. It does so in every program that has a task, uses a channel or arguments, or whose `main` returns
//! [`Result`]; in one that only depends on this crate, a panic is a trap to the host.
//!
//! # Natively
//!
//! The crate builds for other targets so that a guest can be checked and unit-tested there. Without a worker, every call on
//! a channel fails with `NotAllowed`.
#![deny(missing_docs)]

mod args;
mod channel;
mod error;
mod init;
mod message;
mod operation;
mod serve;
mod startup;
mod sys;
mod task;

pub use crate::args::args;
pub use crate::channel::{Channel, Iter, channel, new_channel, wait, wait_timeout};
pub use crate::error::{Error, Result};
pub use crate::operation::{
    ArgsError, CloseError, DecodeError, EncodeError, NewChannelError, ReceiveError, SendError, WaitError,
};
pub use crate::serve::serve;

/// Derives [`Schema`](trait@Schema): see [`task`](macro@crate::task), and for its
/// attributes the one of [`sandgate_schema`](derive@sandgate_schema::Schema).
pub use sandgate_guest_macros::GuestSchema as Schema;
/// Makes a function an init function, after which a snapshot of the module is taken: `Module::preinitialize`.
///
/// What the function leaves in statics and in thread locals is there in every fresh instance of the snapshot, for its
/// `main` and its tasks: an interpreter, a parsed configuration, a loaded model.
///
/// ```no_run
/// use std::sync::OnceLock;
/// use sandgate_guest::{Result, init, task};
///
/// static WORDS: OnceLock<Vec<String>> = OnceLock::new();
///
/// /// `module.preinitialize("load", &("a list of words",))`
/// #[init]
/// fn load(text: String) -> Result {
///     let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
///     words.sort();
///     WORDS.set(words).map_err(|_| sandgate_guest::Error::msg("it was loaded before"))
/// }
///
/// /// Finds the words loaded, and nothing that another task did with them.
/// #[task]
/// fn has(word: String) -> bool {
///     WORDS.get().is_some_and(|words| words.binary_search(&word).is_ok())
/// }
///
/// fn main() {}
/// ```
///
/// # Input and result
///
/// The input is passed as a task's arguments are: one tuple with a member for each parameter. The function returns nothing,
/// or a `Result` whose `Err` is the host's error then, as a panic is; there is no snapshot in either case.
///
/// # What it can do
///
/// It runs by itself, before there is a task: every use of a channel fails with `NotAllowed`. It has no directories and no
/// environment. Its clocks stand still and its random numbers are the same each time, unless the host grants something
/// else; what the program makes of them, such as the keys of a `HashMap`, is the same in all instances of the snapshot.
/// What the C library has found out by then stays as it is: no directories, if the function looked for a file, and no
/// variables, if it read one.
///
/// # In a library
///
/// The snapshot's `main` is called without the constructors, which have run. In a crate that has no `main` (a `cdylib`)
/// write `#[init(library)]`.
///
/// # Limits
///
/// As for [`task`](macro@crate::task). No snapshot can be taken of a module with instructions that change tables.
pub use sandgate_guest_macros::init;
/// Makes a function a named task, which the host runs by `remote_exec_fn`.
///
/// The function stays as it is and can be called as before; the module gets an export named `sandgate_task:NAME`. One
/// module can have any number of tasks, besides its `main`, which is not run then.
///
/// ```no_run
/// use sandgate_guest::{Channel, Result, task};
///
/// /// `remote_exec_fn(&module, "process_item", &(10u32,))`
/// #[task]
/// fn process_item(channel: Channel, factor: u32) -> Result {
///     for item in channel.iter::<u32>() {
///         channel.send(&(item? * factor))?;
///     }
///     Ok(())
/// }
///
/// /// `remote_exec_fn(&module, "add", &(1u32, 2u32))`; the sum is the only item of the task's channel.
/// #[task]
/// fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
///
/// fn main() {}
/// ```
///
/// # Arguments
///
/// If the type of the first parameter is called `Channel`, or is a reference to it, the function gets the task's own
/// [`channel`]. The other parameters, which can be of any type that owns its data and that serde can decode, and which may
/// be channels as well, are what the host passes: one tuple with a member for each. A single one is passed as `(x,)`, none
/// as `()`. Arguments that do not fit, or are more than the function takes, end the task as *rejected*; the function is not
/// called.
///
/// # Result
///
/// A `Result` that is an `Err` ends the task as *failed*; its error must be one that [`Error`] can be made of. Any other
/// value, and that of an `Ok`, is sent on the task's channel as the last item, except for `()`.
///
/// # Limits
///
/// The function is free, not async, not unsafe and has no generic parameters. The export needs an attribute that
/// `#![forbid(unsafe_code)]` refuses, although no unsafe code is involved. The names of a module's tasks differ, wherever
/// they are defined.
///
/// # Description
///
/// The module gets a custom section that describes the task: its name, this documentation (1 KiB of it), its parameters
/// and its result. A type that implements [`Schema`] is described, any other one is *opaque*: the task works all the same,
/// but a host cannot make its arguments from JSON. Numbers, texts, options, tuples, lists, maps, channels and what consists
/// of these have a schema; your own types derive one:
///
/// ```no_run
/// use sandgate_guest::{Schema, task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Schema)]
/// struct Job {
///     name: String,
///     sizes: Vec<u32>,
/// }
///
/// /// Adds all sizes.
/// #[task]
/// fn total(job: Job) -> u32 {
///     job.sizes.iter().sum()
/// }
///
/// fn main() {}
/// ```
pub use sandgate_guest_macros::task;
pub use sandgate_schema::__private::Schema;

/// Types that describe themselves.
pub mod schema {
    pub use sandgate_guest_macros::GuestSchema as Schema;
    pub use sandgate_schema::*;
}

#[doc(hidden)]
pub mod __private {
    pub use sandgate_schema::__private as schema;

    #[cfg(target_arch = "wasm32")]
    pub use crate::init::run_main;
    pub use crate::init::{InitResult, run_init};
    pub use crate::task::{KindOfResult, KindOfValue, ResultKind, Returned, ValueKind, run_task};
}
