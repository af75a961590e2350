//! What inputs become: in fresh instances and reused ones, in order and not.

use std::collections::BTreeMap;
use std::time::Duration;

use guest_protocol::Hostile;
use sandgate::{
    EventSink, Limits, Outcome, OutcomeKind, Pool, PoolError, PoolEvent, RetryOn, TaskError, TaskHandle, TrapKind,
};
use sandgate_tests::{LIMIT, builder, module, popen, within};

use crate::pool_of;

#[test]
fn results_come_in_the_order_of_their_inputs() {
    for reuse in [false, true] {
        let pool = pool_of(if reuse { "serves_double" } else { "double" }).reuse(reuse).build().unwrap();
        let values: Vec<u64> = pool.map(0..2000_u64).map(|result| result.value.unwrap()).collect();
        assert_eq!(values, (0..2000).map(|x| x * 2).collect::<Vec<u64>>(), "reuse {reuse}");
        // A pool serves one iterator after the other, and several at once.
        let (mut odd, mut even) = (pool.map::<_, u64>((0..100_u64).map(|x| 2 * x + 1)), pool.map(0..100_u64));
        for x in 0..100_u64 {
            assert_eq!(odd.next().unwrap().value.unwrap(), 4 * x + 2);
            let result: sandgate::TaskResult<u64> = even.next().unwrap();
            assert_eq!((result.value.unwrap(), result.attempts, result.index), (2 * x, 1, x));
            assert!(result.gateway.is_some() && result.timing.started.unwrap() <= result.timing.finished);
        }
        assert!(odd.next().is_none() && even.next().is_none());
    }
}

#[test]
fn unordered_results_are_each_there_once() {
    let pool = pool_of("slowly").build().unwrap();
    let inputs = (0..40_u64).map(|x| (x, if x == 0 { 200 } else { 1 }));
    let results: Vec<_> = pool.map_unordered::<_, u64>(inputs).collect();
    assert_ne!(results[0].index, 0, "the slow one does not keep the others back");
    let by_index: BTreeMap<u64, u64> = results.into_iter().map(|it| (it.index, it.value.unwrap())).collect();
    assert_eq!(by_index, (0..40).map(|x| (x, x * 2)).collect());
}

#[test]
fn values_of_all_kinds_go_in_and_out() {
    let main = Pool::builder(&module("pooled")).group(builder()).spec(popen()).gateways(1).build().unwrap();
    assert_eq!(main.submit::<u64>(&21_u64).wait().value.unwrap(), 42);
    let add = pool_of("add").build().unwrap();
    assert_eq!(add.submit::<u32>(&(1_u32, 2_u32)).wait().value.unwrap(), 3);
    let nothing = pool_of("nothing").build().unwrap();
    nothing.submit::<()>(&1_u64).wait().value.unwrap();
    assert!(matches!(nothing.submit::<u64>(&1_u64).wait().value, Err(TaskError::NoValue)));
    let wrong = add.submit::<String>(&(1_u32, 2_u32)).wait().value;
    assert!(matches!(wrong, Err(TaskError::Decode { .. })), "{wrong:?}");
    let large = pool_of("size").build().unwrap();
    assert_eq!(large.submit::<usize>(&vec![0_u8; 3 << 20]).wait().value.unwrap(), 3 << 20);
    let refused = large.submit::<usize>(&vec![0_u8; 65 << 20]).wait().value;
    assert!(matches!(refused, Err(TaskError::Refused(_))), "{refused:?}");
    let swell = pool_of("swell").build().unwrap();
    assert_eq!(swell.submit::<Vec<u8>>(&(2_usize << 20)).wait().value.unwrap().len(), 2 << 20);
    let chatty = pool_of("chatty").build().unwrap();
    assert_eq!(chatty.submit::<u64>(&5000_u64).wait().value.unwrap(), 10_000, "more than a window of messages");
}

#[test]
fn messages_that_use_up_the_window_do_not_keep_a_task_from_its_result() {
    within(LIMIT, "the results", || {
        for (count, bytes) in [(2_u32, 600_u32 << 10), (5, 600 << 10), (3, 2 << 20), (3, 1)] {
            let pool =
                Pool::builder(&module("sends_bytes")).group(builder()).spec(popen()).gateways(1).build().unwrap();
            // The last of them is the value, whatever it is.
            let value = pool.submit::<u8>(&(count, bytes)).wait().value;
            assert!(matches!(value, Ok(0x5a) | Err(TaskError::Decode { .. })), "{count} of {bytes}: {value:?}");
        }
        let one = popen().with_limits(Limits { window_messages: 1, ..Limits::for_tasks() });
        let pool = Pool::builder(&module("sends_bytes")).group(builder()).spec(one).gateways(1).build().unwrap();
        assert_eq!(pool.submit::<u8>(&(3_u32, 1_u32)).wait().value.unwrap(), 0x5a);
    });
}

