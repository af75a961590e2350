//! A pool over scripted workers: what they say late, twice or not at all, and where they go.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{ChannelId, Outcome, ToWorker};

use crate::fake_worker::{PATIENCE, Stage, done, eventually, module};
use crate::pool::{Begin, Machines, Made, Maker, OutcomeKind, Pool, PoolError, TaskError, TaskHandle};
use crate::spec::Spec;

/// Makes gateways to scripted workers, and gives the workers to the test.
struct Scripted {
    stages: Sender<Stage>,
}

impl Maker for Scripted {
    fn make(&self, _lane: usize) -> Result<Made, PoolError> {
        let stage = Stage::with(Spec::popen().executions(1));
        let made = Made { gateway: stage.gateway(), group: None, more: 0 };
        self.stages.send(stage).expect("the test waits for it");
        Ok(made)
    }

    fn make_spare(&self, _number: u64) -> Result<Made, PoolError> {
        self.make(0)
    }

    fn grow(&self, _lane: usize, _more: usize) {
        unreachable!("it has said that there are no more");
    }
}

/// A pool of one gateway, and its workers, the first of which is there.
fn pool(max_losses: u32) -> (Pool, Stage, Receiver<Stage>) {
    pool_with_spares(max_losses, 0)
}

fn pool_with_spares(max_losses: u32, spares: usize) -> (Pool, Stage, Receiver<Stage>) {
    let (stages, workers) = unbounded();
    let builder = Pool::builder(&module()).max_losses(max_losses).spares(spares);
    let pool = builder
        .build_over(vec![Spec::popen()], Arc::new(Scripted { stages }), &Machines::after(1), Begin::WithAll)
        .unwrap();
    let first = next(&workers);
    (pool, first, workers)
}

fn next(workers: &Receiver<Stage>) -> Stage {
    workers.recv_timeout(PATIENCE).expect("a worker is started")
}

impl Stage {
    /// The next execution, whose value will be sent.
    fn begins(&mut self) -> u64 {
        self.worker.expect_execute().0
    }

    fn returns(&mut self, channel: u64, value: u8) {
        self.worker.data(channel, &[value]);
        self.worker.send(&done(channel, Outcome::Returned));
    }
}

fn value(handle: TaskHandle<u8>) -> Result<u8, TaskError> {
    handle.wait_timeout(PATIENCE).expect("a result in time").value
}

/// The connections of stages are over before the stages look whether anything is left.
fn end(pool: Pool, stages: Vec<Stage>) {
    let mut stages = stages;
    stages.iter_mut().for_each(|stage| stage.worker.hang_up_if_there());
    drop(pool);
}

#[test]
fn what_was_answered_before_the_worker_went_counts() {
    let (pool, mut first, workers) = pool(3);
    let handles: Vec<TaskHandle<u8>> = (0..2_u8).map(|x| pool.submit(&x)).collect();
    let channels = [first.begins(), first.begins()];
    first.returns(channels[0], 10);
    // A value without an end is none.
    first.worker.data(channels[1], &[99]);
    first.worker.hang_up();
    let mut second = next(&workers);
    let channel = second.begins();
    second.returns(channel, 11);
    let values: Vec<u8> = handles.into_iter().map(|handle| value(handle).unwrap()).collect();
    assert_eq!(values, [10, 11]);
    end(pool, vec![first, second]);
}

#[test]
fn a_worker_that_answers_twice_is_lost_and_no_result_is_doubled() {
    let (pool, mut first, workers) = pool(3);
    let handles: Vec<TaskHandle<u8>> = (0..2_u8).map(|x| pool.submit(&x)).collect();
    let channels = [first.begins(), first.begins()];
    first.returns(channels[0], 10);
    first.worker.send(&done(channels[0], Outcome::Returned));
    let mut second = next(&workers);
    let channel = second.begins();
    second.returns(channel, 11);
    let values: Vec<u8> = handles.into_iter().map(|handle| value(handle).unwrap()).collect();
    assert_eq!(values, [10, 11]);
    end(pool, vec![first, second]);
}

#[test]
fn the_input_alone_on_its_worker_is_poisonous_after_so_many_losses() {
    let (pool, mut worker, workers) = pool(2);
    let poison = pool.submit::<u8>(&0_u8);
    let mut gone = Vec::new();
    for _ in 0..2 {
        worker.begins();
        worker.worker.hang_up();
        gone.push(worker);
        worker = next(&workers);
    }
    match value(poison) {
        Err(TaskError::Poisonous { attempts, .. }) => assert_eq!(attempts, 2),
        other => panic!("{other:?}"),
    }
    let other = pool.submit::<u8>(&1_u8);
    let channel = worker.begins();
    worker.returns(channel, 5);
    assert_eq!(value(other).unwrap(), 5);
    gone.push(worker);
    end(pool, gone);
}

