//! What this process holds: children, file descriptors and threads, as the kernel counts them in `/proc`.
//!
//! A census counts the whole process. Nextest gives each test a process of its own; under `cargo test` tests share one, so
//! a leak check belongs into a test binary with nothing else running.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use crate::waiting::comes_true;

/// How long things may take to go after their owner is dropped. Dropping waits for them, so this covers what the kernel does
/// afterwards, and the threads that run callbacks, which wait for more work for 5 s.
const SETTLE: Duration = Duration::from_secs(15);

/// A child process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// Its name, cut by the kernel to 15 bytes.
    pub name: String,
    /// It has ended, and nobody has waited for it.
    pub zombie: bool,
}

/// What a process held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Children, ended ones that nobody has waited for included.
    pub children: Vec<Child>,
    /// Open file descriptors, each with what it refers to.
    pub fds: BTreeMap<u32, String>,
    /// How many threads there are of each name, cut by the kernel to 15 bytes.
    pub threads: BTreeMap<String, usize>,
}

impl Census {
    /// Counts what this process holds now.
    ///
    /// # Panics
    ///
    /// When `/proc` cannot be read.
    pub fn take() -> Self {
        Self { children: children_of(std::process::id()), fds: open_fds(), threads: threads() }
    }

    /// What is there now and was not there at `before`, a line for each; empty when nothing leaked.
    ///
    /// File descriptors are compared by what they refer to, because numbers are used again.
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        let fds = |census: &Self| tally(census.fds.values().cloned());
        let children = |census: &Self| census.children.iter().map(|child| (child.clone(), 1)).collect();
        let mut leaks = surplus("child", &children(self), &children(before));
        leaks.extend(surplus("file descriptor", &fds(self), &fds(before)));
        leaks.extend(surplus("thread", &self.threads, &before.threads));
        leaks
    }
}

/// Runs `body` and gives back what it returns, if everything that it started or opened is gone again a moment later.
///
/// What `body` returns is kept until after the count. Things made once per process, such as a thread that is never to end,
/// have to be there before: run the code once without counting.
///
/// # Panics
///
/// When something is left. The message lists it.
#[track_caller]
pub fn assert_no_leaks<T>(what: &str, body: impl FnOnce() -> T) -> T {
    let before = Census::take();
    let value = body();
    let mut leaks = Vec::new();
    let settled = comes_true(SETTLE, || {
        leaks = Census::take().more_than(&before);
        leaks.is_empty()
    });
    assert!(settled, "{what} has left behind:\n  {}", leaks.join("\n  "));
    value
}

/// Resident memory of this process in bytes.
///
/// # Panics
///
/// When `/proc` cannot be read.
pub fn resident_bytes() -> u64 {
    resident_bytes_of(std::process::id())
}

/// Resident memory of the process `pid` in bytes.
///
/// # Panics
///
/// When it is not there.
pub fn resident_bytes_of(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("/proc/PID/statm");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as u64
}

/// The children of the process `parent`, in the order of their ids.
///
/// # Panics
///
/// When `/proc` cannot be read.
pub fn children_of(parent: u32) -> Vec<Child> {
    let mut children: Vec<Child> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // A process that ends meanwhile has no file any more, and is no child either.
        .filter_map(|pid: u32| parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, parent))
        .collect();
    children.sort();
    children
}

/// `stat` is `pid (name) state ppid ..`, and the name may hold spaces and parentheses.
fn parse_stat(pid: u32, stat: &str, parent: u32) -> Option<Child> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split(' ');
    let (state, ppid) = (fields.next()?, fields.next()?);
    (ppid.parse() == Ok(parent)).then(|| Child { pid, name: name.to_owned(), zombie: state == "Z" })
}

fn open_fds() -> BTreeMap<u32, String> {
    // The descriptor through which the directory is read is closed before the links are, and so drops out.
    let numbers: Vec<u32> = fs::read_dir("/proc/self/fd")
        .expect("/proc/self/fd")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers
        .into_iter()
        .filter_map(|fd| Some((fd, fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.display().to_string())))
        .collect()
}

fn threads() -> BTreeMap<String, usize> {
    tally(fs::read_dir("/proc/self/task").expect("/proc/self/task").filter_map(|entry| {
        let name = fs::read_to_string(entry.ok()?.path().join("comm")).ok()?;
        Some(name.trim_end().to_owned())
    }))
}

fn tally(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for name in names {
        *tally.entry(name).or_default() += 1;
    }
    tally
}

fn surplus<K: Ord + Debug>(kind: &str, now: &BTreeMap<K, usize>, before: &BTreeMap<K, usize>) -> Vec<String> {
    now.iter()
        .filter_map(|(key, count)| Some((key, count.checked_sub(before.get(key).copied().unwrap_or(0))?)))
        .filter(|(_, more)| *more > 0)
        .map(|(key, more)| format!("{more} more: {kind} {key:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::eventually;

    #[test]
    fn the_name_in_stat_may_hold_anything() {
        let child = |name: &str, zombie| Some(Child { pid: 7, name: name.into(), zombie });
        assert_eq!(parse_stat(7, "7 (cat) S 3 7 7", 3), child("cat", false));
        assert_eq!(parse_stat(7, "7 (a) Z 9 (b) Z 3 7 7", 3), child("a) Z 9 (b", true));
        assert_eq!(parse_stat(7, "7 (cat) S 4 7 7", 3), None);
        assert_eq!(parse_stat(7, "", 3), None);
    }

    #[test]
    fn open_files_and_threads_are_counted_until_they_are_gone() {
        let before = Census::take();
        let (release, wait) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("census-test".into()).spawn(move || wait.recv()).expect("a thread");
        let file = fs::File::open("/proc/self/status").expect("a file");

        // The thread takes its name when it runs.
        eventually(SETTLE, "the thread's name", || Census::take().threads.contains_key("census-test"));
        let leaks = Census::take().more_than(&before).join("\n");
        assert!(leaks.contains("1 more: thread \"census-test\""), "{leaks}");
        assert!(leaks.contains("/status\""), "{leaks}");

        drop((release, file));
        thread.join().expect("the thread").expect_err("the sender is gone");
        eventually(SETTLE, "an end of both", || {
            let leaks = Census::take().more_than(&before).join("\n");
            !leaks.contains("census-test") && !leaks.contains("/status\"")
        });
    }

    #[test]
    fn a_child_is_counted_by_its_parent() {
        let own = std::process::id();
        let parent = std::os::unix::process::parent_id();
        assert!(children_of(parent).iter().any(|child| child.pid == own && !child.zombie));
    }
}
