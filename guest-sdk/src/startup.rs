//! What happens before the guest's own code: constructors, and the hook that tells the host about a panic.
//!
//! The linker collects the functions of all `.init_array` sections into the module's constructors. `_start` runs them
//! before `main`, `_initialize` runs them in a reactor, and the export of a named task, which neither precedes, runs them
//! itself: [`run_constructors`]. One of them is this module's, so "have they run?" has an answer.
//!
//! The linker takes an object file of a library only if something refers to it, so the ways into this crate call
//! [`ensure_linked`]. A guest that uses none of them has no hook: its panic is a trap to the host, and its message is on
//! stderr only.
//!
//! `_start` also sets up libc's idea of a thread, by a function that not every version of wasi-libc has. A task's export
//! goes without: the standard library does not need it, and C code would notice only if it asked for its thread.

use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};

use sandgate_abi::report;

use crate::sys;

/// Whether the constructors of this instance have run.
static CONSTRUCTED: AtomicBool = AtomicBool::new(false);

/// Linked into the constructors by its section; native programs panic as they like.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: the section holds pointers to functions without parameters, as this is one.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

/// Makes the linker take this module, and with it the constructor. Once constructors have run, it does nothing.
pub(crate) fn ensure_linked() {
    if cfg!(target_arch = "wasm32") && !CONSTRUCTED.load(Ordering::Relaxed) {
        construct();
    }
}

/// Runs the module's constructors unless they have run.
pub(crate) fn run_constructors() {
    if !CONSTRUCTED.load(Ordering::Relaxed) {
        sys::call_constructors();
    }
}

extern "C" fn construct() {
    // Another constructor may have used the SDK before this one had its turn.
    if CONSTRUCTED.swap(true, Ordering::Relaxed) {
        return;
    }
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // First, because printing can fail where a limit on output is reached.
        sys::task_report(report::PANIC, &panic_report(info));
        previous(info);
    }));
}

/// `LOCATION '\n' MESSAGE`
fn panic_report(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("a panic without a text");
    match info.location() {
        Some(location) => format!("{location}\n{message}"),
        None => format!("\n{message}"),
    }
}
