//! A child process: started without inheriting anything, killed by pidfd, always reaped.
//!
//! Children are started by one thread that lives as long as the host, because a child's parent-death signal goes off
//! when the *thread* that started it ends.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};
use sandgate_wire::launch::FORBIDDEN_CALL;
use sandgate_wire::outcome::LossCause;
pub(crate) use sandgate_wire::text::printable;
use sandgate_wire::transport::wait;

use crate::error::LaunchError;

/// Bytes of a child's last words that are kept.
const STDERR_TAIL_BYTES: usize = 4096;

/// Longest name of a system call that is passed on.
const MAX_CALL_NAME_BYTES: usize = 40;

/// How a child is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<&'static str>,
    pub(crate) directory: Option<PathBuf>,
}

/// A program that somebody names, to be started with the host's own environment: the launcher of a link.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
}

/// What the spawner thread is asked for.
#[derive(Debug)]
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
    keeps_environment: bool,
    stdin: OwnedFd,
    stdout: Option<OwnedFd>,
}

/// What a child writes to its standard error.
#[derive(Debug)]
enum LastWords {
    /// It may write more.
    Coming(OwnedFd),
    /// It has ended; nobody has asked for them yet.
    Read(String),
    Taken,
}

/// A child that was started and will be reaped by [`Process::reap`].
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Until it was reaped.
    pidfd: Mutex<Option<Arc<OwnedFd>>>,
    last_words: Mutex<LastWords>,
    ended: OnceLock<LossCause>,
}

type Spawned = Result<Process, LaunchError>;
type Request = (Start, Sender<Spawned>);

/// Starts a child whose standard input is `connection`.
pub(crate) fn launch(launch: Launch, connection: OwnedFd) -> Spawned {
    let Launch { program, arguments, directory } = launch;
    let arguments = arguments.into_iter().map(OsString::from).collect();
    start(Start { program, arguments, directory, keeps_environment: false, stdin: connection, stdout: None })
}

/// What `sandgate work` takes from the environment and no launcher needs: one may hand its environment on to where tasks run.
const SECRETS: [&str; 4] = ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN"];

/// Starts a program between two pipes.
pub(crate) fn launch_program(program: Program, stdin: OwnedFd, stdout: OwnedFd) -> Spawned {
    let Program { program, arguments } = program;
    start(Start { program, arguments, directory: None, keeps_environment: true, stdin, stdout: Some(stdout) })
}

fn start(start: Start) -> Spawned {
    static SPAWNER: OnceLock<Result<Sender<Request>, io::ErrorKind>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = unbounded::<Request>();
        let run = move || {
            for (start, answer) in requests {
                // Whoever asked may be gone; then the process is killed and reaped by its drop.
                let _ = answer.send(spawn(start));
            }
        };
        let thread = std::thread::Builder::new().name("sandgate-spawner".to_owned()).spawn(run);
        thread.map(|_| sender).map_err(|error| error.kind())
    });
    let sender = spawner.as_ref().map_err(|kind| LaunchError::Resources((*kind).into()))?;
    let (answer, answered) = bounded(1);
    let gone = || LaunchError::Resources(io::Error::other("the spawner thread is gone"));
    sender.send((start, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

fn spawn(start: Start) -> Spawned {
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| LaunchError::Resources(error.into()))?;
    for end in [&stderr, &child_stderr] {
        // Neither a chatty worker nor a reader of its last words may ever wait for the other.
        rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).map_err(|error| LaunchError::Resources(error.into()))?;
    }
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the library starts processes")]
    let mut command = Command::new(&start.program);
    command.args(start.arguments);
    if !start.keeps_environment {
        command.env_clear();
    }
    for name in SECRETS {
        command.env_remove(name);
    }
    // An interrupt from the terminal is the host's to handle: workers end in order, when it says so.
    command.process_group(0);
    command.stdin(start.stdin).stdout(start.stdout.map_or_else(Stdio::null, Stdio::from)).stderr(child_stderr);
    if let Some(directory) = &start.directory {
        command.current_dir(directory);
    }
    let spawned = command.spawn();
    let mut child =
        spawned.map_err(|source| LaunchError::Spawn { program: start.program, directory: start.directory, source })?;
    let opened = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("bad pid"));
    match opened.and_then(|pid| Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))) {
        Ok((pid, pidfd)) => Ok(Process {
            pid,
            pidfd: Mutex::new(Some(Arc::new(pidfd))),
            last_words: Mutex::new(LastWords::Coming(stderr)),
            ended: OnceLock::new(),
        }),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(LaunchError::Resources(error))
        }
    }
}

