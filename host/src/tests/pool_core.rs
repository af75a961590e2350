//! The decisions of a pool, without threads: tables of what happens and what follows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sandgate_wire::Outcome;
use sandgate_wire::outcome::{LossCause, WorkerLoss};

use crate::pool::{Action, Core, OutcomeKind, PoolError, PoolEvent, RetryOn, Rules, TaskError, Verdict};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn rules() -> Rules {
    Rules {
        max_losses: 3,
        max_in_flight: 8,
        max_far_in_flight: 8,
        retries: 0,
        retry_on: RetryOn::none(),
        start_attempts: 2,
        reach_attempts: 2,
        patience: None,
        grace: SECOND,
        sessions: false,
        watched_deadline: None,
        executions: 1,
    }
}

pub(super) fn loss() -> WorkerLoss {
    let cause = LossCause::Signaled { signal: 9 };
    WorkerLoss { gateway: "gw0".to_owned(), pid: Some(1), cause, stderr_tail: String::new() }
}

pub(super) fn no_gateway() -> PoolError {
    PoolError::Thread(std::io::Error::other("none"))
}

pub(super) fn unreached() -> PoolError {
    let source = crate::ReachError::Refused { words: String::new() };
    PoolError::Gateway(crate::GatewayError::Reach { id: "gw0".to_owned(), host: "ssh=far".to_owned(), source })
}

/// A core and a clock that stands until it is moved.
pub(super) struct Table {
    pub(super) core: Core<u32, u32>,
    pub(super) now: Instant,
}

impl Table {
    pub(super) fn new(rules: Rules, lanes: usize) -> Table {
        let now = Instant::now();
        let mut core = Core::new(rules, lanes, now, true);
        (0..lanes).for_each(|lane| core.lane_up(lane, now));
        Table { core, now }
    }

    pub(super) fn submit(&mut self, ids: std::ops::Range<u64>) {
        ids.for_each(|id| self.core.submit(id, u32::try_from(id).unwrap(), self.now));
    }

