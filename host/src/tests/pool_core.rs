//! The decisions of a pool, without threads: tables of what happens and what follows, and schedules at random.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sandgate_wire::Outcome;
use sandgate_wire::outcome::{LossCause, WorkerLoss};

use crate::pool::{Action, Core, OutcomeKind, PoolError, RetryOn, Rules, TaskError, Verdict};

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        max_losses: 3,
        max_in_flight: 8,
        retries: 0,
        retry_on: RetryOn::none(),
        start_attempts: 2,
        patience: None,
        grace: SECOND,
        sessions: false,
        watched_deadline: None,
    }
}

fn loss() -> WorkerLoss {
    let cause = LossCause::Signaled { signal: 9 };
    WorkerLoss { gateway: "gw0".to_owned(), pid: Some(1), cause, stderr_tail: String::new() }
}

fn no_gateway() -> PoolError {
    PoolError::Thread(std::io::Error::other("none"))
}

/// A core and a clock that stands until it is moved.
struct Table {
    core: Core<u32, u32>,
    now: Instant,
}

impl Table {
    fn new(rules: Rules, lanes: usize) -> Table {
        let now = Instant::now();
        let mut core = Core::new(rules, lanes, now, true);
        (0..lanes).for_each(|lane| core.lane_up(lane, now));
        Table { core, now }
    }

    fn submit(&mut self, ids: std::ops::Range<u64>) {
        ids.for_each(|id| self.core.submit(id, u32::try_from(id).unwrap(), self.now));
    }

    /// Dispatches, and returns what is to be done.
    fn actions(&mut self) -> Vec<Action> {
        self.core.tick(self.now);
        self.core.dispatch(self.now);
        std::mem::take(&mut self.core.actions)
    }

    /// Dispatches, and returns lane, task and run of what is to be run.
    fn runs(&mut self) -> Vec<(usize, u64, u64)> {
        let run = |action| match action {
            Action::Run { lane, task, run } => Some((lane, task, run)),
            _ => None,
        };
        self.actions().into_iter().filter_map(run).collect()
    }

    fn ended(&mut self, lane: usize, run: u64, verdict: Verdict<u32>) {
        self.core.ended(lane, run, verdict, self.now);
    }

    /// Tasks that are through since the last time, with how they ended and their attempts.
    fn finished(&mut self) -> Vec<(u64, OutcomeKind, u32)> {
        let kind =
            |value: &Result<u32, TaskError>| value.as_ref().map_or_else(TaskError::kind, |_| OutcomeKind::Returned);
        let finished = std::mem::take(&mut self.core.finished);
        finished.into_iter().map(|it| (u64::from(it.payload), kind(&it.value), it.attempts)).collect()
    }
}

#[test]
fn tasks_are_spread_and_each_lane_has_one_ahead() {
    let mut table = Table::new(rules(), 2);
    table.submit(0..10);
    let runs = table.runs();
    let tasks: Vec<_> = runs.iter().map(|&(lane, task, _)| (lane, task)).collect();
    assert_eq!(tasks, [(0, 0), (1, 1), (0, 2), (1, 3)]);
    // Tasks that take 10 ms are given one ahead; those that take 1 µs as many as may be.
    for (took, expected) in [(Duration::from_millis(10), 2), (Duration::from_micros(1), 8)] {
        let mut table = Table::new(rules(), 1);
        table.submit(0..300);
        for _ in 0..200 {
            let runs = table.runs();
            table.now += took;
            let (_, _, first) = runs.first().copied().unwrap_or((0, 0, table.core.head(0).unwrap()));
            let head = table.core.head(0).unwrap_or(first);
            table.ended(0, head, Verdict::Value(1));
        }
        table.actions();
        assert_eq!(table.core.in_flight(0), expected, "{took:?}");
    }
}

