//! Ends what a question has started if it takes too long, so that no row can stop the run.
//!
//! Nothing in the measured code is changed for it. Every wait here is for a process that this program has started: a worker,
//! or a peer. When they are killed, every such wait ends with an error, and the row is reported as not measured.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

/// Does `body`, and kills this process's children if that takes longer than `limit`.
pub(crate) fn guard<T>(limit: Duration, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (done, waits) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watch = std::thread::Builder::new().name("watchdog".to_owned()).spawn_scoped(scope, move || {
            // Again and again: what is stuck may start more.
            let mut late = false;
            while waits.recv_timeout(if late { Duration::from_secs(1) } else { limit })
                == Err(mpsc::RecvTimeoutError::Timeout)
            {
                late = true;
                for child in children() {
                    // One that has ended meanwhile is no matter.
                    let _ = kill_process(child, Signal::KILL);
                }
            }
            late
        })?;
        let result = body();
        drop(done);
        let late = watch.join().map_err(|_| anyhow!("the watchdog panicked"))?;
        if late { result.with_context(|| format!("ended after {limit:?}")) } else { result }
    })
}

/// The processes whose parent this one is.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_ours = |id: &i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in brackets, may hold anything.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1) == Some(&own)
    };
    ids.filter(of_ours).filter_map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_ended() {
        let forever = || crate::peer::run("sleep".as_ref(), &["600"]);
        let status = guard(Duration::from_millis(50), || Ok(forever()?.status)).unwrap();
        assert!(!status.success());
        assert_eq!(guard(Duration::from_secs(60), || Ok(7)).unwrap(), 7);
    }
}
