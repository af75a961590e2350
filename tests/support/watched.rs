//! A process that is not this one's child, or not this one's to reap: watched through a descriptor, which names it whatever
//! becomes of its id.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process under observation.
#[derive(Debug)]
pub struct Watched {
    pid: u32,
    pidfd: OwnedFd,
}

impl Watched {
    /// Starts to watch the process `pid`, which must be there.
    ///
    /// # Panics
    ///
    /// When there is no such process.
    #[track_caller]
    pub fn new(pid: u32) -> Watched {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => Watched { pid, pidfd },
            Err(error) => panic!("process {pid} cannot be watched: {error}"),
        }
    }

    /// Starts to watch the process `pid`, if it is there.
    pub fn find(pid: u32) -> Option<Watched> {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        pidfd_open(id, PidfdFlags::empty()).ok().map(|pidfd| Watched { pid, pidfd })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal. That it is gone already is no failure.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        self.is_gone_by(Instant::now())
    }

    /// Waits for its end until `deadline`; whether it has come.
    ///
    /// # Panics
    ///
    /// When the system cannot wait for it.
    pub fn is_gone_by(&self, deadline: Instant) -> bool {
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).expect("a short time");
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("process {} cannot be waited for: {error}", self.pid),
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not come within `limit`.
    #[track_caller]
    pub fn wait(&self, limit: Duration) {
        assert!(self.is_gone_by(Instant::now() + limit), "waited {limit:?} in vain: the end of process {}", self.pid);
    }

    /// What the link `name` in its directory of `/proc` refers to.
    ///
    /// # Panics
    ///
    /// When there is no such link, or it may not be read.
    #[track_caller]
    pub fn link(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid);
        match fs::read_link(&path) {
            Ok(target) => target.display().to_string(),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Its nice value.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn nice(&self) -> i32 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("a process that is there");
        // The name, which may hold anything, ends at the last parenthesis. Nice is the 19th field, the state the third.
        let (_, fields) = stat.rsplit_once(") ").expect("a line of stat");
        fields.split(' ').nth(16).and_then(|nice| nice.parse().ok()).expect("a number")
    }
}
