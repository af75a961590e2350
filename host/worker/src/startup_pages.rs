//! Gives back the pages of code and constants that only the start of a process, and the loading of a module, needed.
//!
//! The dynamic linker reads all relocations, and much code runs once; an idle worker had 8 MB of both in its memory map.
//! They are pages of a file, so the kernel has them anyway, and maps one again when it is touched.
#![expect(unsafe_code, reason = "dl_iterate_phdr and madvise have no safe wrapper for this")]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{ptr, slice};

use rustix::mm::{Advice, madvise};

use crate::hub::{Hub, HubGuard};

/// When a worker gives them back.
#[derive(Debug)]
pub(crate) struct StartupPages {
    is_process: bool,
    due: AtomicBool,
}

impl StartupPages {
    /// Of a worker that has its process to itself, or of one that gives nothing back.
    pub(crate) fn new(is_process: bool) -> StartupPages {
        StartupPages { is_process, due: AtomicBool::new(false) }
    }

    /// What was done just now is not done again soon.
    pub(crate) fn were_needed(&self) {
        self.due.store(self.is_process, Ordering::Relaxed);
    }

    /// Whether it is worth it to give them back. The end of the process would take as long as that.
    pub(crate) fn are_due(&self, hub: &Hub) -> bool {
        self.due.load(Ordering::Relaxed) && !hub.is_terminating()
    }

    /// Gives them back if that is worth it, and says so: it takes 100 µs, and the hub is let go meanwhile. For a thread that has
    /// nothing to do.
    pub(crate) fn give_back(&self, hub: &mut HubGuard<'_>) -> bool {
        let due = self.are_due(hub) && self.due.swap(false, Ordering::Relaxed);
        if due {
            hub.unlocked(give_back);
        }
        due
    }
}

/// Unmaps, until they are touched again, the pages of this program and its libraries that nobody can write to.
fn give_back() {
    // SAFETY: the callback has the type that is asked for, takes no data, and calls nothing that loads or unloads libraries.
    unsafe { libc::dl_iterate_phdr(Some(give_back_object), ptr::null_mut()) };
}

/// Called for the program and each of its libraries.
///
/// # Safety
///
/// `info` is null or what `dl_iterate_phdr` gives its callbacks.
unsafe extern "C" fn give_back_object(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: as the caller promises; nobody changes it while the callback runs.
    let Some(info) = (unsafe { info.as_ref() }) else { return NEXT };
    if info.dlpi_phdr.is_null() {
        return NEXT;
    }
    // SAFETY: the headers of a loaded object, so many, which stay mapped for as long as it is loaded.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    // SAFETY: they are its headers.
    if unsafe { has_relocated_code(info, headers) } {
        return NEXT;
    }
    let page = rustix::param::page_size();
    for header in headers.iter().filter(|header| is_read_only(header)) {
        let Some((start, size)) = place(info, header) else { continue };
        // Whole pages of this segment alone.
        let (first, end) = (start.next_multiple_of(page), start.wrapping_add(size) / page * page);
        if first < end {
            let first = ptr::with_exposed_provenance_mut(first);
            // SAFETY: a segment of a file that is loaded for reading alone has what the file has, and has never been written
            // to: objects that say that something in such a segment is relocated were left out (what is relocated and then
            // protected is in a segment that was loaded for writing). So each of its pages is the same when it is mapped
            // again. Where the kernel refuses, nothing has changed.
            let _ = unsafe { madvise(first, end - first.addr(), Advice::LinuxDontNeed) };
        }
    }
    NEXT
}

/// What goes on with the next one.
const NEXT: c_int = 0;

/// Marks of the dynamic section: its end, and those that say that segments are relocated which nobody can write to (elf(5)).
const DT_NULL: u64 = 0;
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DF_TEXTREL: u64 = 4;

/// Whether the dynamic linker has written to segments that are loaded for reading alone.
///
/// # Safety
///
/// `headers` are those of the loaded object.
unsafe fn has_relocated_code(info: &libc::dl_phdr_info, headers: &[libc::Elf64_Phdr]) -> bool {
    let Some(header) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) else { return false };
    let Some((start, size)) = place(info, header) else { return true };
    let first: *const [u64; 2] = ptr::with_exposed_provenance(start);
    // SAFETY: pairs of a tag and a value, aligned as the format says, which stay mapped for as long as the object is loaded; they
    // are written to while that is being loaded alone.
    let entries = unsafe { slice::from_raw_parts(first, size / size_of::<[u64; 2]>()) };
    let mut entries = entries.iter().take_while(|[tag, _]| *tag != DT_NULL);
    entries.any(|[tag, value]| *tag == DT_TEXTREL || *tag == DT_FLAGS && value & DF_TEXTREL != 0)
}

/// Where a segment is, and its size.
fn place(info: &libc::dl_phdr_info, header: &libc::Elf64_Phdr) -> Option<(usize, usize)> {
    let (base, offset) = (usize::try_from(info.dlpi_addr).ok()?, usize::try_from(header.p_vaddr).ok()?);
    Some((base.wrapping_add(offset), usize::try_from(header.p_memsz).ok()?))
}

fn is_read_only(header: &libc::Elf64_Phdr) -> bool {
    header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0 && header.p_flags & libc::PF_W == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this program's code that are mapped.
    fn mapped() -> u64 {
        let map = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::env::current_exe().unwrap();
        let (mut is_code, mut sum) = (false, 0);
        for line in map.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields[..] {
                [_, flags, _, _, _, path] => is_code = flags.starts_with("r-x") && program.ends_with(path),
                ["Rss:", size, _] if is_code => sum += size.parse::<u64>().unwrap(),
                _ => {}
            }
        }
        sum
    }

    /// Maps all of this program's code.
    fn populate() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::env::current_exe().unwrap();
        for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(program.to_str().unwrap())) {
            let (start, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).unwrap();
            let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16).unwrap());
            let first = ptr::with_exposed_provenance_mut(start);
            // SAFETY: it maps pages of a mapping that stays, and changes none.
            unsafe { madvise(first, end - start, Advice::LinuxPopulateRead) }.unwrap();
        }
    }

    #[test]
    fn what_is_given_back_is_there_again_when_it_is_touched() {
        populate();
        let before = mapped();
        give_back();
        let after = mapped();
        assert!(0 < after && after < before, "{after} kB of {before} kB");
        give_back();
        assert!(mapped() > 0);
    }
}
