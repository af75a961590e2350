//! Step 1: no descriptor but ours, and no environment.
//!
//! The host opens everything close-on-exec, but it is a library in somebody's program, and that program's other parts may
//! not. First of all steps, so that whatever else was inherited is gone before anything could use it.

use std::os::fd::RawFd;

use sandgate_wire::isolation::State;

use super::because;
use super::sys::{self, LAST_DESCRIPTOR};

/// Closes all but 0, 1, 2 and these.
pub(super) fn close_others(keep: &[RawFd]) -> State {
    let mut keep: Vec<u32> = keep.iter().copied().filter_map(sys::number).filter(|number| *number > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for number in keep.iter().copied().chain([LAST_DESCRIPTOR]) {
        let last = if number == LAST_DESCRIPTOR { LAST_DESCRIPTOR } else { number - 1 };
        if first <= last
            && let Err(error) = sys::close_range(first, last)
        {
            return because("inherited descriptors cannot be closed", error);
        }
        first = number.saturating_add(1);
    }
    let variables = std::env::vars_os().count();
    if variables > 0 {
        return State::Partial(format!("{variables} variables of the environment are left; the host is to clear it"));
    }
    State::Enforced(format!(
        "the connection, `/dev/null`, last words and {} more; no environment",
        keep.len().saturating_sub(1)
    ))
}
