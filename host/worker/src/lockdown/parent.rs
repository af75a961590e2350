//! Step 9: no process outlives its host, not even one that hangs or was taken over.
//!
//! The kernel forgets the request when credentials change, so it comes after the user id. Whoever asks may have lost its
//! parent just before; so the parent is looked at afterwards.

use rustix::process::{Signal, getppid, parent_process_death_signal, set_parent_process_death_signal};
use sandgate_wire::isolation::State;

use super::because;
use crate::worker::WorkerError;

pub(super) fn follow() -> State {
    match set_parent_process_death_signal(Some(Signal::KILL)).and_then(|()| parent_process_death_signal()) {
        Ok(Some(Signal::KILL)) => State::Enforced("SIGKILL when the thread that started it ends".to_owned()),
        Ok(_) => State::Missing("the kernel took the request and forgot it".to_owned()),
        Err(error) => because("the end of the parent cannot be watched", error),
    }
}

/// Takes back what every worker asks for at its start.
pub(super) fn unfollow() {
    // It was granted before, so that taking it back is as well.
    let _ = set_parent_process_death_signal(None);
}

/// Whether this is the parent.
pub(super) fn check(host: u32) -> Result<(), WorkerError> {
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    if parent == host { Ok(()) } else { Err(WorkerError::NotOurHost { parent, host }) }
}
