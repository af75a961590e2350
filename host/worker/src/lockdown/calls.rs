//! The system calls of a worker, of a compiler and of an initializer: a list, each with the reason why it is there.
//!
//! What is not on the list ends the process. What programs try and can do without is refused with an error instead, so that
//! a new version of the C library or of wasmtime costs nobody a worker. Of calls without a condition the kernel keeps a
//! table, so that they cost next to nothing; all that are made for each message are among them.

use std::fmt;
use std::io::{self, Write};

use syscalls::Sysno;

use super::Role;

#[cfg_attr(target_arch = "x86_64", path = "calls/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "calls/aarch64.rs")]
mod machine;

pub(super) use machine::ARCHITECTURE;

/// What a process gets for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is made.
    Allowed,
    /// As if the kernel had no such call: `ENOSYS`.
    NoSuchCall,
    /// As for somebody who may not: `EACCES`.
    Denied,
}

/// Something about an argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    /// Which one, from 0.
    pub(super) argument: u8,
    pub(super) test: Test,
    /// How much of it the kernel looks at.
    pub(super) bits: Bits,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    Is(u64),
    IsNot(u64),
    /// No bit but these.
    Within(u64),
    /// Of the bits of the mask, exactly these.
    Masked(u64, u64),
    IsThisProcess,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Bits {
    B32,
    B64,
}

/// One line of the list. Of several for one call, each holds by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) call: Sysno,
    /// All of them have to be met.
    pub(super) when: &'static [Condition],
    pub(super) answer: Answer,
    why: &'static str,
}

const fn entry(answer: Answer, call: Sysno, when: &'static [Condition], why: &'static str) -> Entry {
    Entry { call, when, answer, why }
}

const fn allow(call: Sysno, why: &'static str) -> Entry {
    entry(Answer::Allowed, call, &[], why)
}

const fn allow_if(call: Sysno, when: &'static [Condition], why: &'static str) -> Entry {
    entry(Answer::Allowed, call, when, why)
}

const fn lacking(call: Sysno, why: &'static str) -> Entry {
    entry(Answer::NoSuchCall, call, &[], why)
}

const fn deny(call: Sysno, why: &'static str) -> Entry {
    entry(Answer::Denied, call, &[], why)
}

const fn on(argument: u8, bits: Bits, test: Test) -> Condition {
    Condition { argument, test, bits }
}

const fn int(argument: u8, value: i32) -> Condition {
    on(argument, Bits::B32, Test::Is(value.cast_unsigned() as u64))
}

const fn not_int(argument: u8, value: i32) -> Condition {
    on(argument, Bits::B32, Test::IsNot(value.cast_unsigned() as u64))
}

const fn within(argument: u8, bits: i32) -> Condition {
    on(argument, Bits::B64, Test::Within(bits.cast_unsigned() as u64))
}

/// The operation of a futex call, whatever its flags.
const fn futex(operation: i32) -> Condition {
    on(1, Bits::B32, Test::Masked(0x7f, operation.cast_unsigned() as u64))
}

const EXECUTABLE: u64 = libc::PROT_EXEC.cast_unsigned() as u64;
const PTHREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;
const MAPPING: i32 = libc::MAP_PRIVATE
    | libc::MAP_ANONYMOUS
    | libc::MAP_NORESERVE
    | libc::MAP_FIXED
    | libc::MAP_STACK
    | libc::MAP_GROWSDOWN;

