//! Hosts that are processes of their own, to be looked at from outside and killed: the program `host-process`.

use std::ffi::OsStr;

use crate::command::{Running, start};
use crate::fixtures::{guests_dir, worker};
use crate::remote::{LIMIT, cache_dir};
use crate::watched::Watched;

/// A host process with its workers.
#[derive(Debug)]
pub struct Host {
    /// The host itself.
    pub process: Running,
    /// Its workers, in the order of the guests.
    pub workers: Vec<Watched>,
}

/// Starts `program`, which is `host-process`, in a mode that its own page describes, with a gateway for each of `guests`, and
/// waits until all of them run.
///
/// # Panics
///
/// When they do not run in time.
pub fn start_host(program: &str, mode: &str, guests: &[&str]) -> Host {
    let arguments = [&[mode], guests].concat();
    let cache = cache_dir();
    let variables: [(&str, &OsStr); 3] = [
        ("SANDGATE_WORKER", worker().as_os_str()),
        ("SANDGATE_GUESTS", guests_dir().as_os_str()),
        ("SANDGATE_CACHE", cache.as_os_str()),
    ];
    let mut process = start(program, &arguments, &variables);
    let line = process.line(LIMIT);
    if line.is_empty() {
        let (status, stderr) = process.wait(LIMIT);
        panic!("the host has not begun ({status}): {stderr}");
    }
    let workers = line.split(' ').map(|pid| Watched::new(pid.parse().expect("a process id"))).collect();
    Host { process, workers }
}
