//! Files and directories, for guests that were given some: wasmtime-wasi's functions, behind a look for a stop and for
//! whether the descriptor can be theirs.
//!
//! Descriptors 0 to 2 are this worker's own ([`crate::wasi`]); wasmtime-wasi's begin at 3. Its functions are asynchronous
//! in name only, since it may block this thread: they are done when they return, so no runtime is started for them. A
//! guest is stopped before and after such a function, not inside.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::{Caller, Linker};
pub(crate) use wasmtime_wasi::p1::wasi_snapshot_preview1 as original;
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wiggle::GuestMemory;

use crate::guest::Guest;
use crate::hostcalls::parts;
use crate::imports::WASI;
use crate::wasi::{check_stop, errno};

/// Bytes that one function may allocate for its guest; wasmtime's own default.
pub(crate) const ALLOCATION_BYTES: usize = 128 << 20;

/// The descriptors that are this worker's own.
pub(crate) const OWN_DESCRIPTORS: u32 = 3;

/// Calls one of wasmtime-wasi's functions for a guest that has directories.
macro_rules! files {
    ($caller:ident, $name:ident($($argument:ident),*)) => {
        files!($caller, $name($($argument),*), at_once)
    };
    ($caller:ident, $name:ident($($argument:ident),*), $result:expr) => {{
        check_stop($caller.data())?;
        let (memory, guest) = parts(&mut $caller);
        if !guest.has_directories {
            return Ok(errno::BADF);
        }
        guest.wasi().set_hostcall_fuel(crate::wasi_files::ALLOCATION_BYTES);
        let mut memory = GuestMemory::Unshared(memory);
        $result(original::$name(guest.wasi(), &mut memory, $($argument),*))
    }};
}
pub(crate) use files;

/// Those whose descriptors can only be files or directories.
macro_rules! define {
    ($linker:ident, $($name:ident($($argument:ident: $ty:ty),*);)*) => {$(
        $linker.func_wrap(
            WASI,
            stringify!($name),
            |mut caller: Caller<'_, Guest>, $($argument: $ty),*| -> wasmtime::Result<i32> {
                files!(caller, $name($($argument),*))
            },
        )?;
    )*};
}

pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    define! { linker,
        fd_advise(fd: i32, offset: i64, length: i64, advice: i32);
        fd_datasync(fd: i32);
        fd_filestat_set_size(fd: i32, size: i64);
        fd_filestat_set_times(fd: i32, accessed: i64, modified: i64, flags: i32);
        fd_pread(fd: i32, buffers: i32, count: i32, offset: i64, out: i32);
        fd_pwrite(fd: i32, buffers: i32, count: i32, offset: i64, out: i32);
        fd_readdir(fd: i32, buffer: i32, length: i32, cookie: i64, out: i32);
        fd_sync(fd: i32);
        path_create_directory(fd: i32, path: i32, length: i32);
        path_filestat_get(fd: i32, flags: i32, path: i32, length: i32, out: i32);
        path_filestat_set_times(fd: i32, flags: i32, path: i32, length: i32, accessed: i64, modified: i64, set: i32);
        path_link(fd: i32, flags: i32, path: i32, length: i32, new_fd: i32, new_path: i32, new_length: i32);
        path_open(fd: i32, flags: i32, path: i32, length: i32, oflags: i32, base: i64, inheriting: i64, fdflags: i32, out: i32);
        path_readlink(fd: i32, path: i32, length: i32, buffer: i32, capacity: i32, out: i32);
        path_remove_directory(fd: i32, path: i32, length: i32);
        path_rename(fd: i32, path: i32, length: i32, new_fd: i32, new_path: i32, new_length: i32);
        path_symlink(path: i32, length: i32, fd: i32, new_path: i32, new_length: i32);
        path_unlink_file(fd: i32, path: i32, length: i32);
    }
    Ok(())
}

/// The result of a function that does not wait for anything.
pub(crate) fn at_once(function: impl Future<Output = wasmtime::Result<i32>>) -> wasmtime::Result<i32> {
    match pin!(function).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(errno::NOTSUP),
    }
}
