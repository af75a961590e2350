//! Messages as large as they may be, and small ones beside them.

use sandgate::{Event, MultiChannel, SendError};
use sandgate_tests::{LIMIT, assert_echoes, group, run, run_with, sibling};

/// The default limit of a message.
const MAX: usize = 64 << 20;

#[test]
fn the_largest_message_goes_both_ways() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo");
    let mut message: Vec<u8> = (0..MAX).map(|at| u8::try_from((at ^ (at >> 12)) & 0xff).unwrap()).collect();
    for round in 0..2 {
        message[0] = round;
        channel.send_bytes_timeout(message.clone(), LIMIT).unwrap();
        assert!(channel.receive_bytes_timeout(LIMIT).unwrap() == message, "what comes back is not what was sent");
    }
    message.push(0);
    match channel.send_bytes(message) {
        Err(SendError::TooLarge { length, limit }) => assert_eq!((length, limit), (MAX + 1, MAX as u64)),
        other => panic!("{other:?}"),
    }
    assert_echoes(&channel);
}

#[test]
fn a_small_message_is_not_stuck_behind_a_large_one_to_the_guest() {
    let group = group(&["popen"]);
    let (small, large) = (sibling(&group[0]), run(&group[0], "echo"));
    let queue = MultiChannel::new([small.clone(), large.clone()]).make_receive_queue::<Vec<()>>().unwrap();
    // A vector of nothing is its length alone, so the echo of the large message is no such thing; who sent it is seen first.
    large.send_bytes_timeout(vec![0xff; MAX], LIMIT).unwrap();
    small.send(&vec![(); 3]).unwrap();
    let (channel, event) = queue.get_timeout(LIMIT).unwrap();
    assert_eq!(channel, small, "the echo of the small message comes first");
    assert_eq!(event, Event::Item(vec![(); 3]));
}

#[test]
fn a_small_message_is_not_stuck_behind_a_large_one_to_the_host() {
    let group = group(&["popen"]);
    let (small, large) = (sibling(&group[0]), run_with(&group[0], "sends_big", &u32::try_from(MAX).unwrap()));
    large.send(&()).unwrap();
    assert_eq!(large.receive_bytes_timeout(LIMIT).unwrap(), b"", "the guest is about to send the large message");
    assert_echoes(&small);
    assert_eq!(large.try_receive::<Vec<u8>>().unwrap(), None, "ten echoes overtake it");
    assert_eq!(large.receive_bytes_timeout(LIMIT).unwrap().len(), MAX);
}
