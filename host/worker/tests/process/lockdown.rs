//! What a locked-in worker can do and what it dies of, in pairs; and each layer by itself.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use sandgate_wire::ToHost;
use sandgate_wire::ToWorker;
use sandgate_wire::isolation::{Demand, Layer, Policy, Report, State};
use sandgate_wire::launch::{FORBIDDEN_CALL, WORKER_ARGUMENT};
use sandgate_wire::message::HostHello;

use crate::{NATIVE_ARGUMENT, Process, hello, start, start_with};

const EPERM: i32 = libc::EPERM;
const EACCES: i32 = libc::EACCES;
const ENOSYS: i32 = libc::ENOSYS;
const ENOENT: i32 = libc::ENOENT;
const ENOMEM: i32 = libc::ENOMEM;

/// A user of no system.
const ORDINARY_USER: u32 = 54_321;

/// What an attack comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The system does it, or says this.
    Result(i32),
    /// The process ends, and names this call.
    Dies(&'static str),
    /// The process ends without a word.
    DiesSilently,
}
use Fate::{Dies, DiesSilently, Result};

/// Under the default policy.
const ATTACKS: &[(&str, Fate)] = &[
    ("nothing", Result(0)),
    ("open", Result(EACCES)),
    ("open-proc", Result(EACCES)),
    ("create", Result(EACCES)),
    ("stat", Result(ENOENT)),
    ("mkdir", Dies("mkdirat")),
    ("unlink", Dies("unlinkat")),
    ("chdir", Dies("chdir")),
    ("chroot", Dies("chroot")),
    ("mount", Dies("mount")),
    ("write-elsewhere", Dies("write")),
    ("ioctl", Result(EACCES)),
    // Allowed, but that is no page map.
    ("ioctl-pagemap", Result(libc::ENOTTY)),
    ("socket", Dies("socket")),
    ("connect", Dies("connect")),
    ("sendto", Dies("sendto")),
    ("tcp", Dies("socket")),
    ("execve", Dies("execve")),
    ("execveat", Dies("execveat")),
    ("fork", Dies("clone")),
    ("clone-namespace", Dies("clone")),
    ("clone3", Result(ENOSYS)),
    ("thread", Result(0)),
    ("ptrace", Dies("ptrace")),
    ("kill", Dies("kill")),
    ("tgkill", Dies("tgkill")),
    ("tgkill-itself", Dies("tgkill")),
    ("pidfd_open", Dies("pidfd_open")),
    ("pidfd_getfd", Dies("pidfd_getfd")),
    ("process_vm_readv", Dies("process_vm_readv")),
    ("process_vm_writev", Dies("process_vm_writev")),
    ("kcmp", Dies("kcmp")),
    ("mmap", Result(0)),
    ("mmap-wx", Dies("mmap")),
    ("mmap-x", Dies("mmap")),
    ("mmap-shared", Dies("mmap")),
    ("mprotect", Result(0)),
    ("mprotect-wx", Dies("mprotect")),
    // How a module is loaded; the second stage takes it away.
    ("mprotect-x", Result(0)),
    ("pkey_mprotect", Dies("pkey_mprotect")),
    ("a-terabyte", Result(ENOMEM)),
    ("memfd_create", Result(ENOSYS)),
    ("shmget", Dies("shmget")),
    ("unshare", Dies("unshare")),
    ("setns", Dies("setns")),
    ("prctl", Dies("prctl")),
    ("prctl-name", Result(0)),
    ("io_uring_setup", Dies("io_uring_setup")),
    ("userfaultfd", Dies("userfaultfd")),
    ("bpf", Dies("bpf")),
    ("perf_event_open", Dies("perf_event_open")),
    ("keyctl", Dies("keyctl")),
    ("add_key", Dies("add_key")),
    ("inotify_init1", Dies("inotify_init1")),
    ("setresuid", Dies("setresuid")),
    ("capset", Dies("capset")),
    ("personality", Dies("personality")),
    ("prlimit64", Result(EACCES)),
    ("setpriority", Dies("setpriority")),
    ("sched_setaffinity", Dies("sched_setaffinity")),
    ("rt_sigaction", Dies("rt_sigaction")),
    ("futex-pi", Dies("futex")),
    ("seccomp", Dies("seccomp")),
    ("madvise", Result(ENOSYS)),
    ("no-such-call", Dies("5000")),
    ("quietly", DiesSilently),
    #[cfg(target_arch = "x86_64")]
    ("x32", Dies("1073741863")),
    #[cfg(target_arch = "x86_64")]
    ("i386", DiesSilently),
];

