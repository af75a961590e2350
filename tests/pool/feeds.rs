//! Streams of tasks in two ends.

use std::time::Duration;

use sandgate::{Pool, TaskError};
use sandgate_tests::{LIMIT, builder, module, popen, within};

use crate::pool_of;

#[test]
fn a_feed_gives_a_result_for_each_input_and_then_ends() {
    let pool =
        Pool::builder(&module("wasi_filter")).program().group(builder()).spec(popen()).gateways(2).build().unwrap();
    let (mut feed, results) = pool.stream_programs();
    assert_eq!((feed.push(*b"a"), feed.skip(), feed.push(*b"c")), (0, 1, 2));
    let skipped = results.recv_timeout(LIMIT).unwrap().unwrap();
    assert!(matches!((skipped.index, skipped.value), (1, Err(TaskError::Cancelled))));
    assert!(matches!(results.recv_timeout(Duration::from_millis(10)), Ok(None)), "what is gathered waits for a flush");
    feed.flush();
    let mut outputs: Vec<(u64, Vec<u8>)> = (0..2)
        .map(|_| results.recv_timeout(LIMIT).unwrap().unwrap())
        .map(|result| (result.index, result.value.unwrap().stdout))
        .collect();
    outputs.sort();
    assert_eq!(outputs, [(0, b"A".to_vec()), (2, b"C".to_vec())]);
    let feeder = std::thread::Builder::new().name("feeder".to_owned()).spawn(move || {
        (0..1000_u64).for_each(|number| assert_eq!(feed.push(number.to_string()), number + 3));
    });
    let count = within(LIMIT, "the end of the results", move || {
        std::iter::from_fn(|| results.recv_timeout(LIMIT).ok().flatten()).filter(|result| result.value.is_ok()).count()
    });
    assert_eq!(count, 1000);
    feeder.unwrap().join().unwrap();
}

#[test]
fn values_of_a_feed_are_bytes() {
    let pool = pool_of("add").build().unwrap();
    let (mut feed, results) = pool.stream_encoded();
    feed.push([3, 4]);
    drop(feed);
    assert_eq!(results.recv_timeout(LIMIT).unwrap().unwrap().value.unwrap(), [7]);
    assert!(results.recv_timeout(LIMIT).is_err());
    let nothing = pool_of("nothing").build().unwrap();
    let (mut feed, results) = nothing.stream_encoded();
    feed.push([3]);
    drop(feed);
    assert_eq!(results.recv_timeout(LIMIT).unwrap().unwrap().value.unwrap(), Vec::<u8>::new());
}

#[test]
fn results_that_nobody_wants_are_cancelled() {
    let pool = pool_of("slowly").build().unwrap();
    let (mut feed, results) = pool.stream_encoded();
    // Twice 1, in a minute.
    (0..100).for_each(|index| assert_eq!(feed.push([1, 0xe0, 0xd4, 0x03]), index));
    feed.flush();
    drop(results);
    assert_eq!(pool.submit::<u64>(&(4_u64, 0_u64)).wait_timeout(LIMIT).unwrap().value.unwrap(), 8);
    assert_eq!(pool.stats().failed(), 100);
}