impl Process {
    /// The process id. It names this child until it was reaped.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the process has ended; `None` once it was reaped.
    pub(crate) fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        self.pidfd.lock().clone()
    }

    /// Whether the process has ended, so that reaping it takes no time.
    pub(crate) fn has_exited(&self) -> bool {
        let look = |pidfd: Arc<OwnedFd>| wait(pidfd.as_fd(), PollFlags::IN, Some(Duration::ZERO));
        self.pidfd().is_none_or(|pidfd| look(pidfd).unwrap_or(true))
    }

    /// Sends SIGKILL. Never blocks, never hits another process.
    pub(crate) fn kill(&self) {
        if let Some(pidfd) = self.pidfd() {
            // The only failure is that it is gone already.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }

    /// How the process ended, if it was reaped.
    pub(crate) fn ended(&self) -> Option<&LossCause> {
        self.ended.get()
    }

    /// Waits for the end of the process, kills it if that takes longer than `patience`, and reaps it.
    pub(crate) fn reap(&self, patience: Duration) -> &LossCause {
        self.ended.get_or_init(|| {
            let Some(pidfd) = self.pidfd() else {
                return LossCause::Unknown { message: "it was reaped before".to_owned() };
            };
            match wait(pidfd.as_fd(), PollFlags::IN, Some(patience)) {
                Ok(true) => {}
                Ok(false) | Err(_) => {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                }
            }
            let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            if status.is_ok() {
                // Whatever it has started and could not take along. While the dead process is not reaped, its id names its
                // group and nobody else's.
                let _ = kill_process_group(self.pid, Signal::KILL);
            }
            let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            *self.pidfd.lock() = None;
            match status {
                Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => LossCause::Exited { code },
                    (None, Some(signal)) if signal == Signal::SYS.as_raw() => self.violation(),
                    (None, Some(signal)) => LossCause::Signaled { signal },
                    (None, None) => LossCause::Unknown { message: format!("{status:?}") },
                },
                Ok(None) => LossCause::Unknown { message: "no status".to_owned() },
                Err(error) => LossCause::Unknown { message: error.to_string() },
            }
        })
    }

    /// The kernel ended it for a system call, whose name its last words may have.
    fn violation(&self) -> LossCause {
        let mut last_words = self.last_words.lock();
        if let LastWords::Coming(stderr) = &*last_words {
            *last_words = LastWords::Read(tail(stderr));
        }
        match &*last_words {
            LastWords::Read(text) => LossCause::PolicyViolation { call: forbidden_call(text) },
            _ => LossCause::PolicyViolation { call: None },
        }
    }

    /// The last lines of the process's standard error, with control characters escaped. They are given once.
    pub(crate) fn take_stderr_tail(&self) -> String {
        match std::mem::replace(&mut *self.last_words.lock(), LastWords::Taken) {
            LastWords::Coming(stderr) => tail(&stderr),
            LastWords::Read(text) => text,
            LastWords::Taken => String::new(),
        }
    }

    /// Resident memory in bytes, as the system reports it.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        if self.ended.get().is_some() {
            return None;
        }
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).ok()?;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.reap(Duration::from_secs(1));
    }
}

fn tail(stderr: &OwnedFd) -> String {
    let mut tail = Vec::new();
    let mut buffer = [0; 4096];
    // A pipe holds 64 KiB; a process that is still writing must not keep us here.
    for _ in 0..64 {
        match rustix::io::read(stderr, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => tail.extend_from_slice(&buffer[..count]),
        }
    }
    let start = tail.len().saturating_sub(STDERR_TAIL_BYTES);
    shown(&String::from_utf8_lossy(&tail[start..]))
}