    /// Dispatches, and returns what is to be done.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        self.core.tick(self.now);
        self.core.dispatch(self.now);
        std::mem::take(&mut self.core.actions)
    }

    /// Dispatches, and returns lane, task and run of what is to be run.
    pub(super) fn runs(&mut self) -> Vec<(usize, u64, u64)> {
        let run = |action| match action {
            Action::Run { lane, task, run } => Some((lane, task, run)),
            _ => None,
        };
        self.actions().into_iter().filter_map(run).collect()
    }

    pub(super) fn ended(&mut self, lane: usize, run: u64, verdict: Verdict<u32>) {
        self.core.ended(lane, run, verdict, self.now);
    }

    /// Tasks that are through since the last time, with how they ended and their attempts.
    pub(super) fn finished(&mut self) -> Vec<(u64, OutcomeKind, u32)> {
        let kind = |value: &Result<u32, Box<TaskError>>| {
            value.as_ref().map_or_else(|error| error.kind(), |_| OutcomeKind::Returned)
        };
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
    // Tasks that take 10 ms are given one ahead; those that take 1 µs as many as may be, once half of them are through.
    for (took, expected) in [(Duration::from_millis(10), 2..=2), (Duration::from_micros(1), 5..=8)] {
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
        let in_flight = table.core.in_flight(0);
        assert!(expected.contains(&in_flight), "{in_flight} of {took:?}");
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
fn a_session_that_answers_many_at_once_is_one_that_answers_one_by_one() {
    let mut table = Table::new(Rules { sessions: true, ..rules() }, 1);
    table.submit(0..100);
    let mut through = Vec::new();
    for answers in [1, 2, 2, 3, 5, 8, 8, 1] {
        table.actions();
        if through.len() == 1 {
            // The third is not wanted any more, and is answered all the same.
            table.core.cancel(2, table.now);
        }
        table.now += answers * Duration::from_micros(10);
        assert!(table.core.in_flight(0) >= answers as usize, "{answers} of {}", table.core.in_flight(0));
        table.core.answered(0, vec![7; answers as usize].into_iter(), table.now);
        through.extend(table.finished());
    }
    let expected = |id: u64| match id {
        2 => (2, OutcomeKind::Cancelled, 0),
        id => (id, OutcomeKind::Returned, 1),
    };
    through.sort_unstable();
    assert_eq!(through, (0..30).map(expected).collect::<Vec<_>>());
    table.actions();
    let in_flight = table.core.in_flight(0);
    table.core.answered(0, vec![7; in_flight + 5].into_iter(), table.now);
    assert_eq!(table.finished().len(), in_flight, "what nothing was asked for is nobody's");
}

#[test]
fn what_was_behind_the_suspects_of_a_loss_goes_on_in_small_groups() {
    let mut table = Table::new(Rules { max_in_flight: 64, max_losses: 1, sessions: true, ..rules() }, 1);
    table.submit(0..200);
    while table.core.in_flight(0) < 64 {
        table.actions();
        table.now += Duration::from_micros(1);
        table.core.answered(0, [0].into_iter(), table.now);
        table.actions();
    }
    let first = table.finished().len() as u64;
    // Workers are lost under one of those at the end of all that were given to it.
    let poison = first + 60;
    let mut losses = 0;
    for _ in 0..500 {
        table.now += 2 * SECOND;
        if table.actions().contains(&Action::Start { lane: 0 }) {
            table.core.lane_up(0, table.now);
            table.actions();
        }
        let Some(head) = table.core.head(0) else { continue };
        // What it has answered in a group before its end is not heard.
        if table.core.flies(0, poison) {
            losses += 1;
            table.ended(0, head, Verdict::Lost(loss()));
        } else {
            let all = table.core.in_flight(0);
            table.core.answered(0, vec![0; all].into_iter(), table.now);
        }
    }
    assert_eq!((losses, table.core.unfinished()), (3, 0), "in company, in a small group, and alone");
    let finished: BTreeMap<u64, _> = table.finished().into_iter().map(|(id, kind, _)| (id, kind)).collect();
    assert_eq!(finished.len() as u64, 200 - first);
    assert!(finished.iter().all(|(id, kind)| (*kind == OutcomeKind::WorkerLost) == (*id == poison)));
}

#[test]
fn a_run_that_has_not_begun_is_not_counted() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..2);
    let runs = table.runs();
    table.core.not_begun(0, runs[0].2, table.now);
    table.core.not_begun(0, runs[1].2, table.now);
    assert_eq!(table.actions(), [], "its gateway is about to go");
    table.core.lane_gone(0, loss(), table.now);
    assert_eq!(table.actions(), [Action::Start { lane: 0 }]);
    table.core.lane_up(0, table.now);
    let again = table.runs();
    assert_eq!(again.len(), 2, "together, for nobody is a suspect");
    again.into_iter().for_each(|(lane, _, run)| table.ended(lane, run, Verdict::Value(0)));
    assert!(table.finished().iter().all(|it| it.2 == 1));
}

/// Two lanes with two tasks each, of which the second has ended both: the first is at a long run, with one behind it. Those
/// two runs.
fn straggler() -> (Table, u64, u64) {
    let mut table = Table::new(rules(), 2);
    table.submit(0..4);
    let runs = table.runs();
    let on = |lane: usize| runs.iter().filter(|run| run.0 == lane).map(|run| run.2).collect::<Vec<u64>>();
    for run in on(1) {
        table.now += Duration::from_millis(1);
        table.ended(1, run, Verdict::Value(0));
    }
    assert_eq!(table.finished().len(), 2);
    (table, on(0)[0], on(0)[1])
}

#[test]
fn what_waits_behind_a_long_run_is_moved_to_an_idle_lane() {
    let (mut table, long, waits) = straggler();
    assert_eq!(table.actions(), [], "it may be over in a moment");
    table.now = table.core.next_timer().expect("a time at which it has taken long");
    assert_eq!(table.actions(), [Action::Recall { lane: 0, run: waits }]);
    table.now += SECOND;
    assert_eq!((table.actions(), table.core.next_timer()), (vec![], None), "it is asked for once");
    // More inputs go where they are run at once.
    table.submit(4..5);
    assert_eq!(table.runs().iter().map(|run| (run.0, run.1)).collect::<Vec<_>>(), [(1, 4)]);
    table.ended(0, waits, Verdict::Stopped);
    let moved = table.runs();
    assert_eq!(moved.iter().map(|run| (run.0, run.1)).collect::<Vec<_>>(), [(1, 2)]);
    table.ended(0, waits, Verdict::Value(9));
    assert_eq!(table.finished(), [], "what is late is nobody's");
    table.ended(1, moved[0].2, Verdict::Value(0));
    table.ended(0, long, Verdict::Value(0));
    assert_eq!(table.finished(), [(2, OutcomeKind::Returned, 1), (0, OutcomeKind::Returned, 1)]);
}