/// `PAGEMAP_SCAN` of `linux/fs.h`: `_IOWR('f', 16, struct pm_scan_arg)`, which has 96 bytes.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Of all roles.
const COMMON: &[Entry] = &[
    allow(Sysno::recvmsg, "the connection: what the host says or that it has said something, and its descriptors"),
    allow(Sysno::sendmsg, "the connection: what the host is told, or that it is told something"),
    allow(Sysno::ppoll, "whoever reads or writes waits for the connection"),
    allow(Sysno::shutdown, "the end of the connection"),
    allow(Sysno::close, "artefacts that are loaded"),
    allow_if(Sysno::write, &[int(0, libc::STDERR_FILENO)], "last words"),
    allow_if(Sysno::writev, &[int(0, libc::STDERR_FILENO)], "last words of the C library"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_WAIT)], "locks: parking_lot and std wait"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_WAKE)], "locks: parking_lot and std wake"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_WAIT_BITSET)], "locks with a deadline"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_WAKE_BITSET)], "locks of the C library"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_REQUEUE)], "condition variables of parking_lot"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_CMP_REQUEUE)], "condition variables"),
    allow_if(Sysno::futex, &[futex(libc::FUTEX_WAKE_OP)], "condition variables of older C libraries"),
    allow_if(
        Sysno::mmap,
        &[within(2, libc::PROT_READ | libc::PROT_WRITE), within(3, MAPPING)],
        "memories, stacks, heap",
    ),
    allow_if(Sysno::mprotect, &[within(2, libc::PROT_READ | libc::PROT_WRITE)], "memories that grow, guards, heap"),
    allow(Sysno::munmap, "memories, stacks, heap"),
    allow(Sysno::mremap, "heap: large blocks that grow"),
    allow(Sysno::brk, "heap"),
    allow_if(Sysno::madvise, &[int(2, libc::MADV_DONTNEED)], "freed memories, stacks of threads that end"),
    allow_if(Sysno::madvise, &[int(2, libc::MADV_FREE)], "freed heap"),
    entry(
        Answer::NoSuchCall,
        Sysno::madvise,
        &[not_int(2, libc::MADV_DONTNEED), not_int(2, libc::MADV_FREE)],
        "other advice is a favour; among it is sharing of equal pages, which tells what others hold",
    ),
    allow(Sysno::clock_gettime, "clocks without the vdso, and those of processor time"),
    allow(Sysno::clock_getres, "clocks without the vdso"),
    allow(Sysno::clock_nanosleep, "waiting for a moment"),
    allow(Sysno::sched_yield, "locks, and whoever waits for the host, spin for a moment"),
    allow(Sysno::getrandom, "guests' randomness, seeds of hash maps"),
    allow(Sysno::gettid, "locks of the C library, panics"),
    allow(Sysno::getpid, "abort, and the C library"),
    allow(Sysno::rt_sigreturn, "back from a trap of a guest"),
    allow(Sysno::rt_sigprocmask, "threads at their start and end, traps"),
    allow(Sysno::sigaltstack, "each thread has a stack for traps"),
    allow_if(Sysno::rt_sigaction, &[int(0, libc::SIGABRT)], "abort takes its handler away"),
    allow_if(Sysno::rt_sigaction, &[int(0, libc::SIGSEGV)], "a crash that is no guest's is given its default action"),
    allow_if(Sysno::rt_sigaction, &[int(0, libc::SIGBUS)], "as for SIGSEGV"),
    allow_if(Sysno::rt_sigaction, &[int(0, libc::SIGILL)], "as for SIGSEGV"),
    allow_if(Sysno::rt_sigaction, &[int(0, libc::SIGFPE)], "as for SIGSEGV"),
    allow_if(
        Sysno::tgkill,
        &[on(0, Bits::B32, Test::IsThisProcess), int(2, libc::SIGABRT)],
        "abort: a signal to itself",
    ),
    allow(Sysno::exit, "a thread ends"),
    allow(Sysno::exit_group, "the process ends"),
    allow(Sysno::restart_syscall, "a wait that was interrupted by SIGSTOP and SIGCONT goes on"),
    allow(Sysno::fstat, "the size of an artefact"),
    allow_if(
        machine::FSTATAT,
        &[int(3, libc::AT_EMPTY_PATH)],
        "how some C libraries spell fstat; with an empty root directory there is no path to ask for",
    ),
    allow_if(Sysno::fcntl, &[int(1, libc::F_GET_SEALS)], "an artefact that could change is not loaded"),
    allow_if(Sysno::fcntl, &[int(1, libc::F_GETFD)], "checks of the standard library"),
    allow_if(Sysno::fcntl, &[int(1, libc::F_DUPFD_CLOEXEC)], "a second handle of an artefact"),
    allow(Sysno::sched_getaffinity, "the C library at the start of a thread; how many processors there are"),
    allow(
        Sysno::rseq,
        "the C library at the start of a thread, which ends the process if it worked for the first thread alone",
    ),
    allow(Sysno::set_robust_list, "the C library at the start of a thread"),
    allow_if(Sysno::prctl, &[int(0, libc::PR_SET_NAME)], "threads have names"),
    lacking(Sysno::clone3, "the C library starts threads with clone then, whose flags can be seen"),
    lacking(Sysno::process_madvise, "wasmtime frees memories one by one then"),
    lacking(Sysno::memfd_create, "wasmtime takes memories from the artefact, or fills them itself"),
    lacking(Sysno::statx, "the standard library falls back to fstat"),
    lacking(Sysno::openat2, "not there on older kernels either"),
    lacking(Sysno::getcpu, "the heap of the C library does without"),
    lacking(Sysno::futex_waitv, "not there on older kernels either"),
    lacking(Sysno::sysinfo, "asked by runtimes for a size to start with"),
    lacking(Sysno::uname, "asked by runtimes for the kernel's version"),
    lacking(Sysno::getrusage, "statistics"),
    deny(Sysno::openat, "the standard library looks for cgroups, processors and time zones; there are no files"),
    deny(Sysno::readlinkat, "as openat"),
    deny(Sysno::faccessat, "as openat"),
    deny(Sysno::faccessat2, "as openat"),
    entry(Answer::Denied, machine::FSTATAT, &[not_int(3, libc::AT_EMPTY_PATH)], "as openat"),
    deny(Sysno::getcwd, "panics with a backtrace shorten their paths"),
    entry(Answer::Denied, Sysno::ioctl, &[on(1, Bits::B32, Test::IsNot(PAGEMAP_SCAN))], "is this a terminal? No"),
    deny(Sysno::prlimit64, "the C library asks for the size of stacks, and has a default"),
];

