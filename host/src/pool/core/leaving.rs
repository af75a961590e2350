//! Lanes that leave the pool: what runs on them comes to its end, what waits there is taken back, and then they are gone.
//!
//! ```text
//!  starting, up with runs, closing ── leave ──► the same, leaving ── empty, lost or failed ──► gone
//!  up without runs, down ────────────────────── leave ───────────────────────────────────────► gone
//! ```

use std::time::Instant;

use super::super::event::PoolEvent;
use super::super::lane::State;
use super::{Action, Core};

impl<P, V> Core<P, V> {
    /// A lane gets nothing more. It is gone once what runs on it has ended.
    pub(crate) fn leave(&mut self, lane: usize) {
        let it = &mut self.lanes[lane];
        if std::mem::replace(&mut it.is_leaving, true) || it.state != State::Up || self.rules.sessions {
            return;
        }
        // What was put on it, and has not begun, runs elsewhere. The last one first, as in `recall`.
        for flight in it.flights.iter_mut().skip(self.rules.executions).rev().filter(|it| it.can_be_recalled()) {
            flight.recalled = true;
            self.actions.push(Action::Recall { lane, run: flight.run });
        }
    }

    pub(crate) fn is_leaving(&self, lane: usize) -> bool {
        self.lanes[lane].is_leaving
    }

    /// Ends the lanes that are to leave and have nothing to do any more.
    pub(super) fn see_off(&mut self, now: Instant) {
        for lane in 0..self.lanes.len() {
            let it = &self.lanes[lane];
            let is_free = it.flights.is_empty() && matches!(it.state, State::Up | State::Down { .. });
            if it.is_leaving && is_free {
                self.has_left(lane, now);
            }
        }
    }

    pub(super) fn has_left(&mut self, lane: usize, now: Instant) {
        self.lanes[lane].state = State::Gone;
        self.actions.push(Action::End { lane });
        self.tell(now, || PoolEvent::GatewayLeft { gateway: lane });
    }
}
