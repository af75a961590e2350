//! What is under way, between the feeder that adds it and the collector that takes it away: who it is, and how much there
//! may be of it.
//!
//! The bounds are on inputs that were added and not written out: what waits for a slow one before it counts, so that a run
//! needs the same memory however long it is. Inputs that keep the gateways busy are let in however large they are.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sandgate::text::printable;

use super::journal::Record;

/// Most inputs that are under way.
const MAX_INPUTS: usize = 4096;
/// Bytes of inputs and results under way after which only what keeps the gateways busy is let in.
const MAX_BYTES: usize = 64 << 20;

/// What is known of an input that is under way.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) index: u64,
    pub(crate) path: Option<PathBuf>,
    /// By which the journal knows it; zeros without one.
    pub(crate) digest: [u8; 16],
    pub(crate) bytes: usize,
    pub(crate) fate: Fate,
}

/// What is to become of an input.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The pool runs it.
    Runs,
    /// The journal has its result.
    Known(Record),
    /// It is nothing that the task takes. Worth a record if that is for ever.
    Bad { error: String, for_ever: bool },
}

impl Meta {
    /// Of an input of a queue.
    pub(crate) fn queued(index: u64, name: Option<&str>) -> Meta {
        Meta { index, path: name.map(PathBuf::from), digest: [0; 16], bytes: 0, fate: Fate::Runs }
    }

    /// What is wrong with it, if it is nothing that the task takes.
    pub(crate) fn problem(&self) -> &str {
        match &self.fate {
            Fate::Bad { error, .. } => error,
            Fate::Runs | Fate::Known(_) => "",
        }
    }

    /// How messages name it: on one line, whatever a file is called.
    pub(crate) fn name(&self) -> String {
        match &self.path {
            Some(path) => format!("`{}`", printable(&path.display().to_string()).replace('\n', "\\n")),
            None => self.plain_name(),
        }
    }

    /// Its name alone.
    pub(crate) fn plain_name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("input {}", self.index),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lanes: usize,
    metas: HashMap<u64, Meta>,
    /// Inputs that were added.
    added: u64,
    /// Those of them that were not written out, and what they and their results take.
    inputs: usize,
    bytes: usize,
    /// Nothing more is let in.
    closed: bool,
    /// Why there is no more input.
    trouble: Option<anyhow::Error>,
}

impl Ledger {
    pub(crate) fn new(lanes: usize) -> Ledger {
        Ledger { state: Mutex::new(State { lanes, ..State::default() }), changed: Condvar::new() }
    }

    /// There are so many gateways now.
    pub(crate) fn lanes_are(&self, lanes: usize) {
        self.state().lanes = lanes;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room_for_one(state: &State) -> bool {
        state.inputs < MAX_INPUTS && (state.bytes < MAX_BYTES || state.metas.len() < 2 * state.lanes)
    }

    pub(crate) fn has_room(&self) -> bool {
        let state = self.state();
        state.closed || Self::has_room_for_one(&state)
    }

    /// Waits for room for one more; `false` if no more is let in.
    pub(crate) fn wait_for_room(&self) -> bool {
        let mut state = self.state();
        while !state.closed && !Self::has_room_for_one(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Adds an input; `false` if no more is let in. Who adds one gives it to the pool next, whatever happens.
    pub(crate) fn add(&self, meta: Meta) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        state.added += 1;
        state.inputs += 1;
        state.bytes += meta.bytes;
        state.metas.insert(meta.index, meta);
        true
    }

    /// There is no more input, and this is why.
    pub(crate) fn fail(&self, error: anyhow::Error) {
        self.state().trouble = Some(error);
    }

    pub(crate) fn trouble(&self) -> Option<anyhow::Error> {
        self.state().trouble.take()
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// How many were added, if no more will be.
    pub(crate) fn last(&self) -> Option<u64> {
        let state = self.state();
        state.closed.then_some(state.added)
    }

    /// An input has its result, which takes these bytes from now on.
    pub(crate) fn take(&self, index: u64) -> Option<Meta> {
        let mut state = self.state();
        let meta = state.metas.remove(&index)?;
        state.bytes -= meta.bytes;
        drop(state);
        self.changed.notify_all();
        Some(meta)
    }

    /// A result waits for its turn, and takes these bytes.
    pub(crate) fn holds(&self, bytes: usize) {
        self.state().bytes += bytes;
    }

    /// A result that took these bytes was written out.
    pub(crate) fn written(&self, bytes: usize) {
        let mut state = self.state();
        state.inputs -= 1;
        state.bytes -= bytes;
        let wake = Self::has_room_for_one(&state);
        drop(state);
        if wake {
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(index: u64, bytes: usize) -> Meta {
        Meta { index, path: None, digest: [0; 16], bytes, fate: Fate::Runs }
    }

    #[test]
    fn large_inputs_are_let_in_as_the_gateways_need_them() {
        let ledger = Ledger::new(2);
        for index in 0..4 {
            assert!(ledger.has_room(), "{index}");
            assert!(ledger.add(meta(index, MAX_BYTES)));
        }
        assert!(!ledger.has_room());
        assert_eq!(ledger.take(0).map(|meta| meta.index), Some(0));
        ledger.holds(MAX_BYTES);
        assert!(ledger.has_room(), "a result that waits for its turn keeps no gateway busy");
        assert!(ledger.add(meta(4, 1)));
        assert!(!ledger.has_room());
        ledger.lanes_are(3);
        assert!(ledger.has_room(), "one more gateway to be kept busy");
        ledger.written(MAX_BYTES);
        ledger.close();
        assert!(!ledger.add(meta(5, 0)) && !ledger.wait_for_room());
        assert_eq!(ledger.last(), Some(5));
    }

    #[test]
    fn there_is_a_bound_on_small_ones() {
        let ledger = Ledger::new(2);
        (0..MAX_INPUTS as u64).for_each(|index| assert!(ledger.add(meta(index, 0))));
        assert!(!ledger.has_room());
        assert!(ledger.take(7).is_some());
        assert!(!ledger.has_room(), "it is not written out yet");
        ledger.written(0);
        assert!(ledger.has_room());
    }
}
