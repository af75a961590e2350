//! The number of an input is one and the same in results, events and handles, whatever becomes of it.

use std::collections::BTreeMap;

use guest_protocol::Hostile;
use sandgate::{EventSink, EventStream, OutcomeKind, PoolEvent, RetryOn, TaskError, TaskResult};
use sandgate_tests::LIMIT;
use serde::{Serialize, Serializer};

use crate::pool_of;

/// An input, or none that could be sent anywhere.
#[derive(Debug, Clone)]
struct Input(Option<Hostile>);

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let told = self.0.as_ref().ok_or_else(|| serde::ser::Error::custom("not this one"))?;
        told.serialize(serializer)
    }
}

/// Every fifth input cannot be encoded, every fifth fails and is tried again, the others are doubled.
fn input(x: u64) -> Input {
    Input(match x % 5 {
        1 => None,
        3 => Some(Hostile::Fail),
        _ => Some(Hostile::Double(x)),
    })
}

fn kind(result: &TaskResult<u64>) -> OutcomeKind {
    result.value.as_ref().map_or_else(TaskError::kind, |_| OutcomeKind::Returned)
}

/// What events tell of each task: how often it was queued and retried, and how it ended each time that it did.
fn told(events: EventStream) -> BTreeMap<u64, (u32, u32, Vec<OutcomeKind>)> {
    let mut told: BTreeMap<u64, (u32, u32, Vec<OutcomeKind>)> = BTreeMap::new();
    assert_eq!(events.dropped(), 0);
    for event in events {
        match event.event {
            PoolEvent::TaskQueued { task } => told.entry(task).or_default().0 += 1,
            PoolEvent::TaskRetried { task, .. } => told.entry(task).or_default().1 += 1,
            PoolEvent::TaskFinished { task, outcome, .. } => told.entry(task).or_default().2.push(outcome),
            _ => {}
        }
    }
    told
}

#[test]
fn an_input_has_the_same_number_everywhere() {
    let (sink, events) = EventSink::bounded(100_000);
    let retry = RetryOn::none().and(OutcomeKind::Failed);
    let pool = pool_of("hostile").retries(1, retry).events(sink).build().unwrap();
    let mut results: BTreeMap<u64, OutcomeKind> = BTreeMap::new();
    let mut note = |number: u64, kind: OutcomeKind| assert_eq!(results.insert(number, kind), None, "{number} twice");
    for result in pool.map_unordered::<_, u64>((0..200).map(input)) {
        assert_eq!(result.task, result.index, "the only iterator so far");
        let expected = match result.index % 5 {
            1 => OutcomeKind::Rejected,
            3 => OutcomeKind::Failed,
            _ => OutcomeKind::Returned,
        };
        assert_eq!(kind(&result), expected, "{result:?}");
        if expected == OutcomeKind::Returned {
            assert_eq!(result.value.as_ref().unwrap(), &(result.index * 2));
        }
        note(result.task, kind(&result));
    }
    for result in pool.map::<_, u64>((0..50).map(input)) {
        assert_eq!(result.task, result.index + 200, "numbers go on");
        note(result.task, kind(&result));
    }
    let refused = pool.submit::<u64>(&Input(None));
    assert_eq!(refused.id(), 250);
    let result = refused.wait_timeout(LIMIT).expect("a result in time");
    assert_eq!((result.task, kind(&result)), (250, OutcomeKind::Rejected));
    note(result.task, kind(&result));
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.done + stats.failed(), stats.unfinished), (251, 251, 0), "{stats:?}");
    // What is cancelled half-way has its number and its end too, and nobody takes the results.
    let mut dropped =
        pool.map::<_, u64>((0..).map(|x| Input(Some(if x < 4 { Hostile::Double(x) } else { Hostile::Loop }))));
    for expected in 0..4 {
        let result = dropped.next().unwrap();
        assert_eq!((result.index, result.task), (expected, expected + 251));
        note(result.task, kind(&result));
    }
    let pulled = dropped.pulled();
    drop(dropped);
    drop(pool);
    let told = told(events);
    assert_eq!(told.keys().copied().collect::<Vec<u64>>(), (0..251 + pulled).collect::<Vec<u64>>(), "none is left out");
    for (task, (queued, retried, ends)) in &told {
        let kind = results.get(task).copied().unwrap_or(OutcomeKind::Cancelled);
        assert_eq!((*queued, &ends[..]), (1, &[kind][..]), "{task}");
        assert_eq!(*retried, u32::from(kind == OutcomeKind::Failed), "{task}");
    }
}
