//! The decisions of a pool under schedules at random: whatever happens in whatever order, each task is in one place until it
//! has its one result.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::pool_core::{SECOND, Table, loss, no_gateway, rules, unreached};
use crate::Outcome;
use crate::pool::{Action, RetryOn, Rules, TaskError, Verdict};

/// What happens next to a pool.
#[derive(Debug, Clone)]
enum Step {
    Submit(u8),
    /// A run of a lane ends well, or fails.
    End(u8, u8, bool),
    /// A run's news comes again.
    Late(u8),
    Lose(u8),
    /// A gateway refuses a run and is found to be gone.
    Refuse(u8, u8),
    /// A lane's gateway is there, so many milliseconds away; or it is not.
    Start(u8, u8, bool),
    /// The way to a gateway takes that long now.
    Way(u8, u8),
    /// A machine has turned up that has more cores than one, or joins.
    Grow,
    /// A machine is taken away.
    Leave(u8),
    Cancel(u8),
    /// A worker says of a run that was asked for whether it had begun.
    Answer(u8),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..8_u8).prop_map(Step::Submit),
        14 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(lane, run, well)| Step::End(lane, run, well)),
        2 => any::<u8>().prop_map(Step::Late),
        3 => any::<u8>().prop_map(Step::Lose),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(lane, run)| Step::Refuse(lane, run)),
        6 => (any::<u8>(), away(), prop::bool::weighted(0.8)).prop_map(|(lane, way, well)| Step::Start(lane, way, well)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(lane, way)| Step::Way(lane, way)),
        1 => Just(Step::Grow),
        1 => any::<u8>().prop_map(Step::Leave),
        1 => any::<u8>().prop_map(Step::Cancel),
        6 => any::<u8>().prop_map(Step::Answer),
        3 => prop_oneof![0..10_u16, 0..2000_u16].prop_map(Step::Pass),
    ]
}

/// Most gateways are here, some elsewhere.
fn away() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(0), 1 => 1..200_u8]
}

/// Lanes that a pool has at most.
const MOST_LANES: usize = 6;

/// The world around a core: which runs fly, and which lanes are being started.
struct World {
    table: Table,
    flying: Vec<Vec<u64>>,
    past: Vec<(usize, u64)>,
    starting: Vec<bool>,
    /// Lanes that are gone.
    gone: Vec<usize>,
    /// Runs that were asked for, and have not been answered.
    recalled: Vec<(usize, u64)>,
    moved: u64,
    submitted: u64,
    results: BTreeMap<u64, u32>,
}

impl World {
    fn new(table: Table, lanes: usize) -> World {
        World {
            table,
            flying: vec![Vec::new(); lanes],
            past: Vec::new(),
            starting: vec![false; lanes],
            gone: Vec::new(),
            recalled: Vec::new(),
            moved: 0,
            submitted: 0,
            results: BTreeMap::new(),
        }
    }

    fn settle(&mut self) {
        for action in self.table.actions() {
            match action {
                Action::Run { lane, run, .. } => {
                    assert!(!self.table.core.is_leaving(lane), "what leaves gets nothing more");
                    self.flying[lane].push(run);
                }
                Action::End { lane } => {
                    assert!(self.flying[lane].is_empty() && !self.starting[lane], "it has nothing to do any more");
                    assert!(self.table.core.is_leaving(lane) && !self.gone.contains(&lane), "it leaves, and once");
                    self.gone.push(lane);
                }
                Action::Start { lane } => {
                    assert!(!self.gone.contains(&lane), "what is gone does not come back");
                    assert!(!self.starting[lane], "a lane is started once");
                    assert!(self.flying[lane].is_empty(), "nothing flies on a lane that starts");
                    self.starting[lane] = true;
                }
                Action::Stop { lane, run } => {
                    self.flying[lane].retain(|&other| other != run);
                    self.table.ended(lane, run, Verdict::Stopped);
                }
                Action::KillWorker { lane } => self.lose(lane),
                Action::Recall { lane, run } => {
                    assert!(self.flying[lane].contains(&run) && !self.recalled.contains(&(lane, run)));
                    self.recalled.push((lane, run));
                }
            }
        }
        let places = self.table.core.places();
        assert!(places.values().all(|&places| places == 1), "each task is in one place: {places:?}");
        for (id, _, _) in self.table.finished() {
            *self.results.entry(id).or_default() += 1;
        }
        for (id, count) in &self.results {
            assert_eq!(*count, 1, "task {id} has {count} results");
        }
    }

    fn lose(&mut self, lane: usize) {
        for run in std::mem::take(&mut self.flying[lane]) {
            self.table.ended(lane, run, Verdict::Lost(loss()));
            self.past.push((lane, run));
        }
    }