/// Lines that a terminal does not act on. Whatever ends them for one, as ssh does, is left out.
fn shown(text: &str) -> String {
    let line = |line: &str| {
        let end = if line.ends_with('\n') { "\n" } else { "" };
        printable(line.trim_end_matches(|c: char| c.is_control() && c != '\t')) + end
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The name that a process gives to the system call it was ended for. The process may have been taken over, so this is no
/// more than a word of it: letters, digits and underscores, and not too many.
fn forbidden_call(last_words: &str) -> Option<String> {
    let (_, after) = last_words.rsplit_once(FORBIDDEN_CALL)?;
    let (name, _) = after.split_once('`')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fits = !name.is_empty() && name.len() <= MAX_CALL_NAME_BYTES && name.chars().all(is_name);
    fits.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(program: &str) -> Process {
        let (ours, theirs) = sandgate_wire::transport::socket_pair().unwrap();
        let launch = Launch { program: program.into(), arguments: vec!["--no-such-option"], directory: None };
        let process = super::launch(launch, theirs).unwrap();
        drop(ours);
        process
    }

    #[test]
    fn an_exit_code_and_the_last_words_are_kept() {
        let process = started("/bin/ls");
        assert_eq!(*process.reap(Duration::from_secs(10)), LossCause::Exited { code: 2 });
        let tail = process.take_stderr_tail();
        assert!(tail.contains("--no-such-option"), "{tail}");
    }

    #[test]
    fn a_process_that_does_not_end_is_killed() {
        let (_ours, theirs) = sandgate_wire::transport::socket_pair().unwrap();
        let launch = Launch { program: "/bin/cat".into(), arguments: vec!["-"], directory: None };
        let process = super::launch(launch, theirs).unwrap();
        assert!(process.resident_bytes().unwrap() > 0);
        assert_eq!(*process.reap(Duration::ZERO), LossCause::Signaled { signal: 9 });
        assert_eq!(process.resident_bytes(), None);
    }

    #[test]
    fn what_a_process_leaves_behind_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("forks");
        std::fs::write(&script, "#!/bin/sh\n/bin/sleep 1000 &\necho $! >&2\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let (_ours, theirs) = sandgate_wire::transport::socket_pair().unwrap();
        let launch = Launch { program: script, arguments: vec!["-"], directory: None };
        let process = super::launch(launch, theirs).unwrap();
        assert_eq!(*process.reap(Duration::from_secs(10)), LossCause::Exited { code: 0 });
        let child = process.take_stderr_tail().trim().to_owned();
        // Where nobody reaps orphans it stays behind as a dead process.
        crate::fake_worker::eventually("the child to be gone", || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z"))
        });
    }

    #[test]
    fn a_missing_program_is_named() {
        let (_ours, theirs) = sandgate_wire::transport::socket_pair().unwrap();
        let launch = Launch { program: "/nonexistent/worker".into(), arguments: vec!["x"], directory: None };
        let error = super::launch(launch, theirs).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nonexistent/worker`");
    }

    #[test]
    fn only_a_name_is_taken_for_the_name_of_a_call() {
        let check = |text: &str, name: Option<&str>| assert_eq!(forbidden_call(text).as_deref(), name, "{text}");
        check("sandgate worker: forbidden system call `ptrace`\n", Some("ptrace"));
        check(
            "noise\nsandgate worker: forbidden system call `a`\nsandgate worker: forbidden system call `b`",
            Some("b"),
        );
        check("sandgate worker: forbidden system call `\\u{1b}[31m`", None);
        check("sandgate worker: forbidden system call `ptrace", None);
        check(&format!("sandgate worker: forbidden system call `{}`", "a".repeat(99)), None);
        check("", None);
    }

    #[test]
    fn escapes_of_a_terminal_are_made_visible() {
        assert_eq!(printable("a\u{1b}[31mb\n\tc"), "a\\u{1b}[31mb\n\tc");
        assert_eq!(shown("one\r\ntwo\u{7}\r\r\n\r\n"), "one\ntwo\n\n");
        assert_eq!(shown("a\rb\u{1b}[2J\r"), "a\\rb\\u{1b}[2J");
    }
}