#[test]
fn a_loss_in_company_makes_suspects_that_fly_alone() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..4);
    let runs = table.runs();
    assert_eq!(runs.len(), 2);
    table.ended(0, runs[0].2, Verdict::Lost(loss()));
    // The news of the others of the same loss is late.
    table.ended(0, runs[1].2, Verdict::Lost(loss()));
    assert_eq!(table.actions(), [Action::Start { lane: 0 }]);
    table.core.lane_up(0, table.now);
    let alone = table.runs();
    assert_eq!(alone.iter().map(|run| run.1).collect::<Vec<_>>(), [0], "nothing beside a suspect");
    // A late value of a run of before is nobody's.
    table.ended(0, runs[0].2, Verdict::Value(7));
    assert_eq!(table.finished(), []);
    table.ended(0, alone[0].2, Verdict::Value(0));
    let alone = table.runs();
    assert_eq!(alone.iter().map(|run| run.1).collect::<Vec<_>>(), [1]);
    table.ended(0, alone[0].2, Verdict::Value(0));
    // Twice is late too.
    table.ended(0, alone[0].2, Verdict::Value(0));
    assert_eq!(table.runs().len(), 2, "and then as before");
    assert_eq!(table.finished(), [(0, OutcomeKind::Returned, 1), (1, OutcomeKind::Returned, 1)]);
}

#[test]
fn an_input_is_poisonous_after_three_losses_alone() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..3);
    let runs = table.runs();
    table.ended(0, runs[0].2, Verdict::Lost(loss()));
    let mut blamed = 0;
    for _ in 0..20 {
        table.now += 2 * SECOND;
        if table.actions().contains(&Action::Start { lane: 0 }) {
            table.core.lane_up(0, table.now);
        }
        for (_, task, run) in table.runs() {
            match task {
                0 => {
                    blamed += 1;
                    table.ended(0, run, Verdict::Lost(loss()));
                }
                _ => table.ended(0, run, Verdict::Value(0)),
            }
        }
        // Those that were given out by `actions` above.
        while let Some(run) = table.core.head(0) {
            let poison =
                table.core.payload(0).is_some() && table.core.in_flight(0) == 1 && table.core.unfinished() == 1;
            blamed += u32::from(poison);
            table.ended(0, run, if poison { Verdict::Lost(loss()) } else { Verdict::Value(0) });
        }
    }
    let finished: BTreeMap<u64, _> = table.finished().into_iter().map(|(id, kind, n)| (id, (kind, n))).collect();
    assert_eq!(finished.len(), 3);
    assert!(blamed <= 3, "{blamed}");
}

#[test]
fn suspects_get_a_lane_though_all_are_busy() {
    let mut table = Table::new(rules(), 2);
    table.submit(0..100);
    let runs = table.runs();
    // Lane 0 is lost three times in a row without anything done, so that it stays down for a while.
    let mut lost: Vec<u64> = runs.iter().filter(|run| run.0 == 0).map(|run| run.2).collect();
    for _ in 0..3 {
        table.ended(0, lost[0], Verdict::Lost(loss()));
        table.actions();
        table.core.lane_up(0, table.now);
        lost = table.runs().iter().filter(|run| run.0 == 0).map(|run| run.2).collect();
        if lost.is_empty() {
            break;
        }
    }
    // Meanwhile lane 1 goes on, and becomes empty for a suspect in the end.
    let mut alone = 0;
    for _ in 0..200 {
        let Some(run) = table.core.head(1) else {
            table.runs();
            if table.core.head(1).is_none() {
                break;
            }
            continue;
        };
        table.ended(1, run, Verdict::Value(0));
        alone += usize::from(table.runs().is_empty() && table.core.in_flight(1) == 1);
    }
    assert!(alone > 0, "lane 1 has been drained once");
}

#[test]
fn a_worker_that_goes_at_once_is_replaced_later_and_later() {
    let mut table = Table::new(rules(), 1);
    let mut delays = Vec::new();
    for round in 0..12_u64 {
        table.submit(round * 2..round * 2 + 2);
        let runs = table.runs();
        table.ended(0, runs[0].2, Verdict::Lost(loss()));
        let start = table.now;
        while !table.actions().contains(&Action::Start { lane: 0 }) {
            table.now = table.core.next_timer().expect("a time to start again");
        }
        delays.push(table.now.saturating_duration_since(start).as_millis());
        table.core.lane_up(0, table.now);
    }
    assert_eq!(delays[..5], [0, 0, 20, 40, 80]);
    assert_eq!(delays[11], 1000);
}