#[test]
fn a_lane_that_leaves_ends_what_runs_and_gives_back_the_rest() {
    let mut table = Table::new(rules(), 2);
    table.submit(0..6);
    let runs = table.runs();
    let on = |lane: usize| runs.iter().filter(|run| run.0 == lane).map(|run| run.2).collect::<Vec<u64>>();
    let (first, behind) = (on(0)[0], on(0)[1]);
    table.core.leave(0);
    assert_eq!(table.actions(), [Action::Recall { lane: 0, run: behind }], "it gets nothing more, and is not gone yet");
    table.ended(0, behind, Verdict::Stopped);
    table.ended(0, first, Verdict::Value(0));
    assert_eq!(table.actions(), [Action::End { lane: 0 }]);
    assert_eq!(table.finished(), [(0, OutcomeKind::Returned, 1)]);
    for run in on(1) {
        table.ended(1, run, Verdict::Value(0));
    }
    // What was taken back is the next.
    assert_eq!(table.runs().first().map(|run| (run.0, run.1)), Some((1, 2)));
    // One whose worker is lost meanwhile, or that is being started again, is gone as well, and nothing is started for it.
    let mut table = Table::new(rules(), 2);
    table.submit(0..2);
    let runs = table.runs();
    table.core.leave(0);
    table.ended(0, runs[0].2, Verdict::Lost(loss()));
    assert_eq!(table.actions().last(), Some(&Action::End { lane: 0 }));
    table.core.leave(1);
    table.ended(1, runs[1].2, Verdict::Lost(loss()));
    assert_eq!(table.actions(), [Action::End { lane: 1 }]);
    // Tasks wait for a machine that joins, and begin when it has.
    table.core.grow(1, table.now);
    assert_eq!(table.actions(), [Action::Start { lane: 2 }]);
    table.core.lane_up(2, table.now);
    assert_eq!(table.runs().first().map(|run| (run.0, run.1)), Some((2, 0)));
}

#[test]
fn what_has_begun_before_it_could_be_taken_back_goes_on() {
    let (mut table, long, waits) = straggler();
    table.now += SECOND;
    assert_eq!(table.actions(), [Action::Recall { lane: 0, run: waits }]);
    table.ended(0, long, Verdict::Value(0));
    assert_eq!(table.actions(), [], "nobody runs it a second time");
    table.ended(0, waits, Verdict::Value(0));
    assert_eq!(table.finished(), [(0, OutcomeKind::Returned, 1), (2, OutcomeKind::Returned, 1)]);
    // Cancelled or lost while it is asked for, it is as any other.
    for lost in [false, true] {
        let (mut table, long, waits) = straggler();
        table.now += SECOND;
        table.actions();
        if lost {
            table.ended(0, long, Verdict::Lost(loss()));
            table.ended(0, waits, Verdict::Stopped);
            assert_eq!(table.runs().iter().map(|run| (run.0, run.1)).collect::<Vec<_>>(), [(1, 0)], "alone");
        } else {
            table.core.cancel(2, table.now);
            assert_eq!(table.actions(), [Action::Stop { lane: 0, run: waits }]);
            table.ended(0, waits, Verdict::Stopped);
            assert_eq!((table.runs(), table.finished()), (vec![], vec![(2, OutcomeKind::Cancelled, 0)]));
        }
    }
}

#[test]
fn a_stop_that_nobody_has_ordered_costs_the_worker() {
    let mut table = Table::new(Rules { max_losses: 1, ..rules() }, 1);
    table.submit(0..1);
    let runs = table.runs();
    table.ended(0, runs[0].2, Verdict::Stopped);
    assert_eq!(table.finished(), [(0, OutcomeKind::WorkerLost, 1)]);
    // In a session as well, unless one was stopped there.
    let mut table = Table::new(Rules { sessions: true, max_losses: 1, ..rules() }, 1);
    table.submit(0..2);
    table.runs();
    table.core.cancel(0, table.now);
    let head = table.core.head(0).unwrap();
    table.ended(0, head, Verdict::Value(0));
    table.core.session_ended(0, Verdict::Stopped, table.now);
    assert_eq!(table.runs().len(), 1, "it ran in vain, and runs again");
    table.core.session_ended(0, Verdict::Stopped, table.now);
    assert_eq!(table.finished(), [(0, OutcomeKind::Cancelled, 0), (1, OutcomeKind::WorkerLost, 1)]);
}

