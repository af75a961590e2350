//! Safe forms of the functions a worker offers: slices and vectors in, status codes out.
//!
//! This module and the two below it hold all unsafe code of the SDK and decide nothing: a status means what
//! `sandgate-abi` says, and what to do about it is the caller's business.

#[cfg(all(not(target_arch = "wasm32"), test))]
pub(crate) mod loopback;
#[cfg(all(not(target_arch = "wasm32"), not(test)))]
mod native;
#[cfg(target_arch = "wasm32")]
mod wasm;

#[cfg(all(not(target_arch = "wasm32"), test))]
use loopback as imports;
#[cfg(all(not(target_arch = "wasm32"), not(test)))]
use native as imports;
#[cfg(target_arch = "wasm32")]
use wasm as imports;

use std::mem::MaybeUninit;

use sandgate_abi::{MAX_MESSAGE_CHANNELS, status};

/// Room for the handles of one message. The contract limits their number, so it never has to grow.
pub(crate) const HANDLES: usize = MAX_MESSAGE_CHANNELS as usize;

/// The handles of one message. Their room is not cleared before the worker writes to it: that would be a call out of the
/// instance for each message.
#[derive(Debug)]
pub(crate) struct Handles {
    room: [MaybeUninit<u32>; HANDLES],
    /// So many stand there.
    given: usize,
}

impl Handles {
    pub(crate) const fn new() -> Self {
        Handles { room: [const { MaybeUninit::uninit() }; HANDLES], given: 0 }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        // SAFETY: `received` alone sets `given`, to a number within the room of handles that the worker has written.
        self.room[..self.given].iter().map(|handle| unsafe { handle.assume_init() })
    }

    /// Notes how many of them were written by a call that ended in `code`.
    fn received(&mut self, code: i32, size: Size) {
        let given = size.channels as usize;
        assert!(code != status::OK || given <= HANDLES, "the worker said OK to handles that do not fit");
        self.given = if code == status::OK { given } else { 0 };
    }
}

/// The size the worker writes: the layout of `sandgate_abi::SIZE_BYTES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Length of the message in bytes.
    pub(crate) bytes: u32,
    /// Number of channels in the message.
    pub(crate) channels: u32,
}

const _: () = assert!(
    size_of::<Size>() == sandgate_abi::SIZE_BYTES as usize,
    "the worker writes SIZE_BYTES: change this struct, not the number"
);

pub(crate) fn channel_send(handle: u32, bytes: &[u8], handles: &[u32], timeout: i64) -> i32 {
    // SAFETY: both pointers are valid for reads of the lengths next to them while the call runs.
    unsafe { imports::channel_send(handle, bytes.as_ptr(), bytes.len(), handles.as_ptr(), handles.len(), timeout) }
}

/// Replaces the contents of `bytes`, as far as its capacity goes, and `handles` with the next message.
pub(crate) fn channel_receive(handle: u32, bytes: &mut Vec<u8>, handles: &mut Handles, timeout: i64) -> (i32, Size) {
    let room = handles.room.as_mut_ptr().cast();
    let (code, size) = fill(bytes, |ptr, cap, size| {
        // SAFETY: `fill` gives `cap` writable bytes at `ptr`; `room` has `HANDLES` places, which like `size` are
        // borrowed exclusively.
        unsafe { imports::channel_receive(handle, ptr, cap, room, HANDLES, size, timeout) }
    });
    handles.received(code, size);
    (code, size)
}

/// As [`channel_receive`], for the arguments of this execution.
pub(crate) fn call_args(bytes: &mut Vec<u8>, handles: &mut Handles) -> (i32, Size) {
    let room = handles.room.as_mut_ptr().cast();
    let (code, size) = fill(bytes, |ptr, cap, size| {
        // SAFETY: `fill` gives `cap` writable bytes at `ptr`; `room` has `HANDLES` places, which like `size` are
        // borrowed exclusively.
        unsafe { imports::call_args(ptr, cap, room, HANDLES, size) }
    });
    handles.received(code, size);
    (code, size)
}

/// Replaces the contents of `bytes`, as far as its capacity goes, with the text of a peer's error.
pub(crate) fn channel_error(handle: u32, bytes: &mut Vec<u8>) -> (i32, Size) {
    fill(bytes, |ptr, cap, size| {
        // SAFETY: `fill` gives `cap` writable bytes at `ptr`; `size` is an exclusive borrow.
        unsafe { imports::channel_error(handle, ptr, cap, size) }
    })
}

pub(crate) fn channel_wait(handles: &[u32], timeout: i64) -> i32 {
    // SAFETY: the pointer is valid for reads of `handles.len()` numbers.
    unsafe { imports::channel_wait(handles.as_ptr(), handles.len(), timeout) }
}

pub(crate) fn channel_close(handle: u32, error: Option<&str>) -> i32 {
    let text = error.unwrap_or("");
    // SAFETY: the pointer is valid for reads of `text.len()` bytes.
    unsafe { imports::channel_close(handle, text.as_ptr(), text.len(), i32::from(error.is_some())) }
}

pub(crate) fn channel_new() -> i32 {
    // SAFETY: the function takes nothing.
    unsafe { imports::channel_new() }
}

pub(crate) fn channel_drop(handle: u32) -> i32 {
    // SAFETY: the function takes a number; one that is no handle has a status of its own.
    unsafe { imports::channel_drop(handle) }
}

pub(crate) fn task_report(kind: i32, text: &str) -> i32 {
    // SAFETY: the pointer is valid for reads of `text.len()` bytes.
    unsafe { imports::task_report(kind, text.as_ptr(), text.len()) }
}

/// Runs the module's constructors. At most once in an instance: the caller sees to it.
pub(crate) fn call_constructors() {
    // SAFETY: the linker defines the function; constructors of this crate can run at any time, and those of C libraries
    // expect what is the case here: that they run before the code that needs them, and once.
    unsafe { imports::__wasm_call_ctors() }
}

/// Runs the program's `main`, whose constructors have run, and returns its exit code.
#[cfg(target_arch = "wasm32")]
pub(crate) fn call_main() -> i32 {
    // SAFETY: of a program, `rustc` defines the function with this type for the C library's `_start` to call.
    unsafe { imports::__main_void() }
}

fn fill(bytes: &mut Vec<u8>, call: impl FnOnce(*mut u8, usize, *mut Size) -> i32) -> (i32, Size) {
    bytes.clear();
    let mut size = Size::default();
    let code = call(bytes.as_mut_ptr(), bytes.capacity(), &mut size);
    if code == status::OK {
        let len = size.bytes as usize;
        assert!(len <= bytes.capacity(), "the worker said OK to a message that does not fit");
        // SAFETY: the length is within the capacity, and OK says that the worker wrote that many bytes.
        unsafe { bytes.set_len(len) };
    }
    (code, size)
}
