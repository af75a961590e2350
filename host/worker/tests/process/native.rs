//! Native code inside a worker that is locked in: what somebody who has broken out of WebAssembly would try.
//!
//! Each attack makes one system call, or a few. What it came to goes to standard error as `result: N`, 0 or the number of an
//! error. An attack that the kernel stops has no result.
#![expect(unsafe_code, reason = "raw system calls, so that nothing of the standard library is in the way")]

use std::ptr;

use libc::{c_long, syscall};

/// `perf_event_attr`, `clone_args` and all else that an attack only has to point to.
static ZEROS: [u64; 64] = [0; 64];

/// The attack of this name. What does not begin with a known name is no attack.
pub(crate) fn attack(gateway: &str, parent: u32) {
    let Some(result) = result_of(gateway, parent) else { return };
    let error = if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 };
    let text = format!("result: {error}\n");
    // SAFETY: reads `text.len()` bytes of `text`.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

fn result_of(name: &str, parent: u32) -> Option<c_long> {
    let zeros = ZEROS.as_ptr();
    let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let none = ptr::null::<u8>();
    let map = |prot, flags| map(4096, prot, flags);
    // SAFETY: the numbers and kinds of arguments are those of each call. Pointers are null, to static data that is larger
    // than what any of these calls reads, or to C strings; no call writes through one. If an attack succeeds that is not
    // stopped, the process is at its mercy; it is a test's, and ends soon.
    Some(unsafe {
        match name {
            "nothing" => 0,
            "open" => syscall(libc::SYS_openat, libc::AT_FDCWD, c"/etc/passwd".as_ptr(), libc::O_RDONLY),
            "open-proc" => syscall(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/mem".as_ptr(), libc::O_RDWR),
            "create" => {
                let flags = libc::O_CREAT | libc::O_WRONLY;
                syscall(libc::SYS_openat, libc::AT_FDCWD, c"/tmp/sandgate-was-here".as_ptr(), flags, 0o600)
            }
            "stat" => {
                let mut found = [0_u64; 64];
                let to = found.as_mut_ptr();
                syscall(libc::SYS_newfstatat, libc::AT_FDCWD, c"/etc/passwd".as_ptr(), to, libc::AT_EMPTY_PATH)
            }
            "mkdir" => syscall(libc::SYS_mkdirat, libc::AT_FDCWD, c"/tmp/sandgate-was-here".as_ptr(), 0o700),
            "unlink" => syscall(libc::SYS_unlinkat, libc::AT_FDCWD, c"/tmp/sandgate-not-there".as_ptr(), 0),
            "chdir" => syscall(libc::SYS_chdir, c"/".as_ptr()),
            "chroot" => syscall(libc::SYS_chroot, c"/".as_ptr()),
            "mount" => syscall(libc::SYS_mount, none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none),
            "write-elsewhere" => syscall(libc::SYS_write, libc::STDOUT_FILENO, zeros, 1),
            "ioctl" => syscall(libc::SYS_ioctl, libc::STDERR_FILENO, libc::TIOCSTI, zeros),
            "ioctl-pagemap" => syscall(libc::SYS_ioctl, libc::STDERR_FILENO, 0xc060_6610_u64, zeros),
            "socket" => syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            "connect" => syscall(libc::SYS_connect, 0, zeros, 16),
            "sendto" => syscall(libc::SYS_sendto, 0, zeros, 1, 0, zeros, 16),
            "tcp" => return Some(tcp()),
            "execve" => syscall(libc::SYS_execve, c"/bin/true".as_ptr(), zeros, zeros),
            "execveat" => syscall(libc::SYS_execveat, libc::AT_FDCWD, c"/bin/true".as_ptr(), zeros, zeros, 0),
            "fork" => syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0),
            "clone-namespace" => syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0),
            "clone3" => syscall(libc::SYS_clone3, zeros, 88),
            "thread" => return Some(thread()),
            "ptrace" => syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, parent, 0, 0),
            "kill" => syscall(libc::SYS_kill, parent, 0),
            "tgkill" => syscall(libc::SYS_tgkill, parent, parent, libc::SIGABRT),
            "tgkill-itself" => syscall(libc::SYS_tgkill, libc::getpid(), libc::getpid(), libc::SIGTERM),
            "pidfd_open" => syscall(libc::SYS_pidfd_open, parent, 0),
            "pidfd_getfd" => syscall(libc::SYS_pidfd_getfd, 0, 0, 0),
            "process_vm_readv" => syscall(libc::SYS_process_vm_readv, parent, zeros, 0, zeros, 0, 0),
            "process_vm_writev" => syscall(libc::SYS_process_vm_writev, parent, zeros, 0, zeros, 0, 0),
            "kcmp" => syscall(libc::SYS_kcmp, parent, parent, 0, 0, 0),
            "mmap-wx" => map(read | write | exec, private),
            "mmap-x" => map(read | exec, private),
            "mmap-shared" => map(read | write, shared),
            "mmap" => map(read | write, private),
            "mprotect-wx" => protect(read | write | exec),
            "mprotect-x" => protect(read | exec),
            "mprotect" => protect(read),
            "pkey_mprotect" => syscall(libc::SYS_pkey_mprotect, 0, 0, 0, -1),
            "a-terabyte" => map_bytes(1 << 40),
            "memfd_create" => syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0),
            "shmget" => syscall(libc::SYS_shmget, 0, 4096, 0o600),
            "unshare" => syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "setns" => syscall(libc::SYS_setns, 0, 0),
            "prctl" => syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0),
            "prctl-name" => syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"innocent".as_ptr(), 0, 0, 0),
            "io_uring_setup" => syscall(libc::SYS_io_uring_setup, 1, zeros),
            "userfaultfd" => syscall(libc::SYS_userfaultfd, 0),
            "bpf" => syscall(libc::SYS_bpf, 0, zeros, 64),
            "perf_event_open" => syscall(libc::SYS_perf_event_open, zeros, 0, -1, -1, 0),
            "keyctl" => syscall(libc::SYS_keyctl, 0, 0, 0, 0, 0),
            "add_key" => syscall(libc::SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), zeros, 1, -3),
            "inotify_init1" => syscall(libc::SYS_inotify_init1, 0),
            "setresuid" => syscall(libc::SYS_setresuid, 0, 0, 0),
            "capset" => syscall(libc::SYS_capset, zeros, zeros),
            "personality" => syscall(libc::SYS_personality, 0x0040_0000),
            "prlimit64" => syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, zeros, 0),
            "setpriority" => syscall(libc::SYS_setpriority, 0, 0, -20),
            "sched_setaffinity" => syscall(libc::SYS_sched_setaffinity, 0, 0, zeros),
            "rt_sigaction" => syscall(libc::SYS_rt_sigaction, libc::SIGSYS, zeros, 0, 8),
            "futex-pi" => syscall(libc::SYS_futex, zeros, libc::FUTEX_LOCK_PI, 0, 0, 0, 0),
            "seccomp" => syscall(libc::SYS_seccomp, 1, 0, 0),
            "madvise" => syscall(libc::SYS_madvise, 0, 0, libc::MADV_MERGEABLE),
            "no-such-call" => syscall(5000),
            "quietly" => return Some(quietly()),
            #[cfg(target_arch = "x86_64")]
            "x32" => syscall(0x4000_0000 | libc::SYS_getpid),
            #[cfg(target_arch = "x86_64")]
            "i386" => return Some(i386()),
            _ => return None,
        }
    })
}