/// In a worker that takes one module and has loaded it: what is different.
const SECOND_STAGE: &[(&str, Fate)] = &[
    ("nothing", Result(0)),
    ("mmap", Result(0)),
    ("mmap-x", Dies("mmap")),
    ("mprotect", Result(0)),
    ("mprotect-x", Dies("mprotect")),
    ("mprotect-wx", Dies("mprotect")),
    ("memfd_create", Result(ENOSYS)),
    // The C library blocks signals while it starts a thread, so that there are no last words.
    ("thread", DiesSilently),
    ("fork", Dies("clone")),
    ("prctl-name", Result(0)),
    ("seccomp", Dies("seccomp")),
    ("ptrace", Dies("ptrace")),
    ("quietly", DiesSilently),
];

pub(crate) fn attacks() {
    for (name, fate) in ATTACKS {
        check(name, Policy::default(), false, *fate);
    }
}

pub(crate) fn attacks_in_the_second_stage() {
    for (name, fate) in SECOND_STAGE {
        check(name, Policy::default(), true, *fate);
    }
}

/// One layer at a time, and none: the attack works without it and fails with it.
pub(crate) fn each_layer_by_itself() {
    let none = || Policy::all(Demand::Off);
    let only = |layer| none().with(layer, Demand::Prefer);
    let pairs: &[(&str, Layer, Fate)] = &[
        ("open", Layer::Landlock, Result(EACCES)),
        ("open", Layer::Namespaces, Result(ENOENT)),
        ("tcp", Layer::Landlock, Result(EACCES)),
        ("tcp", Layer::Namespaces, Result(libc::ENETUNREACH)),
        ("kill", Layer::Landlock, Result(EPERM)),
        ("kill", Layer::Seccomp, Dies("kill")),
        ("a-terabyte", Layer::ResourceLimits, Result(ENOMEM)),
        ("mmap-wx", Layer::Seccomp, Dies("mmap")),
    ];
    for (attack, layer, fate) in pairs {
        let without = if *attack == "tcp" { Result(libc::ECONNREFUSED) } else { Result(0) };
        check(attack, none(), false, without);
        if *layer == Layer::Namespaces && !report(&only(*layer)).is_enforced(*layer) {
            continue;
        }
        check(attack, only(*layer), false, *fate);
    }
    if is_root() {
        check("kill", only(Layer::User), false, Result(EPERM));
        check("mount", none().with(Layer::Namespaces, Demand::Prefer), false, Result(0));
        check("mount", only(Layer::Capabilities), false, Result(EPERM));
    }
}

/// What the host sees of a worker that is locked in, and of one that is not.
pub(crate) fn what_is_reported_is_so() {
    let on = start_native(&hello(Policy::default()));
    let off = start_native(&hello(Policy::all(Demand::Off)));
    let status = |process: &Process, field: &str| {
        let text = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let of = |process: &Process, file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.child.id()));
    for layer in Layer::ALL {
        assert_eq!(off.report().state(layer), Some(&State::Off), "{layer}");
    }
    let enforced = |layer| on.report().is_enforced(layer);
    let needs_root_or_more = [Layer::Namespaces, Layer::User, Layer::Capabilities];
    for layer in Layer::ALL {
        let expected = enforced(layer) || (!is_root() && needs_root_or_more.contains(&layer));
        assert!(expected, "{layer}: {:?}", on.report().state(layer));
    }
    assert_eq!(status(&on, "Seccomp"), ["2"]);
    assert_eq!(status(&off, "Seccomp"), ["0"]);
    assert_eq!(status(&on, "NoNewPrivs"), ["1"]);
    assert_eq!(status(&off, "NoNewPrivs"), ["0"]);
    assert_eq!(of(&on, "oom_score_adj").unwrap().trim(), "1000");
    assert_eq!(status(&on, "CapEff"), ["0000000000000000"]);
    assert_eq!(status(&on, "CapPrm"), ["0000000000000000"]);
    assert_eq!(status(&on, "CapBnd") == ["0000000000000000"], enforced(Layer::Capabilities));
    // The host measures a worker by this file, whoever it is.
    assert!(of(&on, "statm").unwrap().split_ascii_whitespace().count() == 7);
    if is_root() {
        let uids = status(&on, "Uid");
        assert!(uids.iter().all(|uid| uid.parse::<u32>().unwrap() > 0x6000_0000), "{uids:?}");
        assert_eq!(status(&on, "Groups"), [""; 0]);
        assert_eq!(status(&off, "Uid"), ["0"; 4]);
        let limits = of(&on, "limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_ascii_whitespace().nth(4), Some("0"));
        for namespace in ["net", "ipc", "uts", "mnt", "cgroup"] {
            let link = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(link(on.child.id()), link(std::process::id()), "{namespace}");
            assert_eq!(link(off.child.id()), link(std::process::id()), "{namespace}");
        }
        let root = fs::read_dir(format!("/proc/{}/root", on.child.id())).unwrap();
        assert_eq!(root.count(), 0);
    }
    for process in [on, off] {
        process.send(ToWorker::Terminate { kill: false }.encode());
        assert_eq!(process.end("a worker that was asked to").0, Some(0));
    }
}

