//! A slow network between two processes: a launcher that starts a command and passes on what is said in both directions, each
//! piece a while after it came. The kernel's own way to do that (netem) is not on every machine.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const PIECE_BYTES: usize = 64 * 1024;

/// Runs `command` behind such a network, until both directions have ended.
#[expect(clippy::disallowed_methods, reason = "it is waited for below, and ends when its input does")]
pub(crate) fn run(delay: Duration, command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().context("there is no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", program.display()))?;
    let (to, from) = (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
    pass_on(delay, std::io::stdin(), to)?;
    let back = pass_on(delay, from, std::io::stdout())?;
    let _ = back.join();
    child.wait()?;
    Ok(())
}

fn pass_on(
    delay: Duration,
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> Result<JoinHandle<()>> {
    let (sender, receiver): (Sender<(Instant, Vec<u8>)>, Receiver<_>) = channel();
    std::thread::Builder::new().name("delayed-in".to_owned()).spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer)
            && sender.send((Instant::now() + delay, buffer[..count].to_vec())).is_ok()
        {}
    })?;
    let out = std::thread::Builder::new().name("delayed-out".to_owned()).spawn(move || {
        // Nothing is ever sent on it: a wait on it is a wait for time.
        let (_keep, never) = channel::<()>();
        for (due, bytes) in receiver {
            let left = due.saturating_duration_since(Instant::now());
            let waited = never.recv_timeout(left);
            debug_assert_eq!(waited, Err(RecvTimeoutError::Timeout), "nothing is sent");
            if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
    })?;
    Ok(out)
}
