//! The system calls that workers and compilers make once they are locked in, as `strace` sees them: no call that is not on
//! the list, and so none that the kernel would have to stop.
//!
//! The filter itself is tried elsewhere, call by call. This is the other direction: the list has what a process needs. So it
//! is looked at without the filter as well, where nothing stops a call that somebody forgot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sandgate_tests::{feed, guest, output, worker};

/// A traced run compiles a module, and each of its calls stops twice.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// What one thread did: the moment of each call, its name, and the line.
type Calls = Vec<(f64, String, String)>;

/// All threads of a run, by their ids.
struct Trace(BTreeMap<u32, Calls>);

impl Trace {
    fn read(directory: &Path) -> Trace {
        let files = fs::read_dir(directory).expect("the traces").map(|entry| entry.expect("a trace").path());
        let threads = files.map(|path| {
            let thread = path.extension().and_then(|id| id.to_str()?.parse().ok()).expect("a thread's id");
            let text = String::from_utf8_lossy(&fs::read(&path).expect("a trace")).into_owned();
            let mut calls: Calls = text.lines().filter_map(call).collect();
            // For a thread that was killed as it entered a call, `strace` may print another thread's.
            let was_killed = text.ends_with("+++ killed by SIGKILL +++\n");
            calls.pop_if(|(.., line)| was_killed && line.ends_with("<unfinished ...>"));
            (thread, calls)
        });
        Trace(threads.collect())
    }

    /// The first threads of the processes of a role.
    fn processes(&self, role: &str) -> Vec<u32> {
        let is_it = |calls: &Calls| calls.iter().any(|(_, name, line)| name == "execve" && line.contains(role));
        self.0.iter().filter(|(_, calls)| is_it(calls)).map(|(thread, _)| *thread).collect()
    }

    /// The threads of a process.
    fn threads(&self, process: u32) -> Vec<u32> {
        let mut threads = vec![process];
        let mut at = 0;
        while at < threads.len() {
            let started = self.0[&threads[at]]
                .iter()
                .filter(|(_, name, line)| (name == "clone" || name == "clone3") && line.contains("CLONE_THREAD"));
            threads.extend(started.filter_map(|(.., line)| line.rsplit(" = ").next()?.parse::<u32>().ok()));
            at += 1;
        }
        threads
    }

    /// What a process called from a moment on, with a thread and its line of each.
    fn calls(&self, process: u32, since: f64) -> BTreeMap<&str, (u32, &str)> {
        let threads = self.threads(process).into_iter().filter_map(|thread| Some((thread, self.0.get(&thread)?)));
        let calls = threads.flat_map(|(thread, calls)| calls.iter().map(move |call| (thread, call)));
        let calls = calls.filter(|(_, (at, ..))| *at > since);
        calls.map(|(thread, (_, name, line))| (&**name, (thread, &**line))).collect()
    }
}

/// A line of the trace; those about signals and ends are none.
fn call(line: &str) -> Option<(f64, String, String)> {
    let (at, rest) = line.split_once(' ')?;
    let (name, _) = rest.split_once('(')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| (at.parse().ok().unwrap_or_default(), name.to_owned(), rest.to_owned()))
}

/// The calls that the list of a role has, whatever it answers.
fn listed(role: &str) -> BTreeSet<String> {
    let printed = output(worker(), &["__sandgate-worker", "--print-seccomp"], Path::new("."));
    let printed = String::from_utf8(printed.stdout).expect("text");
    let (_, list) = printed.split_once(&format!("# {role}\n")).expect("a list of the role");
    let lines = list.lines().take_while(|line| !line.starts_with('#')).filter(|line| !line.is_empty());
    lines.map(|line| line.split([' ', '(']).next().expect("a name").to_owned()).collect()
}

/// Traces a command of `sandgate` and holds its workers and compilers against their lists.
fn check(arguments: &[&str], input: &[u8], code: i32, is_filtered: bool) {
    let (directory, cache) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let prefix = directory.path().join("of");
    let traced = ["-ff", "-qq", "-ttt", "-o", prefix.to_str().expect("text"), worker().to_str().expect("text")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let variables = [("PATH", &*path), (sandgate::CACHE_VARIABLE, cache.path().as_os_str())];
    let ran = feed("strace", &[&traced[..], arguments].concat(), input, &variables, PATIENCE);
    assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    let trace = Trace::read(directory.path());
    for (role, list) in [
        ("__sandgate-worker", "a worker that takes one module, until that is loaded"),
        ("__sandgate-compiler", "a compiler"),
    ] {
        let processes = trace.processes(role);
        assert!(!processes.is_empty(), "{arguments:?} starts no `{role}`");
        let list = listed(list);
        // Of several workers some may have had nothing to do.
        let mut most = 0;
        for process in processes {
            let of_main = &trace.0[&process];
            // The last of its filters, which come one after the other before its first word; or that word.
            let before = of_main.iter().take_while(|(_, name, _)| name != "sendmsg").count();
            let last_step = match is_filtered {
                true => of_main[..before].iter().rfind(|(_, name, line)| name == "seccomp" && line.contains("TSYNC")),
                false => of_main.get(before),
            };
            let Some((since, ..)) = last_step else { panic!("{arguments:?}: `{role}` was not locked in: {of_main:?}") };
            let calls = trace.calls(process, *since);
            most = most.max(calls.len());
            let strange: Vec<_> = calls.iter().filter(|(name, _)| !list.contains(**name)).collect();
            let threads = trace.threads(process);
            assert!(
                strange.is_empty(),
                "{arguments:?}: `{role}` of {threads:?} made calls beside its list: {strange:?}"
            );
        }
        assert!(most > 3, "{arguments:?}: `{role}` made hardly a call");
    }
}

/// Whether calls can be traced here; if not, the test is left out.
#[expect(clippy::print_stderr, reason = "who reads a test's output is to see that it ran nothing")]
fn can_trace() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|directory| directory.join("strace").is_file());
    let traces = is_there && output("strace", &["-qq", "-o", "/dev/null", "true"], Path::new(".")).status.success();
    if !traces {
        eprintln!("left out: `strace` is not installed, or may not trace here");
    }
    traces
}

#[test]
fn workers_and_compilers_make_no_call_beside_their_lists() {
    if !can_trace() {
        return;
    }
    let module = |name: &str| guest(name).to_str().expect("text").to_owned();
    let [returns, spins, panics, filters] = ["noop", "spin", "panics_early", "wasi_filter"].map(module);
    for (sandbox, is_filtered) in [("sandbox:namespaces=prefer", true), ("sandbox:seccomp=off", false)] {
        let set = ["--set", sandbox];
        check(&[&["run"], &set[..], &[&returns]].concat(), b"", 0, is_filtered);
        check(&[&["run"], &set[..], &["--timeout", "50ms", &spins]].concat(), b"", 124, is_filtered);
        check(&[&["run"], &set[..], &[&panics]].concat(), b"", 134, is_filtered);
        check(&[&["map", "--quiet", "--jobs", "2"], &set[..], &[&filters]].concat(), b"1\n2\n3\n4\n", 0, is_filtered);
    }
}
