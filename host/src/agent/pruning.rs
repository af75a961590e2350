//! Clears the cache of agents that hosts have copied here (`remote/bootstrap`): each version leaves a binary, named by
//! its hash, and nobody else knows when it is of no use any more.
//!
//! An agent that was started from there marks its own binary as used, and deletes those that were not used for a while, but for
//! a few, and but for those that run: their workers are started from the same file.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

/// Binaries that are kept whatever their age, the own one among them.
const KEPT: usize = 4;
/// Those that were used in this time are kept as well.
const USED_WITHIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What was being copied and has not changed for so long was left behind.
const COPYING_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Digits of a SHA-256.
const HASH_DIGITS: usize = 64;

/// Clears the cache that `own` is in, if it is in one. What cannot be read or deleted stays.
pub(super) fn prune_beside(own: &Path, now: SystemTime) {
    let Some(directory) = own.parent().filter(|it| it.ends_with("sandgate/agents")) else { return };
    if own.file_name().is_none_or(|name| !is_hash(name)) {
        return;
    }
    let _ = mark_as_used(own);
    let Ok(entries) = fs::read_dir(directory) else { return };
    let (mut binaries, mut rests) = (Vec::new(), Vec::new());
    for entry in entries.filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else { continue };
        let (name, path) = (entry.file_name(), entry.path());
        let age = metadata.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
        match &name {
            _ if !metadata.is_file() || path == own => {}
            name if is_hash(name) => binaries.push((age, path)),
            name if is_being_copied(name) => rests.push((age, path)),
            // Whatever it is, it is not ours.
            _ => {}
        }
    }
    binaries.sort();
    let old = binaries.into_iter().skip(KEPT - 1).filter(|(age, _)| *age > USED_WITHIN);
    let rests = rests.into_iter().filter(|(age, _)| *age > COPYING_WITHIN);
    let mut useless = old.chain(rests).map(|(_, path)| path).peekable();
    if useless.peek().is_none() {
        return;
    }
    let running = running();
    useless.filter(|path| !running.contains(path)).for_each(|path| drop(fs::remove_file(path)));
}

/// By the time of its last change, since the time of its last use is kept on few systems. A file that runs cannot be opened to
/// be written, but its times can be set.
fn mark_as_used(path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

fn is_hash(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.len() == HASH_DIGITS && name.iter().all(u8::is_ascii_hexdigit)
}

/// A hash, a dot, and the process id of the shell that copies.
fn is_being_copied(name: &OsStr) -> bool {
    let Some((hash, pid)) = name.to_str().and_then(|name| name.split_once('.')) else { return false };
    is_hash(OsStr::new(hash)) && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())
}

/// The binaries of all processes that this one may look at; its user's are among them, and the cache is this user's.
fn running() -> Vec<PathBuf> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes.filter_map(Result::ok).filter_map(|process| fs::read_link(process.path().join("exe")).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn hash(digit: u32) -> String {
        format!("{digit:064x}")
    }

    #[test]
    fn what_is_old_and_does_not_run_goes_but_for_a_few() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().canonicalize().unwrap().join("sandgate/agents");
        fs::create_dir_all(&directory).unwrap();
        let now = SystemTime::now();
        let make = |name: &str, days: u32| {
            let file = File::create(directory.join(name)).unwrap();
            file.set_modified(now - DAY * days).unwrap();
        };
        let own = hash(0);
        make(&own, 400);
        for (digit, days) in [(1, 1), (2, 29), (3, 31), (4, 32), (5, 400)] {
            make(&hash(digit), days);
        }
        // One that runs: a program under the name of a hash.
        let runs = directory.join(hash(6));
        fs::copy("/bin/sleep", &runs).unwrap();
        let program = crate::process::Program { program: runs.clone(), arguments: vec!["1000".into()] };
        let null = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
        let process = crate::process::launch_program(program, null(), null()).unwrap();
        let old = Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = Timestamps { last_access: old, last_modification: old };
        utimensat(CWD, &runs, &times, AtFlags::empty()).unwrap();
        make(&format!("{}.17", hash(7)), 2);
        make(&format!("{}.18", hash(7)), 0);
        make("notes", 400);
        make(&format!("{}.17", "x".repeat(64)), 400);

        prune_beside(&directory.join(&own), now);
        let left: BTreeSet<String> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let expected = [own.clone(), hash(1), hash(2), hash(3), hash(6), format!("{}.18", hash(7)), "notes".to_owned()];
        let expected: BTreeSet<String> = expected.into_iter().chain([format!("{}.17", "x".repeat(64))]).collect();
        assert_eq!(left, expected);
        let used = fs::metadata(directory.join(&own)).unwrap().modified().unwrap();
        assert!(used > now - DAY, "the own one was used just now");
        drop(process);
    }

    #[test]
    fn what_is_elsewhere_is_not_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..9).map(hash).collect();
        for name in &names {
            File::create(root.path().join(name)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        prune_beside(&root.path().join(&names[0]), SystemTime::now());
        assert!(names.iter().all(|name| root.path().join(name).exists()));
    }
}
