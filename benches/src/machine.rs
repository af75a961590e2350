//! The machine of a run, as far as a reader needs it to judge the figures. Says nothing that identifies it.

use std::fs;
use std::thread;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) is_virtual: bool,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) architecture: &'static str,
    /// Of the last minute before the run: what else the machine had to do.
    pub(crate) load: String,
}

impl Machine {
    pub(crate) fn describe() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let kibibytes = value(&memory, "MemTotal").and_then(|size| size.split(' ').next()?.parse::<u64>().ok());
        let kernel = read("/proc/sys/kernel/osrelease");
        Machine {
            cores: thread::available_parallelism().map_or(0, usize::from),
            processor: value(&cpu, "model name").unwrap_or("unknown processor").to_owned(),
            is_virtual: value(&cpu, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_gib: kibibytes.map_or(0, |size| size.div_ceil(1 << 20)),
            // What follows the version is the builder's business.
            kernel: kernel.trim().split('-').next().unwrap_or_default().to_owned(),
            architecture: std::env::consts::ARCH,
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// One line.
    pub(crate) fn summary(&self) -> String {
        let Machine { cores, processor, memory_gib, kernel, architecture, load, .. } = self;
        let kind = if self.is_virtual { " of a virtual machine" } else { "" };
        format!(
            "{cores} cores{kind} ({processor}), {memory_gib} GiB, Linux {kernel} on {architecture}, load {load} before"
        )
    }
}

/// The value of the first line `name : value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text = "flags\t: fpu vme\nmodel name\t: A Fast One\nmodel name\t: Another";
        assert_eq!(value(text, "model name"), Some("A Fast One"));
        assert_eq!(value(text, "model"), None);
    }
}
