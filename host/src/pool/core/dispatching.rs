//! What is to be done: which lane takes which task, what is taken back, and what happens only because time passes.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::event::PoolEvent;
use super::super::lane::{Flight, Lane, State};
use super::{Action, Core, TaskId, Tasks};

impl<P, V> Core<P, V> {
    /// Puts tasks on lanes that can take them. Says whether it has learnt how many that may be.
    pub(crate) fn dispatch(&mut self, now: Instant) -> bool {
        self.see_off(now);
        let has_learnt = self.lanes.iter_mut().map(Lane::learn).fold(false, |any, one| any | one);
        self.drain_for_suspects();
        // How many runs each can take, of which it is given one in its turn.
        let mut rooms: VecDeque<(usize, usize)> = VecDeque::with_capacity(self.lanes.len());
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].is_to_be_filled(&self.rules) {
                rooms.push_back((lane, self.room(lane, now)));
            }
        }
        while let Some((lane, room)) = rooms.pop_front() {
            if room == 0 || self.is_to_be_careful(lane) && self.lanes[lane].flights.len() >= self.all_suspects() {
                continue;
            }
            let Some(id) = pop(&mut self.waiting, &self.tasks, self.any_left_waiting) else { break };
            self.fly(lane, id, now);
            rooms.push_back((lane, room - 1));
        }
        self.any_left_waiting &= !(self.waiting.is_empty() && self.suspects.is_empty());
        self.recall(now);
        has_learnt
    }

    /// Whether a lane is not to have more than can be suspects at once: it would be given, or has, what was lost with a worker
    /// and was none. Should that cost another one, all of it are, so that each task that costs workers is found soon.
    fn is_to_be_careful(&self, lane: usize) -> bool {
        if self.counts.lost_workers == 0 {
            return false;
        }
        let flights = &self.lanes[lane].flights;
        let was_lost = |id: &TaskId| self.tasks.get(*id).is_some_and(|task| task.was_behind);
        [flights.front(), flights.back()].into_iter().flatten().any(|flight| flight.was_behind)
            || self.waiting.front().is_some_and(was_lost)
    }

    /// How many more runs a lane can take of those that wait. A suspect has its first turn if it is empty.
    fn room(&mut self, lane: usize, now: Instant) -> usize {
        let it = &self.lanes[lane];
        if it.state != State::Up || it.killed || it.is_leaving {
            return 0;
        }
        if self.lanes[lane].flights.is_empty() {
            self.lanes[lane].alone = false;
            self.lanes[lane].draining = false;
            if let Some(id) = pop(&mut self.suspects, &self.tasks, self.any_left_waiting) {
                self.lanes[lane].alone = true;
                self.fly(lane, id, now);
            }
        }
        let it = &self.lanes[lane];
        if it.alone || it.draining {
            return 0;
        }
        // Behind a run that takes long nothing more is put: whichever lane is free first takes it.
        let most = if it.is_at_a_long_run(now) { self.rules.executions } else { usize::MAX };
        it.window(&self.rules).min(most).saturating_sub(it.flights.len())
    }

    fn fly(&mut self, lane: usize, task: TaskId, now: Instant) {
        let run = self.next_run;
        self.next_run += 1;
        let it = &mut self.lanes[lane];
        if it.flights.is_empty() {
            it.progress = now;
        }
        let was_behind = self.counts.lost_workers > 0 && self.tasks.get(task).is_some_and(|task| task.was_behind);
        it.flights.push_back(Flight { run, task, started: now, stop_by: None, recalled: false, was_behind });
        self.actions.push(Action::Run { lane, task, run });
        if self.events.is_some() {
            let attempt = self.tasks.get(task).map_or(1, |task| task.attempts + 1);
            self.tell(now, || PoolEvent::TaskStarted { task, gateway: lane, attempt });
        }
    }

    /// Whether a lane has nothing to do, and nothing waits that it could be given: else it would have been.
    fn any_is_idle(&self) -> bool {
        let is_idle =
            |lane: &Lane| lane.state == State::Up && lane.flights.len() < self.rules.executions && !lane.alone;
        self.lanes.iter().any(|lane| is_idle(lane) && !lane.draining && !lane.is_leaving)
    }

    /// Takes back what waits behind runs that take long, for lanes that have nothing to do. The last one first, so that they
    /// are in order again in front of those that wait.
    fn recall(&mut self, now: Instant) {
        if self.rules.sessions || !self.any_is_idle() {
            return;
        }
        for (number, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.is_at_a_long_run(now)) {
            for flight in
                lane.flights.iter_mut().skip(self.rules.executions).rev().filter(|flight| flight.can_be_recalled())
            {
                flight.recalled = true;
                self.actions.push(Action::Recall { lane: number, run: flight.run });
            }
        }
    }

    /// When a run that others wait behind will have taken long.
    pub(super) fn next_recall(&self) -> Option<Instant> {
        if self.rules.sessions || !self.any_is_idle() {
            return None;
        }
        let waits = |lane: &&Lane| lane.flights.iter().skip(self.rules.executions).any(Flight::can_be_recalled);
        self.lanes.iter().filter(|lane| lane.state == State::Up).filter(waits).map(Lane::takes_long_from).min()
    }

    /// Suspects take the next lane that is empty. If all are busy for ever, one has to become empty.
    fn drain_for_suspects(&mut self) {
        if self.suspects.is_empty() {
            return;
        }
        // A machine that is reached for the first time, or again, may take long.
        let starts_soon = |lane: &Lane| lane.state == State::Starting && lane.generation > 0 && lane.way.is_zero();
        let has_turn = |lane: &Lane| lane.alone || lane.draining || starts_soon(lane);
        if self.lanes.iter().any(|lane| has_turn(lane) && !lane.is_leaving) {
            return;
        }
        let up = self.lanes.iter_mut().filter(|lane| lane.state == State::Up && !lane.is_leaving);
        if let Some(lane) = up.min_by_key(|lane| lane.flights.len()) {
            lane.draining = true;
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        for number in 0..self.lanes.len() {
            let rules = &self.rules;
            let lane = &mut self.lanes[number];
            match lane.state {
                State::Down { until } if until <= now && self.broken.is_none() && !lane.is_leaving => {
                    lane.state = State::Starting;
                    self.actions.push(Action::Start { lane: number });
                }
                State::Up if lane.is_hung(rules, now) => {
                    // Once more later, should this not end it.
                    (lane.progress, lane.killed) = (now, true);
                    lane.innocent = lane.stops > 0;
                    lane.flights
                        .iter_mut()
                        .filter_map(|flight| flight.stop_by.as_mut())
                        .for_each(|by| *by = now + rules.grace);
                    self.actions.push(Action::KillWorker { lane: number });
                }
                State::Up => {
                    if let Some(run) = lane.stop_late_head(rules, now) {
                        lane.stop_is_under_way = true;
                        self.actions.push(Action::Stop { lane: number, run });
                    }
                }
                _ => {}
            }
        }
    }
}

/// The next that was not cancelled meanwhile.
fn pop<P>(queue: &mut VecDeque<TaskId>, tasks: &Tasks<P>, any_ended: bool) -> Option<TaskId> {
    std::iter::from_fn(|| queue.pop_front()).find(|id| !any_ended || tasks.contains(*id))
}
