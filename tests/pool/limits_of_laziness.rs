//! Iterators that are endless, dropped, cancelled or that panic; and what is left after it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sandgate::{TaskError, TaskResult};
use sandgate_tests::{LIMIT, eventually};

use crate::pool_of;

#[test]
fn endless_inputs_are_pulled_as_they_are_needed() {
    let pool = pool_of("double").build().unwrap();
    for ordered in [true, false] {
        let pulled = Cell::new(0_u64);
        let inputs = (0..).inspect(|_: &u64| pulled.set(pulled.get() + 1));
        let check = |given: u64| {
            assert!(pulled.get() <= given + 4096, "{} inputs were pulled for {given} results", pulled.get());
        };
        let take = |results: &mut dyn Iterator<Item = TaskResult<u64>>| {
            for given in 1..=5000 {
                results.next().unwrap().value.unwrap();
                check(given);
            }
        };
        match ordered {
            true => take(&mut pool.map(inputs)),
            false => take(&mut pool.map_unordered(inputs)),
        }
    }
    eventually(LIMIT, "the tasks of dropped iterators to be over", || pool.stats().unfinished == 0);
    assert_eq!(pool.submit::<u64>(&4_u64).wait().value.unwrap(), 8);
}

#[test]
fn a_slow_head_holds_back_no_more_than_a_window() {
    let pool = pool_of("slowly").window(50).build().unwrap();
    let pulled = Cell::new(0_u64);
    let inputs = (0..200_u64).map(|x| (x, if x == 0 { 300 } else { 0 })).inspect(|_| pulled.set(pulled.get() + 1));
    let mut results = pool.map::<_, u64>(inputs);
    assert_eq!(results.next().unwrap().index, 0);
    assert!(pulled.get() <= 50, "{}", pulled.get());
    assert_eq!(results.count(), 199);
}

#[test]
fn large_inputs_are_bounded_by_their_bytes() {
    let pool = pool_of("size").buffer_bytes(4 << 20).build().unwrap();
    let pulled = Cell::new(0_usize);
    let inputs = (0..64).map(|_| vec![0_u8; 1 << 20]).inspect(|_| pulled.set(pulled.get() + 1));
    for (given, result) in (1..).zip(pool.map_unordered::<_, usize>(inputs)) {
        assert_eq!(result.value.unwrap(), 1 << 20);
        assert!(pulled.get() <= given + 6, "{} for {given}", pulled.get());
    }
    assert_eq!(pulled.get(), 64);
}

#[test]
fn inputs_that_panic_are_not_asked_again() {
    let pool = pool_of("double").build().unwrap();
    let inputs = (0..1000_u64).inspect(|&x| assert!(x < 500, "input {x}"));
    let mut results = pool.map::<_, u64>(inputs);
    let mut given = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| results.by_ref().for_each(|_| given += 1)));
    assert!(panicked.is_err() && given < 500, "{given}");
    // What had been pulled still comes, as far as it was handed over.
    assert!(results.all(|result| result.value.is_ok()));
    drop(results);
    assert_eq!(pool.submit::<u64>(&4_u64).wait().value.unwrap(), 8);
}

#[test]
fn a_token_stops_everything() {
    let pool = pool_of("slowly").build().unwrap();
    let token = pool.cancel_token();
    let (mut values, mut cancelled) = (0_u64, 0_u64);
    for result in pool.map::<_, u64>((0..).map(|x: u64| (x, if x < 20 { 0 } else { 60_000 }))) {
        match result.value {
            Ok(_) => values += 1,
            Err(TaskError::Cancelled) => cancelled += 1,
            Err(other) => panic!("{other}"),
        }
        if values == 20 {
            token.cancel();
        }
    }
    assert!(values == 20 && cancelled > 0 && token.is_cancelled());
    assert!(matches!(pool.submit::<u64>(&(1_u64, 0_u64)).wait().value, Err(TaskError::Cancelled)));
    assert!(pool.map::<_, u64>([(1_u64, 0_u64)]).next().is_none(), "nothing is pulled any more");
}
