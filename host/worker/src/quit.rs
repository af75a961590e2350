//! The end of the process, by whichever of its threads comes to it first.
//!
//! `std::process::exit` is not for this: a thread that ends the process while another one does is to wait in a system call that
//! a locked process may not make, and the main thread's stack for signals is gone by then, so that the worker died by SIGSEGV
//! instead of ending. It also runs what libraries do at an end, on pages that nothing else needs any more.
#![expect(unsafe_code, reason = "_exit has no safe wrapper")]

/// Ends the process at once, whatever its threads are doing. Nothing is flushed.
pub(crate) fn quit(code: i32) -> ! {
    // SAFETY: `_exit` takes a number and has no preconditions; any thread may call it, at any time.
    unsafe { libc::_exit(code) }
}
