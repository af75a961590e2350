//! A worker that has been taken over, for tests: it misbehaves as the id of its gateway says.
//!
//! A test names it in a spec, as in `id=half-a-frame//worker=PATH`. The host's hello carries the id, which is looked at before
//! anything is read ([`peek`]). [`wire`] has what such a worker writes, [`rings`] what it
//! does to shared memory, and
//! [`native`] what it does behind a real lock-down. As a compiler it is good or bad by the module it
//! gets ([`compiler`]).
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a worker that is wrong in every way: a panic is one more way to end, and stderr takes its last words"
)]

mod compiler;
mod native;
mod peek;
mod rings;
mod wire;

use sandgate_wire::launch::{COMPILER_ARGUMENT, WORKER_ARGUMENT};

fn main() {
    let role = std::env::args().nth(1).unwrap_or_default();
    if role == COMPILER_ARGUMENT {
        compiler::run();
    } else if role == WORKER_ARGUMENT {
        let id = peek::gateway_id();
        if id.starts_with(native::PREFIX) {
            // Does not return: it serves when the attack has come to nothing.
            sandgate_worker::testing::run_if_taken_over(native::attack);
        }
        wire::run(&id);
    } else {
        eprintln!("this is started as a worker, by a test");
        std::process::exit(1);
    }
}
