//! Traps in the way that its argument ([`Trap`]) says. Nothing is sent.

use std::hint::black_box;

use guest_protocol::Trap;

fn main() -> sandgate_guest::Result {
    match sandgate_guest::args()? {
        Trap::Unreachable => unreachable(),
        Trap::DivisionByZero => divide(black_box(1), black_box(0)),
        Trap::OutOfBounds => out_of_bounds(),
        Trap::StackOverflow => drop(black_box(recurse(black_box(0)))),
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
    black_box(unsafe { a.checked_div(b).unwrap_unchecked() });
}

fn out_of_bounds() {
    let address = black_box(u32::MAX as usize & !7) as *const u64;
    // SAFETY: none; an address outside of linear memory is what this is for. It traps on this target.
    black_box(unsafe { address.read_volatile() });
}

fn recurse(depth: u64) -> u64 {
    if depth == black_box(u64::MAX) {
        return 0;
    }
    let frame = black_box([depth; 16]);
    recurse(depth + 1) + frame[3]
}

fn indirect_call() {
    let address: usize = black_box(u32::MAX as usize);
    // SAFETY: none; a call through a function pointer that is none is what this is for. It traps on this target.
    let function: fn() = unsafe { std::mem::transmute(address) };
    function();
}
