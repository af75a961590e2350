//! Memory that another process writes, too: mapped, and touched by copies and atomic words alone.
//!
//! There never is a reference to its bytes. A peer that keeps to the rules never writes what this side copies, so that no
//! copy races with a write. One that does not can change bytes while they are copied: then the copy has some bytes or
//! others, and nothing else is made of it, because the copy is all that anybody looks at. That the compiler cannot read the
//! shared bytes again instead of the copy is what `inline(never)` is for: the functions that copy do nothing else, and their
//! callers do not know what they did.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of a whole file in memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: nothing in it belongs to a thread: the mapping is the process's, and is read and written through the copying
// functions and atomic words alone, which any thread may use. Which bytes may be copied when, the positions in the ring say.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of a file that can be neither shorter than that, nor become it.
    pub(crate) fn new(memory: BorrowedFd<'_>, length: usize) -> io::Result<Mapping> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the address is the kernel's choice, so that no memory of anybody else's is replaced.
        let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, memory, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, length })
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The word at an offset.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(align_of::<AtomicU64>()) && self.holds(offset, size_of::<AtomicU64>()));
        // SAFETY: the word lies in the mapping and is aligned, as asserted (a mapping begins with a page); it is mapped for
        // as long as `self` is there, which the reference does not outlive; and words are accessed atomically alone, here and
        // by a peer that keeps to the rules. What another one writes is a value like any other: all are valid.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// Copies bytes to an offset.
    #[inline(never)]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(self.holds(offset, bytes.len()));
        // SAFETY: the source is a slice; the target lies in the mapping, as asserted, which can be written; they do not
        // overlap, since nobody has a slice of the mapping. For races see above.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) }
    }

    /// Copies bytes from an offset.
    #[inline(never)]
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        assert!(self.holds(offset, bytes.len()));
        // SAFETY: the source lies in the mapping, as asserted; the target is a slice; they do not overlap, since nobody has a
        // slice of the mapping. For races see above.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies bytes from an offset to the end of a vector, into memory that it has already.
    #[inline(never)]
    pub(crate) fn append_out(&self, offset: usize, length: usize, to: &mut Vec<u8>) {
        let room = to.spare_capacity_mut();
        assert!(self.holds(offset, length) && length <= room.len());
        // SAFETY: the source lies in the mapping, and the target in the vector's memory behind its last byte, both as asserted;
        // they do not overlap, since nobody but this mapping has its memory. For races see above.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), room.as_mut_ptr().cast(), length) }
        // SAFETY: so much is within the capacity, as asserted, and was written by the copy.
        unsafe { to.set_len(to.len() + length) }
    }

    fn holds(&self, offset: usize, length: usize) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.length)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` at this place and length and is unmapped once; references to its words have ended.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}