    fn step(&mut self, step: &Step) {
        let lanes = self.flying.len();
        let lane_of = |lane: u8| usize::from(lane) % lanes;
        match *step {
            Step::Submit(count) => {
                self.table.submit(self.submitted..self.submitted + u64::from(count));
                self.submitted += u64::from(count);
            }
            Step::End(lane, position, well) => {
                let lane = lane_of(lane);
                if !self.flying[lane].is_empty() {
                    let position = usize::from(position) % self.flying[lane].len();
                    let run = self.flying[lane].remove(position);
                    let failed = TaskError::Ended(Outcome::Exited { code: 1 });
                    self.table.ended(lane, run, if well { Verdict::Value(0) } else { Verdict::Failed(failed) });
                    self.past.push((lane, run));
                }
            }
            Step::Late(which) => {
                if !self.past.is_empty() {
                    let (lane, run) = self.past[usize::from(which) % self.past.len()];
                    self.table.ended(lane, run, Verdict::Value(9));
                    self.table.ended(lane, run, Verdict::Lost(loss()));
                }
            }
            Step::Lose(lane) => self.lose(lane_of(lane)),
            Step::Refuse(lane, position) => {
                let lane = lane_of(lane);
                if !self.flying[lane].is_empty() {
                    let position = usize::from(position) % self.flying[lane].len();
                    let run = self.flying[lane].remove(position);
                    self.table.core.not_begun(lane, run, self.table.now);
                    self.lose(lane);
                    self.table.core.lane_gone(lane, loss(), self.table.now);
                }
            }
            Step::Start(lane, way, well) => {
                let lane = lane_of(lane);
                if std::mem::take(&mut self.starting[lane]) {
                    match well {
                        true => self.table.core.lane_up_at(lane, Duration::from_millis(way.into()), self.table.now),
                        false if way == 0 => self.table.core.lane_failed(lane, no_gateway(), self.table.now),
                        false => self.table.core.lane_failed(lane, unreached(), self.table.now),
                    }
                }
            }
            Step::Way(lane, way) => {
                let lane = lane_of(lane);
                if self.table.core.is_far(lane) {
                    self.table.core.way_is(lane, Duration::from_millis(way.into()));
                }
            }
            Step::Grow if lanes < MOST_LANES => {
                self.table.core.grow(1, self.table.now);
                self.flying.push(Vec::new());
                self.starting.push(false);
            }
            Step::Grow => {}
            Step::Leave(lane) => {
                // Somebody stays.
                if (0..lanes).filter(|lane| !self.table.core.is_leaving(*lane)).count() > 1 {
                    self.table.core.leave(lane_of(lane));
                }
            }
            Step::Cancel(which) => {
                if self.submitted > 0 {
                    self.table.core.cancel(u64::from(which) % self.submitted, self.table.now);
                }
            }
            Step::Answer(which) => {
                if !self.recalled.is_empty() {
                    let (lane, run) = self.recalled.swap_remove(usize::from(which) % self.recalled.len());
                    // The first on a lane is the one that runs.
                    let position = self.flying[lane].iter().position(|&other| other == run);
                    if position.is_some_and(|position| position > 0) {
                        self.flying[lane].retain(|&other| other != run);
                        self.table.ended(lane, run, Verdict::Stopped);
                        self.past.push((lane, run));
                        self.moved += 1;
                    }
                }
            }
            Step::Pass(millis) => self.table.now += Duration::from_millis(u64::from(millis)),
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_task_has_one_result(
        lanes in 1..4_usize,
        retries in 0..2_u32,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let on = RetryOn::any_failure();
        let patience = Some(3 * SECOND);
        let attempts = Rules { start_attempts: 6, reach_attempts: 6, ..rules() };
        let table = Table::new(Rules { retries, retry_on: on, patience, ..attempts }, lanes);
        let mut world = World::new(table, lanes);
        steps.iter().for_each(|step| world.step(step));
        // From here on all goes well, and all must come to its end.
        for round in 0..10_000 {
            if world.table.core.unfinished() == 0 && round > 2 {
                break;
            }
            world.step(&Step::Pass(1000));
            world.step(&Step::Answer(0));
            for lane in 0..world.flying.len() {
                let number = u8::try_from(lane).unwrap();
                world.step(&Step::Start(number, 0, true));
                world.step(&Step::End(number, 0, true));
            }
        }
        prop_assert_eq!(world.table.core.unfinished(), 0);
        prop_assert_eq!(world.results.len() as u64, world.submitted);
        let mut gone = std::mem::take(&mut world.gone);
        gone.sort_unstable();
        let leaving: Vec<usize> = (0..world.flying.len()).filter(|lane| world.table.core.is_leaving(*lane)).collect();
        prop_assert_eq!(gone, leaving, "whoever is to leave has left");
    }
}

#[test]
fn what_is_moved_between_lanes_is_among_what_the_schedules_try() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 300);
    let mut moved = 0;
    for _ in 0..40 {
        let steps = proptest::strategy::ValueTree::current(&steps.new_tree(&mut runner).unwrap());
        let mut world = World::new(Table::new(rules(), 3), 3);
        steps.iter().for_each(|step| world.step(step));
        moved += world.moved;
    }
    assert!(moved > 10, "{moved}");
}
