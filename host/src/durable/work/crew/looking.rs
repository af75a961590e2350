//! When a worker that waits for tasks looks whether their consumer does what it is there for. What it makes of what it sees is in
//! [`reviving`].

use std::time::Duration;

use tokio::time::Instant;

use super::{Crew, Sent};
use crate::durable::reviving;

/// How long a worker that waits leaves the consumer alone: at first, with a new connection, and at most.
const FIRST: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(20);

/// When a worker is to look, and what it made of it.
#[derive(Debug)]
pub(super) struct Looks {
    pause: Duration,
    due: Option<Instant>,
    generation: u64,
    is_looking: bool,
}

impl Looks {
    pub(super) fn new() -> Looks {
        Looks { pause: FIRST, due: None, generation: 0, is_looking: false }
    }

    /// How long until a look is due for a worker that waits for tasks over the connection of this generation, or not.
    fn due(&mut self, waits: bool, generation: u64) -> Option<Duration> {
        if self.generation != generation {
            (self.generation, self.pause, self.due) = (generation, FIRST, None);
        }
        let now = Instant::now();
        let due = *self.due.get_or_insert(now + self.pause);
        // One that is given a task now and then may wait for most of the time all the same.
        (waits && !self.is_looking).then(|| due.saturating_duration_since(now))
    }

    fn began(&mut self) {
        self.is_looking = true;
    }

    /// Seldom, as long as all is well.
    pub(super) fn ended(&mut self, is_renewed: bool) {
        self.pause = if is_renewed { MOST } else { (self.pause * 2).min(MOST) };
        (self.due, self.is_looking) = (None, false);
    }
}

impl Crew {
    /// Looks whether the consumer does what it is there for, when that is due: until then, if it ever is.
    pub(super) fn look(&mut self) -> Duration {
        let (waits, generation) = {
            let standing = self.nats.standing.borrow();
            (self.is_ready && standing.is_up && self.requested > 0, standing.generation)
        };
        let due = self.looks.due(waits, generation).unwrap_or(Duration::MAX);
        if due.is_zero() {
            self.looks.began();
            let nats = self.nats.clone();
            self.asking.push(Box::pin(async move { Sent::Looked { is_renewed: reviving::look(nats).await } }));
            return Duration::MAX;
        }
        due
    }
}
