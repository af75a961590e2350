//! The observer of a run, for the two threads that tell it what it cannot see in the pool's events. The thread of the inputs
//! may still be there when it ends.

use std::sync::{PoisonError, RwLock};

use anyhow::Result;
use sandgate::{PoolStats, TaskResult};

use super::ledger::Meta;
use crate::print;
use crate::see::Observer;

/// An observer, until it is told that all is over.
#[derive(Debug)]
pub(super) struct Watching(RwLock<Option<Observer>>);

impl Watching {
    pub(super) fn new(observer: Observer) -> Watching {
        Watching(RwLock::new(Some(observer)))
    }

    fn with(&self, tell: impl FnOnce(&Observer)) {
        if let Some(observer) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            tell(observer);
        }
    }

    /// The pool is given this input next.
    pub(super) fn input(&self, meta: &Meta) {
        self.with(|observer| observer.input(meta.index, || meta.plain_name()));
    }

    /// A result has come.
    pub(super) fn result<T>(&self, meta: &Meta, result: &TaskResult<T>) {
        self.with(|observer| observer.result(|| meta.plain_name(), result));
    }

    /// The pool was not given this input, for it is nothing that the task takes.
    pub(super) fn rejected(&self, meta: &Meta, error: &str) {
        self.with(|observer| observer.rejected(&meta.plain_name(), meta.index, error));
    }

    /// Says what went wrong, beside whatever is shown.
    pub(super) fn complain(&self, message: &str) {
        self.with(|observer| observer.suspend(|| print::complain(message)));
    }

    /// The last result was written.
    pub(super) fn finish(&self, stats: &PoolStats) -> Result<()> {
        match self.0.write().unwrap_or_else(PoisonError::into_inner).take() {
            Some(observer) => observer.finish(stats),
            None => Ok(()),
        }
    }
}
