//! Traps in the way that its argument ([`Trap`]) says. Nothing is sent.

use std::hint::{assert_unchecked, black_box};

use guest_protocol::Trap;

fn main() -> sandgate_guest::Result {
    match sandgate_guest::args()? {
        Trap::Unreachable => unreachable(),
        Trap::DivisionByZero => divide(black_box(1), black_box(0)),
        Trap::OutOfBounds => out_of_bounds(),
        Trap::StackOverflow => _ = black_box(recurse(black_box(0), black_box(u64::MAX))),
        Trap::IndirectCall => indirect_call(),
    }
    Ok(())
}

/// The instruction itself, without the panic that Rust's macro of that name is.
fn unreachable() {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
}

/// Rust checks a division and panics, so the check is removed.
#[inline(never)]
fn divide(a: u32, b: u32) {
    // SAFETY: none; a division by zero is what this is for. It traps on this target.
    unsafe { assert_unchecked(b != 0) };
    black_box(a / b);
}

fn out_of_bounds() {
    let address = black_box(u32::MAX as usize & !7) as *const u64;
    // SAFETY: none; an address outside of linear memory is what this is for. It traps on this target.
    black_box(unsafe { address.read_volatile() });
}

/// Keeps nothing in linear memory, so that it is the call stack that overflows. The other kind, of a function with large
/// locals, leaves linear memory at address 0 and is out of bounds.
#[inline(never)]
fn recurse(depth: u64, end: u64) -> u64 {
    if depth == end {
        return 0;
    }
    recurse(depth + 1, end).rotate_left(5) ^ depth
}

fn indirect_call() {
    let address: usize = black_box(u32::MAX as usize);
    // SAFETY: none; a call through a function pointer that is none is what this is for. It traps on this target.
    let function: fn() = unsafe { std::mem::transmute(address) };
    function();
}
