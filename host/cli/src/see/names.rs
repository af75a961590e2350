//! Names of the inputs that are under way, from the moment they are pulled until their task has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::text;

/// Names that are kept at most: more tasks than a pool ever has under way.
const MOST: usize = 200_000;
/// Characters of a name that are kept.
const MOST_CHARACTERS: usize = 200;

/// Shared by whoever pulls the inputs and the observer's thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Lock<HashMap<u64, Arc<str>>>>);

impl Names {
    pub(super) fn put(&self, task: u64, name: &str) {
        let name = Arc::from(text::one_line(name, MOST_CHARACTERS));
        let mut names = self.0.lock();
        if names.len() >= MOST {
            // Events were lost, and with them the ends of these tasks.
            names.clear();
        }
        names.insert(task, name);
    }

    pub(super) fn get(&self, task: u64) -> Option<Arc<str>> {
        self.0.lock().get(&task).cloned()
    }

    pub(super) fn take(&self, task: u64) -> Option<Arc<str>> {
        self.0.lock().remove(&task)
    }
}

/// The standard library's lock; that a thread panicked while it held it is of no interest here.
#[derive(Debug, Default)]
pub(super) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(super) fn new(value: T) -> Lock<T> {
        Lock(Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
