//! What the list has on x86-64 alone: calls that newer architectures do not have any more.

use seccompiler::TargetArch;
use syscalls::Sysno;

use super::{Entry, allow, deny};

pub(in crate::lockdown) const ARCHITECTURE: TargetArch = TargetArch::x86_64;

/// Bits of a page's protection beside reading, writing and executing.
pub(super) const PROT_OTHER: u64 = 0;

/// Called `fstatat` elsewhere.
pub(super) const FSTATAT: Sysno = Sysno::newfstatat;

pub(super) const COMMON: &[Entry] = &[
    allow(Sysno::poll, "as ppoll"),
    deny(Sysno::open, "as openat"),
    deny(Sysno::stat, "as openat"),
    deny(Sysno::lstat, "as openat"),
    deny(Sysno::access, "as openat"),
    deny(Sysno::readlink, "as openat"),
];

pub(super) const DIRECTORIES: &[Entry] = &[allow(Sysno::epoll_wait, "wasmtime-wasi waits for files on a runtime")];