/// Of a worker, and of an initializer.
const WORKER: &[Entry] = &[
    allow_if(
        Sysno::mprotect,
        &[on(2, Bits::B64, Test::Masked(!machine::PROT_OTHER, EXECUTABLE | libc::PROT_READ.cast_unsigned() as u64))],
        "a module that is loaded becomes executable, and unwritable",
    ),
    allow_if(
        Sysno::ioctl,
        &[on(1, Bits::B32, Test::Is(PAGEMAP_SCAN))],
        "which pages of a memory were written to, so that these alone are set back for the next guest",
    ),
    allow_if(
        Sysno::clone,
        &[on(0, Bits::B64, Test::Is(PTHREAD.cast_unsigned() as u64))],
        "threads, and nothing but threads",
    ),
];

/// Of a process that puts up the second stage.
const BEFORE_SECOND_STAGE: &[Entry] = &[
    allow_if(Sysno::seccomp, &[int(0, 1)], "another filter, which can only forbid more"),
    allow_if(Sysno::prctl, &[int(0, libc::PR_SET_NO_NEW_PRIVS)], "goes before a filter; is set already"),
];

/// Of a worker whose guests have directories. Landlock says which.
const DIRECTORIES: &[Entry] = &[
    allow(Sysno::openat, "files of guests"),
    allow(Sysno::openat2, "files of guests, beneath their directory"),
    allow(machine::FSTATAT, "files of guests"),
    allow(Sysno::statx, "files of guests"),
    allow(Sysno::read, "files of guests"),
    allow(Sysno::write, "files of guests"),
    allow(Sysno::readv, "files of guests"),
    allow(Sysno::writev, "files of guests"),
    allow(Sysno::pread64, "files of guests"),
    allow(Sysno::pwrite64, "files of guests"),
    allow(Sysno::preadv, "files of guests"),
    allow(Sysno::pwritev, "files of guests"),
    allow(Sysno::preadv2, "files of guests"),
    allow(Sysno::pwritev2, "files of guests"),
    allow(Sysno::lseek, "files of guests"),
    allow(Sysno::ftruncate, "files of guests"),
    allow(Sysno::fallocate, "files of guests"),
    allow(Sysno::fadvise64, "files of guests"),
    allow(Sysno::fsync, "files of guests"),
    allow(Sysno::fdatasync, "files of guests"),
    allow(Sysno::getdents64, "files of guests"),
    allow(Sysno::mkdirat, "files of guests"),
    allow(Sysno::unlinkat, "files of guests"),
    allow(Sysno::renameat, "files of guests"),
    allow(Sysno::renameat2, "files of guests"),
    allow(Sysno::linkat, "files of guests"),
    allow(Sysno::symlinkat, "files of guests"),
    allow(Sysno::readlinkat, "files of guests"),
    allow(Sysno::utimensat, "files of guests"),
    allow_if(Sysno::fcntl, &[int(1, libc::F_GETFL)], "how a file of a guest is open"),
    allow_if(Sysno::fcntl, &[int(1, libc::F_SETFL)], "how a file of a guest is open"),
    allow(Sysno::epoll_create1, "wasmtime-wasi waits for files on a runtime"),
    allow(Sysno::epoll_ctl, "wasmtime-wasi waits for files on a runtime"),
    allow(Sysno::epoll_pwait, "wasmtime-wasi waits for files on a runtime"),
    allow(Sysno::eventfd2, "wasmtime-wasi waits for files on a runtime"),
];

