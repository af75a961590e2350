//! What the list has on aarch64 alone.

use seccompiler::TargetArch;
use syscalls::Sysno;

use super::{Entry, allow};

pub(in crate::lockdown) const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// Bits of a page's protection beside reading, writing and executing: `PROT_BTI`, which code that is loaded may have.
pub(super) const PROT_OTHER: u64 = 0x10;

/// Called `newfstatat` elsewhere.
pub(super) const FSTATAT: Sysno = Sysno::fstatat;

pub(super) const COMMON: &[Entry] =
    &[allow(Sysno::membarrier, "after new code is in memory, every processor has to forget the old")];

pub(super) const DIRECTORIES: &[Entry] = &[];
