//! Step 3: when memory runs out this process ends before the host or anybody else.
//!
//! Needs `/proc`, which the namespaces take away, and a dumpable process, whose `/proc` files belong to it. Raising the
//! score needs no right.

use sandgate_wire::isolation::State;

use super::because;

pub(super) fn be_the_first_victim() -> State {
    match std::fs::write("/proc/self/oom_score_adj", "1000") {
        Ok(()) => State::Enforced("1000".to_owned()),
        Err(error) => because("`/proc/self/oom_score_adj` cannot be written", error),
    }
}