#[test]
fn without_any_gateway_everything_ends() {
    let mut table = Table::new(rules(), 2);
    table.submit(0..4);
    let runs = table.runs();
    for lane in [0, 1] {
        let run = runs.iter().find(|run| run.0 == lane).unwrap().2;
        table.ended(lane, run, Verdict::Lost(loss()));
    }
    table.actions();
    for _ in 0..2 {
        for lane in [0, 1] {
            table.core.lane_failed(lane, no_gateway(), table.now);
        }
        table.now += SECOND;
        table.actions();
    }
    let finished = table.finished();
    assert_eq!(finished.len(), 4);
    assert!(finished.iter().all(|it| it.1 == OutcomeKind::NoGateway), "{finished:?}");
    table.submit(10..11);
    assert_eq!(table.finished(), [(10, OutcomeKind::NoGateway, 0)]);
}

#[test]
fn a_cancelled_task_ends_at_once_and_its_run_is_stopped() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..3);
    let runs = table.runs();
    (0..3).for_each(|id| table.core.cancel(id, table.now));
    assert!(table.finished().iter().all(|it| it.1 == OutcomeKind::Cancelled));
    let stops: Vec<_> = runs.iter().map(|&(lane, _, run)| Action::Stop { lane, run }).collect();
    assert_eq!(table.actions(), stops);
    table.ended(0, runs[0].2, Verdict::Stopped);
    // One that does not stop costs its worker.
    table.now += SECOND;
    assert_eq!(table.core.next_timer(), Some(table.now));
    assert_eq!(table.actions(), [Action::KillWorker { lane: 0 }]);
    table.submit(5..6);
    let flying = table.runs();
    table.ended(0, runs[1].2, Verdict::Lost(loss()));
    assert!(flying.len() <= 1 && table.finished().is_empty(), "nobody who is left is to blame");
    assert_eq!(table.core.unfinished(), 1);
}

#[test]
fn a_silent_worker_is_killed_and_the_task_alone_on_it_is_blamed() {
    let mut table = Table::new(Rules { patience: Some(SECOND), max_losses: 1, ..rules() }, 1);
    table.submit(0..1);
    let runs = table.runs();
    assert_eq!(table.actions(), []);
    table.now += SECOND;
    assert_eq!(table.actions(), [Action::KillWorker { lane: 0 }]);
    table.ended(0, runs[0].2, Verdict::Lost(loss()));
    assert_eq!(table.finished(), [(0, OutcomeKind::WorkerLost, 1)]);
}

#[test]
fn a_session_answers_in_order_and_its_end_is_that_of_the_first() {
    let mut table = Table::new(Rules { sessions: true, watched_deadline: Some(SECOND), ..rules() }, 1);
    table.submit(0..2);
    table.runs();
    let failed = TaskError::Ended(Outcome::Failed { message: "no".to_owned() });
    table.core.session_ended(0, Verdict::Failed(failed), table.now);
    assert_eq!(table.finished(), [(0, OutcomeKind::Failed, 1)]);
    let again = table.runs();
    assert_eq!(again[0].1, 1, "the second one had not begun");
    table.now += SECOND;
    assert_eq!(table.actions(), [Action::Stop { lane: 0, run: again[0].2 }]);
    table.core.session_ended(0, Verdict::Stopped, table.now);
    assert_eq!(table.finished(), [(1, OutcomeKind::TimedOut, 1)]);
    // One that waits behind another cannot be stopped, and its answer is dropped.
    table.submit(2..4);
    table.runs();
    table.core.cancel(3, table.now);
    assert_eq!(table.actions(), []);
    let head = table.core.head(0).unwrap();
    table.ended(0, head, Verdict::Value(0));
    let head = table.core.head(0).unwrap();
    table.ended(0, head, Verdict::Value(0));
    assert_eq!(table.finished(), [(3, OutcomeKind::Cancelled, 0), (2, OutcomeKind::Returned, 1)]);
}