#[test]
fn a_worker_that_went_while_idle_is_replaced_when_it_is_needed() {
    let (pool, mut first, workers) = pool(1);
    first.worker.hang_up();
    first.loss();
    let handle = pool.submit::<u8>(&1_u8);
    let mut second = next(&workers);
    let channel = second.begins();
    second.returns(channel, 7);
    let result = handle.wait_timeout(PATIENCE).expect("a result in time");
    assert_eq!((result.value.unwrap(), result.attempts), (7, 1), "the loss was nobody's fault");
    end(pool, vec![first, second]);
}

#[test]
fn a_cancelled_run_is_told_to_end_and_its_answer_is_dropped() {
    let (pool, mut first, _workers) = pool(1);
    let (running, waiting) = (pool.submit::<u8>(&1_u8), pool.submit::<u8>(&2_u8));
    let channels = [first.begins(), first.begins()];
    running.cancel();
    let kill = ToWorker::Kill(ChannelId(channels[0]), KilledBy::Kill);
    first.worker.expect(&kill);
    assert!(matches!(value(running), Err(TaskError::Cancelled)));
    // It ended well in the same moment.
    first.returns(channels[0], 1);
    first.returns(channels[1], 2);
    assert_eq!(value(waiting).unwrap(), 2);
    let stats = pool.stats();
    assert_eq!((stats.done, stats.failed), (1, vec![(OutcomeKind::Cancelled, 1)]));
    end(pool, vec![first]);
}

#[test]
fn a_run_that_does_not_end_when_it_is_told_costs_its_worker() {
    let (stages, workers) = unbounded();
    let spec = Spec::popen().with_grace(Duration::from_millis(20));
    let builder = Pool::builder(&module()).spares(0);
    let pool =
        builder.build_over(vec![spec], Arc::new(Scripted { stages }), &Machines::after(1), Begin::WithAll).unwrap();
    let mut first = next(&workers);
    let (deaf, waiting) = (pool.submit::<u8>(&1_u8), pool.submit::<u8>(&2_u8));
    first.begins();
    first.begins();
    deaf.cancel();
    first.worker.drain();
    let mut second = next(&workers);
    let channel = second.begins();
    second.returns(channel, 2);
    let result = waiting.wait_timeout(PATIENCE).expect("a result in time");
    assert_eq!((result.value.unwrap(), result.attempts), (2, 1));
    end(pool, vec![first, second]);
}

#[test]
fn a_spare_takes_the_place_of_a_lost_worker_and_is_replaced_itself() {
    let (pool, mut first, workers) = pool_with_spares(3, 1);
    // It is started without being needed, and nothing is run on it.
    let mut second = next(&workers);
    let handle = pool.submit::<u8>(&1_u8);
    first.begins();
    first.worker.hang_up();
    let channel = second.begins();
    second.returns(channel, 7);
    let result = handle.wait_timeout(PATIENCE).expect("a result in time");
    assert_eq!(result.value.unwrap(), 7);
    // The next spare dies before it is needed: the lane gets one that is started then.
    let mut third = next(&workers);
    eventually("the pool knows its spare", || pool.stats().spares == 1);
    third.worker.hang_up();
    third.loss();
    second.worker.hang_up();
    second.loss();
    let handle = pool.submit::<u8>(&1_u8);
    let mut fourth = next(&workers);
    let channel = fourth.begins();
    fourth.returns(channel, 8);
    assert_eq!(value(handle).unwrap(), 8);
    let fifth = next(&workers);
    assert_eq!(pool.stats().gateways[0].workers, 3);
    end(pool, vec![first, second, third, fourth, fifth]);
}

#[test]
fn a_worker_that_takes_back_what_nobody_asked_for_is_lost() {
    let (pool, mut worker, workers) = pool(1);
    let handle = pool.submit::<u8>(&1_u8);
    let channel = worker.begins();
    worker.worker.send(&done(channel, Outcome::Killed { by: KilledBy::Recall, started: false }));
    let loss = match value(handle) {
        Err(TaskError::Poisonous { loss, .. }) => loss,
        other => panic!("{other:?}"),
    };
    assert!(loss.to_string().contains("ended a run that nobody had stopped"), "{loss}");
    let mut second = next(&workers);
    let other = pool.submit::<u8>(&1_u8);
    let channel = second.begins();
    second.returns(channel, 5);
    assert_eq!(value(other).unwrap(), 5);
    end(pool, vec![worker, second]);
}
