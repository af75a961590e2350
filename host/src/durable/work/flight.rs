//! What a worker has: tasks by job and index, and how many of them are enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream;

use crate::durable::message::Input;
use crate::durable::name::JobId;

/// What keeps gateways busy: so much work for each.
const WORK_AHEAD: Duration = Duration::from_millis(100);
/// Tasks for each gateway, whatever they take.
const LEAST_EACH: usize = 2;
/// Most tasks for each gateway, unless settings say otherwise.
const MOST_EACH: usize = 64;
/// How much the newest run time counts.
const NEWEST: f64 = 0.1;

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
    pub(super) message: jetstream::Message,
    /// What it takes, until the pool has it.
    pub(super) input: Option<Input>,
    /// What messages call it.
    pub(super) name: Option<String>,
    /// When the server last heard of it.
    pub(super) heard: Instant,
    /// Whether its result is being stored.
    pub(super) is_done: bool,
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

    /// A delivery. One of a task that is here already is its newer delivery, and nothing runs twice; `false` then.
    pub(super) fn arrived(&mut self, key: Key, entry: Entry) -> bool {
        if let Some(known) = self.entries.get_mut(&key) {
            known.message = entry.message;
            known.heard = entry.heard;
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
    pub(super) fn unheard(&mut self, since: Duration) -> Vec<jetstream::Message> {
        let now = Instant::now();
        let late = self.entries.values_mut().filter(|entry| now.duration_since(entry.heard) >= since);
        let tell = late.map(|entry| {
            entry.heard = now;
            entry.message.clone()
        });
        tell.collect()
    }

    /// Tasks that no pool has.
    pub(super) fn waiting(&self) -> Vec<Key> {
        let waiting = self.entries.iter().filter(|(_, entry)| entry.input.is_some() && !entry.is_done);
        waiting.map(|(key, _)| key.clone()).collect()
    }

    /// Tasks whose result is not being stored.
    pub(super) fn undone(&self) -> Vec<Key> {
        self.entries.iter().filter(|(_, entry)| !entry.is_done).map(|(key, _)| key.clone()).collect()
    }
}

/// How many tasks are enough, by what they have taken so far.
#[derive(Debug)]
pub(super) struct Capacity {
    lanes: usize,
    most: Option<usize>,
    mean: Option<f64>,
}

impl Capacity {
    pub(super) fn new(lanes: usize, most: Option<usize>) -> Capacity {
        Capacity { lanes, most, mean: None }
    }

    /// A pool has so many gateways; with one that waits for a machine, a task is there when that comes.
    pub(super) fn lanes(&mut self, lanes: usize) {
        self.lanes = lanes.max(1);
    }

    /// A task has taken so long.
    pub(super) fn took(&mut self, time: Duration) {
        let time = time.as_secs_f64();
        self.mean = Some(self.mean.map_or(time, |mean| mean + (time - mean) * NEWEST));
    }

    pub(super) fn tasks(&self) -> usize {
        let each = match self.mean {
            None => LEAST_EACH,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float becomes the nearest number"
            )]
            Some(mean) => ((WORK_AHEAD.as_secs_f64() / mean.max(1e-9)) as usize).clamp(LEAST_EACH, MOST_EACH),
        };
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
