//! Attempts to reach a machine that are under way, so that somebody else can end them: each waits for a launcher, and ends
//! when that does.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::running::Running;

/// The launchers that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    launchers: Vec<Weak<Running>>,
    /// There are to be no more.
    is_over: bool,
}

/// An attempt that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    attempts: &'a Attempts,
    launcher: Weak<Running>,
}

impl Attempts {
    /// An attempt with this launcher begins; it ends at once if there are to be no more.
    pub(super) fn begin(&self, launcher: &Arc<Running>) -> Attempt<'_> {
        let mut state = self.state.lock();
        if state.is_over {
            launcher.kill();
        }
        state.launchers.push(Arc::downgrade(launcher));
        Attempt { attempts: self, launcher: Arc::downgrade(launcher) }
    }

    /// Ends those that are under way. Never blocks.
    pub(super) fn end(&self) {
        let launchers = self.state.lock().launchers.clone();
        launchers.iter().filter_map(Weak::upgrade).for_each(|launcher| launcher.kill());
    }

    /// The same, and there are to be no more.
    pub(super) fn end_for_good(&self) {
        self.state.lock().is_over = true;
        self.end();
    }

    pub(super) fn are_over(&self) -> bool {
        self.state.lock().is_over
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.attempts.state.lock();
        state.launchers.retain(|other| !other.ptr_eq(&self.launcher));
    }
}
