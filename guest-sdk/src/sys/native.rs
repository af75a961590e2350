//! Outside of a worker there are no channels: every function answers NOT_ALLOWED. This lets a guest crate be checked,
//! documented and tested natively, as far as its code does not talk.

use sandgate_abi::status::NOT_ALLOWED;

use super::Size;

pub(super) unsafe fn channel_send(_: u32, _: *const u8, _: usize, _: *const u32, _: usize, _: i64) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn channel_receive(_: u32, _: *mut u8, _: usize, _: *mut u32, _: usize, _: *mut Size, _: i64) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn channel_wait(_: *const u32, _: usize, _: i64) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn channel_close(_: u32, _: *const u8, _: usize, _: i32) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn channel_error(_: u32, _: *mut u8, _: usize, _: *mut Size) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn channel_new() -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn channel_drop(_: u32) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn call_args(_: *mut u8, _: usize, _: *mut u32, _: usize, _: *mut Size) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn task_report(_: i32, _: *const u8, _: usize) -> i32 {
    NOT_ALLOWED
}

pub(super) unsafe fn __wasm_call_ctors() {}
