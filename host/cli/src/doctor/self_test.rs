//! Runs the probes of the lock-down, each in a process of its own.

use std::fs::Permissions;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandgate::isolation::Layer;
use sandgate_worker::self_test::{ARGUMENT, Expected, Needs, PROBES, Probe, exit_code};

/// A probe takes milliseconds.
const PATIENCE_SECONDS: i64 = 10;
const SIGSYS: i32 = 31;

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tested {
    pub(crate) layer: Layer,
    pub(crate) name: &'static str,
    pub(crate) expected: Expected,
    pub(crate) verdict: Verdict,
}

/// Whether a probe went as it has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It did; with what the system said.
    Passed(String),
    /// The layer cannot be had here, so there was nothing to test.
    NotInForce(String),
    /// It did not.
    Failed(String),
}

/// Runs all probes.
pub(crate) fn run_all() -> Vec<Tested> {
    let tested = |(number, probe): (usize, &Probe)| {
        let verdict = run(number, probe).unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
        Tested { layer: probe.layer, name: probe.name, expected: probe.expected, verdict }
    };
    PROBES.iter().enumerate().map(tested).collect()
}

fn run(number: usize, probe: &Probe) -> Result<Verdict> {
    // Both live until the probe has ended.
    let file = tempfile::NamedTempFile::new().context("no file to try with")?;
    file.as_file().set_permissions(Permissions::from_mode(0o600)).context("no private file to try with")?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port to try with")?;
    let argument = match probe.needs {
        Needs::Nothing => String::new(),
        Needs::PrivateFile => file.path().display().to_string(),
        Needs::Listener => listener.local_addr()?.to_string(),
    };
    let program = std::env::current_exe().context("this program cannot find itself")?;
    #[expect(clippy::disallowed_methods, reason = "a probe is no worker, and is waited for right here")]
    let mut command = Command::new(program);
    command.args([ARGUMENT, &number.to_string(), &argument]).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("a probe cannot be started")?;
    let Some(status) = wait(&mut child)? else {
        return Ok(Verdict::Failed(format!("nothing came of it within {PATIENCE_SECONDS} s")));
    };
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        let _ = stdout.read_to_string(&mut said);
    }
    Ok(judge(probe.expected, status, said))
}

/// Waits for the end of a probe, or ends it.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without an id")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("a probe cannot be watched")?;
    let timeout = Timespec { tv_sec: PATIENCE_SECONDS, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0);
    if !ended {
        child.kill().context("a probe cannot be ended")?;
    }
    let status = child.wait().context("a probe cannot be waited for")?;
    Ok(ended.then_some(status))
}

fn judge(expected: Expected, status: ExitStatus, said: String) -> Verdict {
    match (expected, status.code(), status.signal()) {
        (_, Some(exit_code::NOT_IN_FORCE), _) => Verdict::NotInForce(said),
        (_, Some(exit_code::BROKEN), _) => Verdict::Failed(format!("the probe could not be run: {said}")),
        (Expected::Works, Some(exit_code::WORKED), _) => Verdict::Passed("it works".to_owned()),
        (Expected::Refused, Some(exit_code::REFUSED), _) => Verdict::Passed(format!("refused: {said}")),
        (Expected::Dies, None, Some(SIGSYS)) => Verdict::Passed("the process was ended".to_owned()),
        (Expected::Works, Some(exit_code::REFUSED), _) => Verdict::Failed(format!("it must work: {said}")),
        (Expected::Refused | Expected::Dies, Some(exit_code::WORKED), _) => {
            Verdict::Failed("it works, and must not".to_owned())
        }
        (Expected::Dies, Some(exit_code::REFUSED), _) => {
            Verdict::Failed(format!("it is refused ({said}), but the process lives"))
        }
        _ => Verdict::Failed(format!("the probe ended with {status}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Expected, raw: i32, passes: bool) {
        let verdict = judge(expected, ExitStatus::from_raw(raw), String::new());
        assert_eq!(matches!(verdict, Verdict::Passed(_)), passes, "{expected:?} {raw}: {verdict:?}");
    }

    #[test]
    fn only_what_is_expected_passes() {
        let (worked, refused, killed, crashed) = (0, exit_code::REFUSED << 8, SIGSYS, 11);
        for (expected, passing) in [(Expected::Works, worked), (Expected::Refused, refused), (Expected::Dies, killed)] {
            for raw in [worked, refused, killed, crashed, exit_code::BROKEN << 8, 101 << 8] {
                check(expected, raw, raw == passing);
            }
        }
        let absent = judge(Expected::Dies, ExitStatus::from_raw(exit_code::NOT_IN_FORCE << 8), "no".to_owned());
        assert_eq!(absent, Verdict::NotInForce("no".to_owned()));
    }
}