#[test]
fn each_way_to_fail_is_told_apart() {
    let bad = |kind: OutcomeKind| {
        move |value: Result<u64, TaskError>| match value {
            Err(error) if error.kind() == kind => {}
            other => panic!("{kind} was expected, not {other:?}"),
        }
    };
    for (reuse, task) in [(false, "hostile"), (true, "serves")] {
        let deadline = Duration::from_millis(300);
        let pool = pool_of(task).reuse(reuse).deadline(deadline).build().unwrap();
        let check = |input: Hostile, check: &dyn Fn(Result<u64, TaskError>)| {
            let waited = pool.submit::<u64>(&input).wait_timeout(LIMIT);
            check(waited.expect("a result in time").value);
            // Whatever it was, the next one is served.
            assert_eq!(pool.submit::<u64>(&Hostile::Double(2)).wait().value.unwrap(), 4);
        };
        check(Hostile::Panic, &bad(OutcomeKind::Panicked));
        check(Hostile::Recurse, &bad(OutcomeKind::Trapped));
        check(Hostile::Exit(3), &bad(OutcomeKind::Exited));
        check(Hostile::Loop, &|value| match value {
            Err(TaskError::Ended(Outcome::TimedOut { after })) => assert_eq!(after, deadline),
            other => panic!("{other:?}"),
        });
        check(Hostile::Sleep(60_000), &bad(OutcomeKind::TimedOut));
        check(Hostile::Double(5), &|value| assert_eq!(value.unwrap(), 10));
        if !reuse {
            check(Hostile::Fail, &bad(OutcomeKind::Failed));
        }
    }
    let trapped = pool_of("hostile").build().unwrap().submit::<u64>(&Hostile::Recurse).wait().value;
    // Where its frames are large, the guest's own stack in its memory ends first.
    let is_overflow = |outcome: &Outcome| {
        matches!(outcome, Outcome::Trapped { kind: TrapKind::StackOverflow | TrapKind::MemoryOutOfBounds, .. })
    };
    assert!(matches!(&trapped, Err(TaskError::Ended(outcome)) if is_overflow(outcome)), "{trapped:?}");
    let unknown = pool_of("no_such_task").build().unwrap().submit::<u64>(&1).wait().value;
    assert!(matches!(unknown, Err(TaskError::Ended(Outcome::Rejected { .. }))), "{unknown:?}");
}

#[test]
fn a_session_that_ends_by_itself_is_begun_anew() {
    let pool = pool_of("serves_one").reuse(true).build().unwrap();
    let results: Vec<_> = pool.map::<_, u64>(0..50_u64).collect();
    assert_eq!(results.len(), 50);
    // It answers one and returns; whatever was already with it has not begun, but the next one at its head has ended.
    assert!(results.iter().any(|result| result.value.is_ok()));
    for result in &results {
        assert!(matches!(result.value, Ok(_) | Err(TaskError::NoValue)), "{result:?}");
    }
}

#[test]
fn failures_are_retried_if_that_was_asked_for() {
    let (sink, events) = EventSink::bounded(1000);
    let on = RetryOn::none().and(OutcomeKind::Failed);
    let pool = pool_of("hostile").retries(2, on).events(sink).build().unwrap();
    assert_eq!(pool.submit::<u64>(&Hostile::Fail).wait().attempts, 3);
    assert_eq!(pool.submit::<u64>(&Hostile::Panic).wait().attempts, 1);
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.done, stats.failed(), stats.retried, stats.unfinished), (2, 0, 2, 2, 0));
    assert_eq!(stats.gateways.len(), 2);
    assert!(stats.gateways.iter().all(|gateway| gateway.memory_bytes > Some(0) && gateway.workers == 1), "{stats:?}");
    drop(pool);
    let events: Vec<_> = events.collect();
    assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at));
    let count = |wanted: fn(&PoolEvent) -> bool| events.iter().filter(|event| wanted(&event.event)).count();
    assert_eq!(count(|event| matches!(event, PoolEvent::GatewayStarted { .. })), 2);
    assert_eq!(count(|event| matches!(event, PoolEvent::TaskRetried { cause: OutcomeKind::Failed, .. })), 2);
    assert_eq!(count(|event| matches!(event, PoolEvent::TaskStarted { .. })), 4);
    assert_eq!(count(|event| matches!(event, PoolEvent::TaskFinished { .. })), 2);
    assert_eq!(events.first().unwrap().event, PoolEvent::PoolStarted { gateways: 2 });
    assert_eq!(events.last().unwrap().event, PoolEvent::PoolFinished);
}

#[test]
fn handles_wait_cancel_and_let_go() {
    let pool = pool_of("slowly").gateways(1).build().unwrap();
    let slow = pool.submit::<u64>(&(1_u64, 60_000_u64));
    let next = pool.submit::<u64>(&(2_u64, 0_u64));
    let next = next.wait_timeout(Duration::from_millis(20)).expect_err("the first one runs");
    let slow = slow.try_result().expect_err("it runs");
    slow.cancel();
    assert!(matches!(slow.wait().value, Err(TaskError::Cancelled)));
    assert_eq!(next.wait().value.unwrap(), 4, "a cancelled task makes room");
    // A handle that is dropped cancels its task, one that is detached does not.
    drop(pool.submit::<u64>(&(1_u64, 60_000_u64)));
    pool.submit::<u64>(&(3_u64, 1_u64)).detach();
    assert_eq!(pool.submit::<u64>(&(4_u64, 0_u64)).wait().value.unwrap(), 8);
    assert_eq!(pool.stats().done, 3);
    let left: Vec<TaskHandle<u64>> = (0..10_u64).map(|x| pool.submit(&(x, 60_000_u64))).collect();
    within(LIMIT, "the drop of a pool with tasks", move || drop(pool));
    assert!(left.into_iter().all(|handle| matches!(handle.wait().value, Err(TaskError::Cancelled))));
}

#[test]
fn a_pool_that_cannot_start_says_why() {
    let bad = pool_of("double").specs([popen(), popen().worker("/nonexistent/worker")]).build();
    assert!(matches!(bad, Err(PoolError::Gateway(_))), "{bad:?}");
    let module = sandgate::Module::from_bytes(*b"no module").unwrap();
    let bad = Pool::builder(&module).group(builder()).spec(popen()).gateways(2).build();
    assert!(matches!(bad, Err(PoolError::Module(_))), "{bad:?}");
}
