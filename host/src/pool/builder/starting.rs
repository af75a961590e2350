//! The start of a pool's gateways, all at once, and who may be missing.

use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::pool::PoolError;
use crate::pool::driver::{Driver, Note};
use crate::pool::event::PoolEvent;
use crate::pool::mailbox::Receiver;

/// When a pool begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With all gateways, but for those whose machines were not reached.
    WithAll,
    /// As soon as one is there; the others join.
    WithFirst,
}

impl Begin {
    /// Whether there is to be no pool because of this.
    fn ends_with(self, error: &PoolError) -> bool {
        match self {
            Begin::WithAll => !error.is_unreached(),
            // No machine takes it.
            Begin::WithFirst => matches!(error, PoolError::Module(_)),
        }
    }
}

impl Driver {
    /// Starts all gateways and waits for as many as are to be there; ends all of them if that cannot be.
    pub(super) fn start_all(&mut self, notes: &Receiver<Note>, begin: Begin) -> Result<(), PoolError> {
        if let Some(events) = &mut self.core.events {
            events.push((self.epoch, PoolEvent::PoolStarted { gateways: self.lanes }));
        }
        let lanes = self.lanes;
        self.tell_starting(0..lanes, self.epoch);
        (0..lanes).for_each(|lane| self.ground.start(lane));
        let (mut asked, mut errors, mut fatal) = (lanes, Vec::new(), None);
        while asked > 0 && !(begin == Begin::WithFirst && asked + errors.len() < lanes && fatal.is_none()) {
            match notes.recv() {
                Ok(Note::Started { lane, result: Err(error) }) => {
                    asked -= 1;
                    if fatal.is_none() && begin.ends_with(&error) {
                        fatal = Some(error);
                        self.ground.give_up();
                    } else {
                        errors.push((lane, error));
                    }
                }
                Ok(note) => {
                    asked -= usize::from(matches!(note, Note::Started { .. }));
                    self.take(note, Instant::now());
                }
                Err(_) => break,
            }
        }
        if fatal.is_none() && errors.len() == lanes {
            errors.sort_by_key(|(lane, _)| std::cmp::Reverse(*lane));
            fatal = errors.pop().map(|(_, error)| error);
        }
        if let Some(error) = fatal {
            self.ground.end(Deadline::after(Duration::ZERO));
            return Err(error);
        }
        for (lane, error) in errors {
            self.take(Note::Started { lane, result: Err(error) }, Instant::now());
        }
        Ok(())
    }
}
