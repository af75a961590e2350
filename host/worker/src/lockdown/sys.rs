//! The system calls of the lock-down that no crate offers as safe functions. Nothing is decided here.
#![expect(unsafe_code, reason = "these calls have no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;
use std::ptr;

use rustix::thread::UnshareFlags;

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes the descriptors from `first` to `last`, both included. The caller has no use for any of them.
pub(super) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: `close_range` reads no memory of ours. What it closes may belong to an object of this process only if the
    // caller has left it out of what is to be kept; the one caller keeps every descriptor that the process owns at that
    // moment, which is its start, so that what goes was inherited and has no owner.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Leaves namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "descriptors stay shared");
    // SAFETY: the only condition is on `UnshareFlags::FILES`, which no caller passes: threads could then hold descriptors
    // that others do not have.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }?)
}

/// Makes every mount of this namespace private to it.
pub(super) fn make_mounts_private() -> io::Result<()> {
    // SAFETY: `mount` reads the C string for the target, which is static; null is allowed for what this operation ignores.
    let done =
        unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()) };
    checked(done.into())
}

/// Mounts an empty file system, to which nothing can be written, on a directory.
pub(super) fn mount_nothing(target: &CStr) -> io::Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (name, kind, options) = (c"none", c"tmpfs", c"size=4k,nr_inodes=2");
    // SAFETY: `mount` reads four C strings, all of which live until it returns. tmpfs takes its options as a C string.
    let done = unsafe { libc::mount(name.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    checked(done.into())
}

/// Makes the current directory, which is the root of a mount, the root of this namespace, and lets go of the old one.
pub(super) fn make_current_directory_the_root() -> io::Result<()> {
    // SAFETY: `pivot_root` reads two C strings, both static. With the same directory twice the old root is on top of the
    // new one afterwards, which is what the next call takes off.
    checked(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: `umount2` reads one C string, which is static.
    checked(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())
}

/// Has a write beyond the limit of a file's size fail instead of ending the process.
pub(super) fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: `SIG_IGN` is no function of ours, so nothing runs in a signal's context; nobody else in this process has a
    // handler for this signal.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The numbers of all descriptors that the kernel can give.
pub(super) const LAST_DESCRIPTOR: u32 = u32::MAX;

/// A descriptor's number as `close_range` takes it.
pub(super) fn number(descriptor: RawFd) -> Option<u32> {
    u32::try_from(descriptor).ok()
}
