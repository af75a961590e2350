//! The start of a pool's gateways, all at once, and who may be missing.

use std::time::{Duration, Instant};

use super::machines::Absent;
use crate::deadline::Deadline;
use crate::pool::PoolError;
use crate::pool::driver::{Driver, Note};
use crate::pool::event::PoolEvent;
use crate::pool::mailbox::Receiver;

impl Driver {
    /// Starts all gateways and waits for them; ends those that are there if one is not, unless its machine was not reached and
    /// another one was.
    pub(super) fn start_all(&mut self, notes: &Receiver<Note>, absent: &[Absent]) -> Result<(), PoolError> {
        if let Some(events) = &mut self.core.events {
            events.push((self.epoch, PoolEvent::PoolStarted { gateways: self.lanes }));
        }
        let is_absent = |lane: &usize| absent.iter().any(|absent| absent.lane == *lane);
        let lanes: Vec<usize> = (0..self.lanes).filter(|lane| !is_absent(lane)).collect();
        lanes.iter().for_each(|lane| self.ground.start(*lane));
        let mut failed = None;
        let mut unreached: Vec<_> = absent.iter().map(|absent| (absent.lane, absent.error())).collect();
        for _ in lanes {
            match notes.recv() {
                Ok(Note::Started { lane, result: Err(error) }) if error.is_unreached() => unreached.push((lane, error)),
                Ok(Note::Started { result: Err(error), .. }) => failed = failed.or(Some(error)),
                Ok(note) => self.take(note, Instant::now()),
                Err(_) => break,
            }
        }
        if failed.is_none() && unreached.len() == self.lanes {
            failed = unreached.pop().map(|(_, error)| error);
        }
        if let Some(error) = failed {
            self.ground.end(Deadline::after(Duration::ZERO));
            return Err(error);
        }
        for (lane, error) in unreached {
            self.take(Note::Started { lane, result: Err(error) }, Instant::now());
        }
        Ok(())
    }
}