fn map(bytes: usize, prot: i32, flags: i32) -> c_long {
    // SAFETY: an anonymous mapping at a place that the kernel chooses touches nothing that is there.
    unsafe { syscall(libc::SYS_mmap, 0, bytes, prot, flags, -1, 0) }
}

fn map_bytes(bytes: usize) -> c_long {
    map(bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
}

/// Makes a page of its own, and then something else of it.
fn protect(prot: i32) -> c_long {
    let page = map(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: nobody else knows the page.
    unsafe { syscall(libc::SYS_mprotect, page, 4096, prot) }
}

fn thread() -> c_long {
    let started = std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join);
    if matches!(started, Ok(Ok(()))) { 0 } else { -1 }
}

/// Connects to a port of the machine. Nobody listens there, so the best that it can come to is ECONNREFUSED.
fn tcp() -> c_long {
    // SAFETY: `address` is a whole `sockaddr_in`: family, port and address in network order, and eight bytes of padding.
    unsafe {
        let socket = syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0);
        let address = libc::sockaddr_in {
            sin_family: 2,
            sin_port: 1_u16.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
            sin_zero: [0; 8],
        };
        syscall(libc::SYS_connect, socket, &raw const address, size_of_val(&address))
    }
}

/// Keeps the handler from saying what was tried.
fn quietly() -> c_long {
    let all: u64 = !0;
    // SAFETY: reads eight bytes of `all`; the second call takes numbers.
    unsafe {
        syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, 0, 8);
        syscall(libc::SYS_ptrace, 0, 0, 0, 0)
    }
}

/// A call by the door for programs of 32 bits, where numbers mean something else: 20 is `getpid`, and `writev` here.
#[cfg(target_arch = "x86_64")]
fn i386() -> c_long {
    let mut result: i64 = 20;
    // SAFETY: `int 0x80` with this number takes no arguments and changes no register but `rax`, if it comes back at all.
    unsafe { std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _) };
    result
}