#[test]
fn an_input_that_is_refused_is_counted_and_told_like_any_other() {
    let mut table = Table::new(rules(), 1);
    table.submit(7..8);
    table.core.refuse(7, Box::new(TaskError::NoValue), table.now);
    assert_eq!(table.finished(), [(7, OutcomeKind::NoValue, 0)]);
    assert_eq!((table.runs(), table.core.counts.queued), (vec![], 1));
    let told: Vec<_> = table.core.events.take().unwrap().into_iter().map(|(_, event)| event).collect();
    assert!(
        matches!(told[..], [PoolEvent::TaskQueued { task: 7 }, PoolEvent::TaskFinished { task: 7, .. }]),
        "{told:?}"
    );
}

#[test]
fn what_cannot_have_begun_on_a_lost_worker_is_no_suspect() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..100);
    // Short tasks, so that as many are given ahead as may be.
    while table.core.in_flight(0) < 8 {
        table.actions();
        table.now += Duration::from_micros(1);
        let head = table.core.head(0).unwrap();
        table.ended(0, head, Verdict::Value(0));
        table.actions();
    }
    let first = table.finished().len() as u64;
    let head = table.core.head(0).unwrap();
    table.ended(0, head, Verdict::Lost(loss()));
    table.actions();
    table.core.lane_up(0, table.now);
    // Four are tried alone, and then the others go on in order, together.
    for suspect in first..first + 4 {
        let runs = table.runs();
        assert_eq!(runs.iter().map(|run| run.1).collect::<Vec<_>>(), [suspect]);
        table.ended(0, runs[0].2, Verdict::Value(0));
    }
    let tasks: Vec<u64> = table.runs().iter().map(|run| run.1).collect();
    assert!(tasks.len() > 1 && tasks[0] == first + 4 && tasks.is_sorted(), "{tasks:?}");
}

/// Half of the work that it may have, for the other half is for whoever gives it more, and never long.
#[test]
fn ends_of_short_tasks_can_wait_for_half_of_the_work_ahead() {
    let took = [(10, Some(2500..2600)), (100, Some(6000..6001)), (1000, Some(6000..6001)), (2000, None)];
    for (micros, expected) in took {
        let mut table = Table::new(Rules { max_in_flight: 512, ..rules() }, 1);
        table.submit(0..2000);
        assert_eq!(table.core.patience(0), None, "nobody knows how long they take");
        for _ in 0..1000 {
            table.actions();
            table.now += Duration::from_micros(micros);
            let head = table.core.head(0).unwrap();
            table.ended(0, head, Verdict::Value(1));
        }
        table.actions();
        let patience = table.core.patience(0).map(|patience| patience.as_micros());
        let as_expected = match (&expected, patience) {
            (Some(expected), Some(patience)) => expected.contains(&patience),
            (expected, patience) => expected.is_none() && patience.is_none(),
        };
        assert!(as_expected, "{micros} µs: {patience:?}");
    }
}

#[test]
fn what_was_cancelled_while_it_waited_is_not_run() {
    let mut table = Table::new(rules(), 1);
    table.submit(0..10);
    assert_eq!(table.runs().len(), 2);
    for task in [2, 4, 9] {
        table.core.cancel(task, table.now);
    }
    let mut run = Vec::new();
    for _ in 0..7 {
        let head = table.core.head(0).unwrap();
        table.ended(0, head, Verdict::Value(1));
        run.extend(table.runs().into_iter().map(|(_, task, _)| task));
    }
    assert_eq!(run, [3, 5, 6, 7, 8]);
    // Those that come later are, whatever has been cancelled before.
    table.submit(10..12);
    assert_eq!(table.runs().into_iter().map(|(_, task, _)| task).collect::<Vec<_>>(), [10, 11]);
}
