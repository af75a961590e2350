//! The one place of the tests that starts tools, such as cargo and git, and hosts other than the test itself. Workers are
//! not started here: that is the library's part.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
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