#[test]
fn a_run_that_has_not_begun_is_not_counted() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..2);
    let runs = table.runs();
    table.core.not_begun(0, runs[0].2);
    table.core.not_begun(0, runs[1].2);
    assert_eq!(table.actions(), [], "its gateway is about to go");
    table.core.lane_gone(0, loss(), table.now);
    assert_eq!(table.actions(), [Action::Start { lane: 0 }]);
    table.core.lane_up(0, table.now);
    let again = table.runs();
    assert_eq!(again.len(), 2, "together, for nobody is a suspect");
    again.into_iter().for_each(|(lane, _, run)| table.ended(lane, run, Verdict::Value(0)));
    assert!(table.finished().iter().all(|it| it.2 == 1));
}

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
    Start(u8, bool),
    Cancel(u8),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8_u8).prop_map(Step::Submit),
        8 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(lane, run, well)| Step::End(lane, run, well)),
        2 => any::<u8>().prop_map(Step::Late),
        3 => any::<u8>().prop_map(Step::Lose),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(lane, run)| Step::Refuse(lane, run)),
        6 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(lane, well)| Step::Start(lane, well)),
        1 => any::<u8>().prop_map(Step::Cancel),
        3 => (0..2000_u16).prop_map(Step::Pass),
    ]
}

/// The world around a core: which runs fly, and which lanes are being started.
struct World {
    table: Table,
    flying: Vec<Vec<u64>>,
    past: Vec<(usize, u64)>,
    starting: Vec<bool>,
    submitted: u64,
    results: BTreeMap<u64, u32>,
}

impl World {
    fn settle(&mut self) {
        for action in self.table.actions() {
            match action {
                Action::Run { lane, run, .. } => self.flying[lane].push(run),
                Action::Start { lane } => {
                    assert!(!self.starting[lane], "a lane is started once");
                    assert!(self.flying[lane].is_empty(), "nothing flies on a lane that starts");
                    self.starting[lane] = true;
                }
                Action::Stop { lane, run } => {
                    self.flying[lane].retain(|&other| other != run);
                    self.table.ended(lane, run, Verdict::Stopped);
                }
                Action::KillWorker { lane } => self.lose(lane),
            }
        }
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
                    self.table.core.not_begun(lane, run);
                    self.lose(lane);
                    self.table.core.lane_gone(lane, loss(), self.table.now);
                }
            }
            Step::Start(lane, well) => {
                let lane = lane_of(lane);
                if std::mem::take(&mut self.starting[lane]) {
                    match well {
                        true => self.table.core.lane_up(lane, self.table.now),
                        false => self.table.core.lane_failed(lane, no_gateway(), self.table.now),
                    }
                }
            }
            Step::Cancel(which) => {
                if self.submitted > 0 {
                    self.table.core.cancel(u64::from(which) % self.submitted, self.table.now);
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
        let table = Table::new(Rules { retries, retry_on: on, patience, start_attempts: 6, ..rules() }, lanes);
        let mut world = World {
            table,
            flying: vec![Vec::new(); lanes],
            past: Vec::new(),
            starting: vec![false; lanes],
            submitted: 0,
            results: BTreeMap::new(),
        };
        steps.iter().for_each(|step| world.step(step));
        // From here on all goes well, and all must come to its end.
        for _ in 0..10_000 {
            if world.table.core.unfinished() == 0 {
                break;
            }
            world.step(&Step::Pass(1000));
            for lane in 0..lanes {
                let number = u8::try_from(lane).unwrap();
                world.step(&Step::Start(number, true));
                world.step(&Step::End(number, 0, true));
            }
        }
        prop_assert_eq!(world.table.core.unfinished(), 0);
        prop_assert_eq!(world.results.len() as u64, world.submitted);
    }
}