/// A descriptor that a careless host leaves open is not there any more.
pub(crate) fn inherited_descriptors_are_closed() {
    let none = Policy::all(Demand::Off);
    for (demand, stays) in [(Demand::Off, true), (Demand::Prefer, false)] {
        let file = tempfile();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let process = start_native(&hello(none.clone().with(Layer::Descriptors, demand)));
        drop(file);
        let open: Vec<String> = fs::read_dir(format!("/proc/{}/fd", process.child.id()))
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
            .collect();
        assert_eq!(open.iter().any(|target| target.contains("a careless host's")), stays, "{open:?}");
        // The standard ones, the connection, and the pair that wakes whoever reads that; and if there is one, the map of
        // the process's own pages.
        let others = open.iter().filter(|target| !target.ends_with(&format!("/{}/pagemap", process.child.id())));
        assert!(stays || others.count() == 6, "{open:?}");
        process.outbox.shutdown();
        process.end("a worker without a host");
    }
}

/// All of this once more as somebody who has no rights at all.
#[expect(clippy::disallowed_methods, reason = "it is waited for at once")]
pub(crate) fn as_an_ordinary_user() {
    if !is_root() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--skip", "ordinary_user"]).uid(ORDINARY_USER).gid(ORDINARY_USER).current_dir("/");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn check(attack: &str, policy: Policy, one_module: bool, fate: Fate) {
    let hello = HostHello { gateway: attack.to_owned(), one_module, ..hello(policy) };
    let mut process = start_native(&hello);
    process.send(ToWorker::Terminate { kill: false }.encode());
    let (status, text) = process.status(attack);
    let found = match (status.code(), status.signal()) {
        (Some(0), None) => {
            let error = text.strip_prefix("result: ").and_then(|error| error.trim().parse().ok());
            error.map(|error| format!("{:?}", Result(error)))
        }
        (None, Some(libc::SIGSYS)) => match text.strip_prefix(FORBIDDEN_CALL) {
            Some(call) => Some(format!("Dies({:?})", call.trim_end_matches("`\n"))),
            None if text.is_empty() => Some(format!("{DiesSilently:?}")),
            None => None,
        },
        _ => None,
    };
    let expected = format!("{fate:?}");
    assert_eq!(found, Some(expected), "`{attack}`: {status}, {text}");
}

fn start_native(hello: &HostHello) -> Process {
    let mut process = start_with(&[WORKER_ARGUMENT, NATIVE_ARGUMENT], false);
    process.greet(hello);
    process
}

fn report(policy: &Policy) -> Report {
    let mut process = start(WORKER_ARGUMENT);
    process.greet(&hello(policy.clone()));
    process.outbox.shutdown();
    let report = process.report().clone();
    process.end("a worker without a host");
    report
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn tempfile() -> std::os::fd::OwnedFd {
    rustix::fs::memfd_create("a careless host's", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

/// The report of a hello.
pub(crate) fn of_hello(message: ToHost<'_>) -> Option<Report> {
    match message {
        ToHost::Hello(hello) => Some(hello.isolation),
        _ => None,
    }
}
