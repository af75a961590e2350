//! The one place of the tests that starts tools, such as cargo and git, and hosts other than the test itself. Workers are
//! not started here: that is the library's part.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
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
    let (stdout, mut stderr) = (Arc::clone(&running.stdout), running.child.stderr.take().expect("is taken once"));
    let out = thread("a reader of stdout", move || {
        let mut bytes = Vec::new();
        stdout.lock().expect("nobody else reads").read_to_end(&mut bytes).expect("a pipe that can be read");
        bytes
    });
    let err = thread("a reader of stderr", move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).expect("a pipe that can be read");
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
    Running { child, stdout: Arc::new(Mutex::new(BufReader::new(stdout))) }
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
        let stdout = Arc::clone(&self.stdout);
        within(limit, "a line of the process", move || {
            let mut line = String::new();
            stdout.lock().expect("nobody else reads").read_line(&mut line).expect("a pipe that can be read");
            line.trim_end().to_owned()
        })
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

    /// Closes the pipe from its stdout.
    ///
    /// # Panics
    ///
    /// When a read of it is under way.
    pub fn close_stdout(&mut self) {
        let (nobody, _) = std::io::pipe().expect("a pipe");
        let nobody = ChildStdout::from(std::os::fd::OwnedFd::from(nobody));
        let before = std::mem::replace(&mut self.stdout, Arc::new(Mutex::new(BufReader::new(nobody))));
        assert_eq!(Arc::strong_count(&before), 1, "somebody reads");
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

    /// Waits for its end and gives back its status and what it wrote to stderr.
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
        self.child.stderr.take().expect("is asked once").read_to_string(&mut stderr).expect("text");
        (status.expect("it has ended"), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before, and then both have nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
