//! The worker of this crate's unit tests: a channel gives back what was sent on it. Each test thread has its own.
//!
//! It never waits: what would wait is TIMEOUT.
#![expect(clippy::unwrap_used, reason = "a unit test's stand-in")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use sandgate_abi::status;

use super::Size;

#[derive(Default)]
struct Loop {
    messages: VecDeque<(Vec<u8>, Vec<u32>)>,
    end: Option<Option<String>>,
}

/// What the functions of this file work on.
#[derive(Default)]
pub(crate) struct Worker {
    channels: BTreeMap<u32, Loop>,
    /// What `call_args` hands out.
    pub(crate) args: Option<(Vec<u8>, Vec<u32>)>,
    /// The reports so far.
    pub(crate) reports: Vec<(i32, String)>,
    /// Handles given back.
    pub(crate) dropped: Vec<u32>,
}

impl Worker {
    fn channel(&mut self, handle: u32) -> Option<&mut Loop> {
        match handle {
            sandgate_abi::TASK_CHANNEL => Some(self.channels.entry(handle).or_default()),
            _ => self.channels.get_mut(&handle),
        }
    }
}

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::default();
}

pub(crate) fn worker<R>(look: impl FnOnce(&mut Worker) -> R) -> R {
    WORKER.with_borrow_mut(look)
}

unsafe fn read<T: Copy>(ptr: *const T, len: usize) -> Vec<T> {
    // SAFETY: the caller of the import says that the pointer is valid for reads of `len` items.
    unsafe { std::slice::from_raw_parts(ptr, len) }.to_vec()
}

unsafe fn write(
    message: &(Vec<u8>, Vec<u32>),
    ptr: *mut u8,
    cap: usize,
    channels: Option<(*mut u32, usize)>,
    size_ptr: *mut Size,
) -> i32 {
    let (bytes, handles) = message;
    let size = Size { bytes: u32::try_from(bytes.len()).unwrap(), channels: u32::try_from(handles.len()).unwrap() };
    let (channels_ptr, channels_cap) = channels.unwrap_or((std::ptr::dangling_mut(), 0));
    // SAFETY: the caller of the import says that `size_ptr` can be written.
    unsafe { size_ptr.write(size) };
    if bytes.len() > cap || handles.len() > channels_cap {
        return status::TOO_SMALL;
    }
    // SAFETY: both lengths were compared with the capacities that the caller of the import vouches for.
    unsafe {
        ptr.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        channels_ptr.copy_from_nonoverlapping(handles.as_ptr(), handles.len());
    }
    status::OK
}

pub(super) unsafe fn channel_send(
    handle: u32,
    ptr: *const u8,
    len: usize,
    channels_ptr: *const u32,
    channels_len: usize,
    _timeout: i64,
) -> i32 {
    // SAFETY: forwarded from the caller.
    let message = unsafe { (read(ptr, len), read(channels_ptr, channels_len)) };
    worker(|worker| match worker.channel(handle) {
        None => status::BAD_HANDLE,
        Some(channel) if channel.end.is_some() => status::CLOSED,
        Some(channel) => {
            channel.messages.push_back(message);
            status::OK
        }
    })
}

pub(super) unsafe fn channel_receive(
    handle: u32,
    ptr: *mut u8,
    cap: usize,
    channels_ptr: *mut u32,
    channels_cap: usize,
    size_ptr: *mut Size,
    _timeout: i64,
) -> i32 {
    worker(|worker| {
        let Some(channel) = worker.channel(handle) else {
            return status::BAD_HANDLE;
        };
        let Some(message) = channel.messages.front() else {
            return match channel.end {
                None => status::TIMEOUT,
                Some(None) => status::CLOSED,
                Some(Some(_)) => status::PEER_ERROR,
            };
        };
        // SAFETY: forwarded from the caller.
        let code = unsafe { write(message, ptr, cap, Some((channels_ptr, channels_cap)), size_ptr) };
        if code == status::OK {
            channel.messages.pop_front();
        }
        code
    })
}

pub(super) unsafe fn channel_wait(handles_ptr: *const u32, handles_len: usize, _timeout: i64) -> i32 {
    // SAFETY: forwarded from the caller.
    let handles = unsafe { read(handles_ptr, handles_len) };
    worker(|worker| {
        let ready = handles.iter().position(|&handle| {
            worker.channel(handle).is_some_and(|channel| !channel.messages.is_empty() || channel.end.is_some())
        });
        ready.map_or(status::TIMEOUT, |index| i32::try_from(index).unwrap())
    })
}

pub(super) unsafe fn channel_close(handle: u32, error_ptr: *const u8, error_len: usize, has_error: i32) -> i32 {
    // SAFETY: forwarded from the caller.
    let text = unsafe { read(error_ptr, error_len) };
    worker(|worker| match worker.channel(handle) {
        None => status::BAD_HANDLE,
        Some(channel) => {
            let error = (has_error == 1).then(|| String::from_utf8(text).unwrap());
            channel.end.get_or_insert(error);
            status::OK
        }
    })
}

pub(super) unsafe fn channel_error(handle: u32, ptr: *mut u8, cap: usize, size_ptr: *mut Size) -> i32 {
    worker(|worker| match worker.channel(handle).map(|channel| &channel.end) {
        None => status::BAD_HANDLE,
        Some(Some(Some(text))) => {
            let message = (text.as_bytes().to_vec(), Vec::new());
            // SAFETY: forwarded from the caller.
            unsafe { write(&message, ptr, cap, None, size_ptr) }
        }
        Some(_) => status::CLOSED,
    })
}

pub(super) unsafe fn channel_new() -> i32 {
    worker(|worker| {
        let handle = worker.channels.keys().last().map_or(1, |last| last + 1);
        worker.channels.insert(handle, Loop::default());
        i32::try_from(handle).unwrap()
    })
}

pub(super) unsafe fn channel_drop(handle: u32) -> i32 {
    worker(|worker| {
        worker.dropped.push(handle);
        status::OK
    })
}

pub(super) unsafe fn call_args(
    ptr: *mut u8,
    cap: usize,
    channels_ptr: *mut u32,
    channels_cap: usize,
    size_ptr: *mut Size,
) -> i32 {
    worker(|worker| {
        let Some(message) = &worker.args else {
            return status::CLOSED;
        };
        // SAFETY: forwarded from the caller.
        let code = unsafe { write(message, ptr, cap, Some((channels_ptr, channels_cap)), size_ptr) };
        if code == status::OK {
            worker.args = None;
        }
        code
    })
}

pub(super) unsafe fn task_report(kind: i32, ptr: *const u8, len: usize) -> i32 {
    // SAFETY: forwarded from the caller.
    let text = String::from_utf8(unsafe { read(ptr, len) }).unwrap();
    worker(|worker| worker.reports.push((kind, text)));
    status::OK
}

pub(super) unsafe fn __wasm_call_ctors() {}