/// Of a compiler, and of an initializer.
const COMPILER: &[Entry] = &[
    allow(Sysno::read, "the module"),
    allow(Sysno::pread64, "the module, and the input of its init function"),
    allow(Sysno::pwrite64, "the artefact, or the snapshot"),
    allow(Sysno::lseek, "the size of the module"),
];

/// What the second stage takes away, by what it is then killed for.
pub(super) const SECOND_STAGE: &[Entry] = &[
    allow_if(
        Sysno::mprotect,
        &[on(2, Bits::B64, Test::Masked(EXECUTABLE, EXECUTABLE))],
        "the only module is loaded, so nothing becomes executable any more",
    ),
    allow(Sysno::seccomp, "there is no third stage"),
    allow_if(Sysno::prctl, &[int(0, libc::PR_SET_NO_NEW_PRIVS)], "there is no third stage"),
];

/// What the second stage takes away from a process that has all threads it will ever have.
pub(super) const NO_MORE_THREADS: &[Entry] = &[allow(Sysno::clone, "all threads are there")];

/// The list of a role.
pub(super) fn of(role: Role) -> Vec<Entry> {
    let parts: &[&[Entry]] = match role {
        Role::Compiler => &[COMMON, COMPILER, machine::COMMON],
        Role::Initializer => &[COMMON, COMPILER, WORKER, machine::COMMON, BEFORE_SECOND_STAGE],
        Role::Worker { has_directories, one_module } => &[
            COMMON,
            WORKER,
            machine::COMMON,
            if has_directories { DIRECTORIES } else { &[] },
            if has_directories { machine::DIRECTORIES } else { &[] },
            if one_module { BEFORE_SECOND_STAGE } else { &[] },
        ],
    };
    let all: Vec<Entry> = parts.iter().copied().flatten().copied().collect();
    // What is allowed without a condition is not refused as well.
    let allowed: Vec<Sysno> =
        all.iter().filter(|it| it.answer == Answer::Allowed && it.when.is_empty()).map(|it| it.call).collect();
    all.into_iter()
        .filter(|it| it.when.is_empty() && it.answer == Answer::Allowed || !allowed.contains(&it.call))
        .collect()
}

/// Writes the lists of all roles, with their reasons.
pub(crate) fn print(out: &mut dyn Write) -> io::Result<()> {
    let worker = |has_directories, one_module| Role::Worker { has_directories, one_module };
    let lists = [
        ("a worker", worker(false, false)),
        ("a worker that takes one module, until that is loaded", worker(false, true)),
        ("a worker whose guests have directories", worker(true, false)),
        ("a compiler", Role::Compiler),
        ("an initializer, until its module is loaded", Role::Initializer),
    ];
    for (name, role) in lists {
        writeln!(out, "# {name}")?;
        for entry in of(role) {
            writeln!(out, "{entry}")?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "# what an initializer, and a worker that takes one module, is killed for once that is loaded, beside all that is not above"
    )?;
    SECOND_STAGE.iter().chain(NO_MORE_THREADS).try_for_each(|entry| writeln!(out, "{entry}"))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match self.answer {
            Answer::Allowed => "",
            Answer::NoSuchCall => " -> ENOSYS",
            Answer::Denied => " -> EACCES",
        };
        let conditions: Vec<String> = self.when.iter().map(ToString::to_string).collect();
        let conditions = if conditions.is_empty() { String::new() } else { format!("({})", conditions.join(", ")) };
        let call = format!("{}{conditions}{answer}", self.call.name());
        write!(f, "{call:<48} {}", self.why)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let argument = self.argument;
        match self.test {
            Test::Is(value) => write!(f, "{argument}={value:#x}"),
            Test::IsNot(value) => write!(f, "{argument}!={value:#x}"),
            Test::Within(bits) => write!(f, "{argument}|{bits:#x}"),
            Test::Masked(mask, value) => write!(f, "{argument}&{mask:#x}={value:#x}"),
            Test::IsThisProcess => write!(f, "{argument}=self"),
        }
    }
}
