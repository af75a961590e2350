//! The imports, as `sandgate-abi` describes them. A `usize` is a `u32` on this target.

use super::Size;

const _: () = assert!(
    matches!(sandgate_abi::IMPORT_MODULE.as_bytes(), b"sandgate_v1"),
    "an attribute cannot read a constant: change the name below and here, for a new version of the contract"
);

#[link(wasm_import_module = "sandgate_v1")]
unsafe extern "C" {
    pub(super) fn channel_send(
        handle: u32,
        ptr: *const u8,
        len: usize,
        channels_ptr: *const u32,
        channels_len: usize,
        timeout: i64,
    ) -> i32;
    pub(super) fn channel_receive(
        handle: u32,
        ptr: *mut u8,
        cap: usize,
        channels_ptr: *mut u32,
        channels_cap: usize,
        size_ptr: *mut Size,
        timeout: i64,
    ) -> i32;
    pub(super) fn channel_wait(handles_ptr: *const u32, handles_len: usize, timeout: i64) -> i32;
    pub(super) fn channel_close(handle: u32, error_ptr: *const u8, error_len: usize, has_error: i32) -> i32;
    pub(super) fn channel_error(handle: u32, ptr: *mut u8, cap: usize, size_ptr: *mut Size) -> i32;
    pub(super) fn channel_new() -> i32;
    pub(super) fn channel_drop(handle: u32) -> i32;
    pub(super) fn call_args(
        ptr: *mut u8,
        cap: usize,
        channels_ptr: *mut u32,
        channels_cap: usize,
        size_ptr: *mut Size,
    ) -> i32;
    pub(super) fn task_report(kind: i32, ptr: *const u8, len: usize) -> i32;
}

unsafe extern "C" {
    /// Defined by the linker.
    pub(super) fn __wasm_call_ctors();
    /// Defined by the compiler for a program that has a `main`.
    pub(super) fn __main_void() -> i32;
}
