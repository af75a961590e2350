//! What the machine is, as far as the sandbox cares.

use rustix::process::{getgid, getuid};

/// The machine and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) release: String,
    pub(crate) architecture: &'static str,
    pub(crate) processors: usize,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

pub(crate) fn describe() -> Machine {
    let kernel = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
        text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    Machine {
        system: kernel("ostype"),
        release: kernel("osrelease"),
        architecture: std::env::consts::ARCH,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total),
        user: getuid().as_raw(),
        group: getgid().as_raw(),
    }
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_the_kernel_says() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), Some(24576 * 1024));
        assert_eq!(total("MemTotal: lots\n"), None);
    }
}
