//! The one place of the tests that starts tools, such as cargo and git, and hosts other than the test itself. Workers are
//! not started here: that is the library's part.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::waiting::{eventually, within};

/// Runs `program` in `dir` to its end, without stdin, and gives back what it wrote.
///
/// # Panics
///
/// When the program cannot be started. That it fails is for the caller to see.
#[expect(clippy::disallowed_methods, reason = "this is the one place, and the call waits for the process")]
pub fn output(program: impl AsRef<OsStr>, args: &[&str], dir: &Path) -> Output {
    let program = program.as_ref();
    match Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot start `{}` in `{}`: {error}", program.display(), dir.display()),
    }
}

/// Runs `program` to its end with this on its stdin, and with nothing in its environment but `variables`. It may end without
/// reading all of it.
///
/// # Panics
///
/// When the program cannot be started, or does not end within `limit`.
pub fn feed(
    program: impl AsRef<OsStr>,
    args: &[&str],
    input: &[u8],
    variables: &[(&str, &OsStr)],
    limit: Duration,
) -> Output {
    let mut running = start(program, args, variables);
    running.send(input.to_vec());
    let (stdout, stderr) = (Arc::clone(&running.stdout), Arc::clone(&running.stderr));
    let out = thread("a reader of stdout", move || {
        let mut bytes = Vec::new();
        stdout.lock().expect("nobody else reads").read_to_end(&mut bytes).expect("a pipe that can be read");
        bytes
    });
    let err = thread("a reader of stderr", move || {
        let mut bytes = Vec::new();
        stderr.lock().expect("nobody else reads").read_to_end(&mut bytes).expect("a pipe that can be read");
        bytes
    });
    let mut status = None;
    eventually(limit, &format!("the end of {args:?}"), || {
        status = running.child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    let status = status.expect("it has ended");
    Output { status, stdout: out.join().expect("bytes"), stderr: err.join().expect("bytes") }
}

fn thread<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread")
}

/// A process that a test talks with. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Arc<Mutex<BufReader<ChildStdout>>>,
    stderr: Arc<Mutex<BufReader<ChildStderr>>>,
}

/// Starts `program` with pipes, and with nothing in its environment but `variables`.
///
/// # Panics
///
/// When the program cannot be started.
#[expect(clippy::disallowed_methods, reason = "this is the one place, and the drop waits for the process")]
pub fn start(program: impl AsRef<OsStr>, args: &[&str], variables: &[(&str, &OsStr)]) -> Running {
    let mut command = Command::new(program.as_ref());
    command.args(args).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start `{}`: {error}", program.as_ref().display()),
    };
    let stdout = child.stdout.take().expect("a pipe");
    let stderr = child.stderr.take().expect("a pipe");
    let (stdout, stderr) = (Mutex::new(BufReader::new(stdout)), Mutex::new(BufReader::new(stderr)));
    Running { child, stdout: Arc::new(stdout), stderr: Arc::new(stderr) }
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it writes, without its line break; empty at the end.
    ///
    /// # Panics
    ///
    /// When none comes within `limit`.
    pub fn line(&self, limit: Duration) -> String {
        next_line(&self.stdout, limit)
    }

    /// The next line that it writes to its stderr, as [`line`](Self::line).
    ///
    /// # Panics
    ///
    /// When none comes within `limit`.
    pub fn complaint(&self, limit: Duration) -> String {
        next_line(&self.stderr, limit)
    }

    /// Gives it this on its stdin, and then the end, from a thread that ends when all was read or nobody reads.
    ///
    /// # Panics
    ///
    /// When its stdin was closed or used up before.
    pub fn send(&mut self, input: Vec<u8>) {
        let mut stdin = self.child.stdin.take().expect("is taken once");
        // It may end without reading all of it.
        drop(thread("a writer to stdin", move || drop(stdin.write_all(&input))));
    }

    /// Writes this to its stdin, which stays open.
    ///
    /// # Panics
    ///
    /// When nobody reads there.
    pub fn write(&mut self, input: &[u8]) {
        self.child.stdin.as_mut().expect("is open").write_all(input).expect("somebody who reads");
    }

    /// The pipes from its stdout and to its stdin, for who speaks with it in its own way.
    ///
    /// # Panics
    ///
    /// When one was closed or used up before, or a read is under way.
    pub fn pipes(&mut self) -> (OwnedFd, OwnedFd) {
        let stdout = Arc::into_inner(self.replace_stdout()).expect("nobody reads");
        let stdout = stdout.into_inner().expect("nobody has panicked").into_inner();
        (stdout.into(), self.child.stdin.take().expect("is open").into())
    }

    /// Closes the pipe from its stdout.
    ///
    /// # Panics
    ///
    /// When a read of it is under way.
    pub fn close_stdout(&mut self) {
        assert_eq!(Arc::strong_count(&self.replace_stdout()), 1, "somebody reads");
    }

    fn replace_stdout(&mut self) -> Arc<Mutex<BufReader<ChildStdout>>> {
        let (nobody, _) = std::io::pipe().expect("a pipe");
        let nobody = ChildStdout::from(OwnedFd::from(nobody));
        std::mem::replace(&mut self.stdout, Arc::new(Mutex::new(BufReader::new(nobody))))
    }

    /// Lets it read the end of its stdin.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Kills it with SIGKILL. Does not wait.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Waits for its end and gives back its status and what it wrote to stderr and nobody has read.
    ///
    /// # Panics
    ///
    /// When it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> (ExitStatus, String) {
        self.close_stdin();
        let mut status = None;
        eventually(limit, "the end of the process", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        let mut stderr = String::new();
        self.stderr.lock().expect("nobody else reads").read_to_string(&mut stderr).expect("text");
        (status.expect("it has ended"), stderr)
    }

    /// What it wrote to stderr and nobody has read, if it has ended.
    ///
    /// # Panics
    ///
    /// When the system does not say whether it has.
    pub fn last_words(&mut self) -> Option<String> {
        self.child.try_wait().expect("a child can be waited for")?;
        let mut stderr = Vec::new();
        let _ = self.stderr.lock().expect("nobody else reads").read_to_end(&mut stderr);
        Some(String::from_utf8_lossy(&stderr).into_owned())
    }
}

fn next_line<R: Read + Send + 'static>(from: &Arc<Mutex<BufReader<R>>>, limit: Duration) -> String {
    let from = Arc::clone(from);
    within(limit, "a line of the process", move || {
        let mut line = String::new();
        from.lock().expect("nobody else reads").read_line(&mut line).expect("a pipe that can be read");
        line.trim_end().to_owned()
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before, and then both have nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
