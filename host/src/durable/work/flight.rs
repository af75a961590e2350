//! What a worker has: tasks by job and index, and how many of them are enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;

use super::shares::Mean;
use crate::durable::message::Input;
use crate::durable::name::JobId;

/// What keeps gateways busy: so much work for each.
const WORK_AHEAD: Duration = Duration::from_millis(100);
/// Tasks for each gateway, whatever they take.
const LEAST_EACH: usize = 2;
/// Most tasks for each gateway, unless settings say otherwise.
const MOST_EACH: usize = 64;

/// A task by its job, which of the jobs of this id that is, and its index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) job: JobId,
    pub(super) run: u64,
    pub(super) index: u64,
}

/// A task that this worker has.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its last delivery: what acknowledges it.
    pub(super) message: Arc<jetstream::Message>,
    pub(super) stage: Stage,
    /// What messages call it.
    pub(super) name: Option<String>,
    /// When the server last heard of it.
    pub(super) heard: Instant,
}

/// How far a task has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No pool has it.
    Waiting(Input),
    /// A pool has it.
    Running,
    /// Its result is being stored.
    Storing,
    /// It is to be given back.
    Leaving,
    /// It is being given back.
    Left,
}

impl Entry {
    /// What it takes, once, for the pool that has it from now on.
    pub(super) fn take_input(&mut self) -> Option<Input> {
        if !matches!(self.stage, Stage::Waiting(_)) {
            return None;
        }
        match std::mem::replace(&mut self.stage, Stage::Running) {
            Stage::Waiting(input) => Some(input),
            _ => None,
        }
    }
}

/// All tasks that this worker has.
#[derive(Debug, Default)]
pub(super) struct Flight {
    entries: HashMap<Key, Entry>,
}

impl Flight {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A delivery. One of a task that is here already is its newer delivery, and nothing runs twice; `false` then. If the one
    /// before is being given back, so is this one.
    pub(super) fn arrived(&mut self, key: Key, entry: Entry) -> bool {
        if let Some(known) = self.entries.get_mut(&key) {
            known.message = entry.message;
            known.heard = entry.heard;
            if known.stage == Stage::Left {
                known.stage = Stage::Leaving;
            }
            return false;
        }
        self.entries.insert(key, entry);
        true
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// Tasks of which the server has not heard for this long; it is about to.
    pub(super) fn unheard(&mut self, since: Duration) -> Vec<Arc<jetstream::Message>> {
        let now = Instant::now();
        let late = self.entries.values_mut().filter(|entry| now.duration_since(entry.heard) >= since);
        let tell = late.map(|entry| {
            entry.heard = now;
            Arc::clone(&entry.message)
        });
        tell.collect()
    }

    /// Tasks that no pool has: they are to be given back, and are being given back from now on.
    pub(super) fn leave(&mut self) -> Vec<(Key, Arc<jetstream::Message>)> {
        let leaving = |entry: &Entry| matches!(entry.stage, Stage::Waiting(_) | Stage::Leaving);
        let leave = self.entries.iter_mut().filter(|(_, entry)| leaving(entry)).map(|(key, entry)| {
            entry.stage = Stage::Left;
            (key.clone(), Arc::clone(&entry.message))
        });
        leave.collect()
    }

    /// A delivery was given back, or could not be: that is tried again. Whether the task is nothing of ours any more, which it is
    /// while there is a newer delivery of it.
    pub(super) fn was_left(&mut self, key: &Key, message: &Arc<jetstream::Message>, confirmed: bool) -> bool {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| Arc::ptr_eq(&entry.message, message)) else {
            return false;
        };
        if !confirmed {
            entry.stage = Stage::Leaving;
            return false;
        }
        self.entries.remove(key).is_some()
    }
}

/// How many tasks are enough, by what they have taken so far.
#[derive(Debug)]
pub(super) struct Capacity {
    lanes: usize,
    most: Option<usize>,
    mean: Mean,
}

impl Capacity {
    pub(super) fn new(lanes: usize, most: Option<usize>) -> Capacity {
        Capacity { lanes, most, mean: Mean::default() }
    }

    /// A pool has so many gateways; with one that waits for a machine, a task is there when that comes.
    pub(super) fn lanes(&mut self, lanes: usize) {
        self.lanes = lanes.max(1);
    }

    /// A task has taken so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.mean.took(time);
    }

    pub(super) fn tasks(&self) -> usize {
        let each = self.mean.fit(WORK_AHEAD).map_or(LEAST_EACH, |tasks| tasks.clamp(LEAST_EACH, MOST_EACH));
        (each * self.lanes).min(self.most.unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tasks_are_many_and_long_ones_few() {
        let check = |time: Duration, most: Option<usize>, expected: usize| {
            let mut capacity = Capacity::new(4, most);
            assert_eq!(capacity.tasks(), 8.min(most.unwrap_or(8)));
            (0..100).for_each(|_| capacity.took(time));
            assert_eq!(capacity.tasks(), expected, "{time:?}");
        };
        check(Duration::ZERO, None, 256);
        check(Duration::from_millis(10), None, 40);
        check(Duration::from_secs(60), None, 8);
        check(Duration::from_secs(60), Some(3), 3);
    }
}
