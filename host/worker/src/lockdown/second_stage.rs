//! Step 13, for a worker that takes one module: once that is loaded no memory becomes executable any more, and no thread
//! is started.
//!
//! What it may need later is there before: the writer, the executors and the clock. A second module is refused before
//! the filter would have to.

use parking_lot::Mutex;
use sandgate_wire::outcome::Rejection;

use super::calls::{NO_MORE_THREADS, SECOND_STAGE};
use super::seccomp;

/// Whether modules can be loaded, and what follows the first.
#[derive(Debug)]
pub(crate) struct SecondStage {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As many modules as the host sends.
    Many,
    /// One, after which the filter is put up if there is a first one.
    One { filter: bool, last_thread: bool },
    /// It is loaded.
    Loaded,
}

impl SecondStage {
    /// For a worker that takes any number of modules.
    pub(crate) fn never() -> SecondStage {
        SecondStage { state: Mutex::new(State::Many) }
    }

    /// For a worker that takes one module; whether it has all threads by then that it will ever have.
    pub(crate) fn after_one_module(last_thread: bool) -> SecondStage {
        SecondStage { state: Mutex::new(State::One { filter: false, last_thread }) }
    }

    /// The first stage is in force, so that this one is to be.
    pub(crate) fn arm(&self) {
        if let State::One { filter, .. } = &mut *self.state.lock() {
            *filter = true;
        }
    }

    /// Loads a module, and puts the filter up if it was the only one.
    ///
    /// # Errors
    /// Those of `load`; and that it is not the first.
    pub(crate) fn load<T>(&self, load: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
        let mut state = self.state.lock();
        match *state {
            State::Many => {
                drop(state);
                load()
            }
            State::Loaded => Err(Rejection::Instantiation {
                message: "worker takes one module and has another already (setting `modules=`)".to_owned(),
            }),
            State::One { filter, last_thread } => {
                let loaded = load()?;
                *state = State::Loaded;
                if filter {
                    forbid(last_thread);
                }
                Ok(loaded)
            }
        }
    }

    /// As if the only module had been loaded.
    pub(crate) fn enter(&self) {
        if matches!(*self.state.lock(), State::One { .. }) {
            let _ = self.load(|| Ok(()));
        }
    }
}

/// The kernel has taken the first filter, so it takes this one. If not, no guest runs.
fn forbid(last_thread: bool) {
    let threads = if last_thread { NO_MORE_THREADS } else { &[] };
    let put_up = seccomp::forbidding(SECOND_STAGE.iter().chain(threads)).and_then(|filter| seccomp::apply(&filter));
    if let Err(error) = put_up {
        crate::process::abort(&format!("the second stage of the lock-down failed: {error}"));
    }
}
