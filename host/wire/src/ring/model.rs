//! A ring against a queue of bytes, step by step; and both halves over real memory and sockets, with threads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::fd::AsFd;
use std::thread;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof};
use rustix::event::PollFlags;
use rustix::fs::memfd_create;

use super::consumer::Consumer;
use super::layout::{Memory, Place, Ring, total_bytes};
use super::memory::Mapping;
use super::producer::Producer;
use super::*;
use crate::transport::{ReceiveHalf, SendHalf, socket_pair, wait};

const SMALL: usize = 64;

/// Two views of the same memory, as two processes have them.
fn two_views(capacity: usize) -> [Ring; 2] {
    let memory = memfd_create("rings", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, total_bytes(capacity) as u64).unwrap();
    [(); 2].map(|()| Ring::both(Mapping::new(memory.as_fd(), total_bytes(capacity)).unwrap(), capacity).0)
}

/// A host's and a worker's halves.
struct Pair {
    host: (RingSendHalf, RingReceiveHalf),
    worker: Accepted,
}

fn pair() -> Pair {
    let (ours, theirs) = socket_pair().unwrap();
    let host = offer(ours).map_err(|(error, _)| error).unwrap();
    Pair { host, worker: accept(theirs).unwrap() }
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        sizes: Vec<usize>,
        lazily: bool,
    },
    /// The producer has nothing more to say for now.
    WakeConsumer,
    Read(usize),
    ConsumerSleeps,
    ConsumerDozes,
    ConsumerSleepsFromHere,
    ProducerSleeps,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (proptest::collection::vec(0..SMALL + 8, 1..4), any::<bool>())
            .prop_map(|(sizes, lazily)| Step::Write { sizes, lazily }),
        4 => (0..SMALL + 8).prop_map(Step::Read),
        1 => proptest::strategy::Just(Step::WakeConsumer),
        1 => proptest::strategy::Just(Step::ConsumerSleeps),
        1 => proptest::strategy::Just(Step::ConsumerDozes),
        1 => proptest::strategy::Just(Step::ConsumerSleepsFromHere),
        1 => proptest::strategy::Just(Step::ProducerSleeps),
    ];
    proptest::collection::vec(step, 0..200)
}

/// What the consumer has said, and nobody has answered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Said {
    Nothing,
    Sleeps,
    Dozes,
}

proptest::proptest! {
    #[test]
    fn a_ring_is_a_queue_of_bytes(steps in steps()) {
        let [write, read] = two_views(SMALL);
        let (mut producer, consumer) = (Producer::new(write), Consumer::new(read));
        let mut queue: VecDeque<u8> = VecDeque::new();
        let mut next = 0_u8;
        let (mut consumer, mut said, mut producer_sleeps) = (consumer, Said::Nothing, false);
        for step in steps {
            match step {
                Step::Write { sizes, lazily } => {
                    let parts: Vec<Vec<u8>> = sizes.iter().map(|size| (0..*size).map(|_| { next = next.wrapping_add(1); next }).collect()).collect();
                    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
                    let whole = parts.concat();
                    let written = producer.write(&slices).unwrap();
                    prop_assert_eq!(written, whole.len().min(SMALL - queue.len()));
                    queue.extend(&whole[..written]);
                    let rings = written > 0 && if lazily { producer.has_to_ring_lazily() } else { producer.has_to_ring() };
                    let is_left_alone = lazily && said == Said::Dozes && queue.len() <= SMALL / 2;
                    prop_assert_eq!(rings, written > 0 && said != Said::Nothing && !is_left_alone);
                    if rings {
                        said = Said::Nothing;
                    }
                }
                Step::WakeConsumer => {
                    prop_assert_eq!(producer.has_to_ring(), said != Said::Nothing);
                    said = Said::Nothing;
                }
                Step::Read(size) => {
                    let mut peeked = vec![0; size];
                    let there = consumer.peek(&mut peeked).unwrap();
                    let mut buffer = vec![0; size];
                    let count = consumer.read(&mut buffer).unwrap();
                    prop_assert_eq!(count, size.min(queue.len()));
                    prop_assert_eq!(&buffer, &peeked);
                    prop_assert_eq!(there, count);
                    prop_assert!(queue.drain(..count).eq(buffer[..count].iter().copied()));
                    let rings = consumer.has_to_ring();
                    prop_assert_eq!(rings, producer_sleeps && SMALL - queue.len() >= SMALL / 2);
                    producer_sleeps &= !rings;
                }
                Step::ConsumerSleeps => {
                    said = if consumer.about_to_wait() { Said::Sleeps } else { Said::Nothing };
                    prop_assert_eq!(said == Said::Sleeps, queue.is_empty());
                }
                Step::ConsumerDozes => {
                    said = if consumer.about_to_doze() { Said::Dozes } else { Said::Nothing };
                    prop_assert_eq!(said == Said::Dozes, queue.is_empty());
                }
                // Whoever says this reads what is there, and leaves it at what it has said.
                Step::ConsumerSleepsFromHere => {
                    said = Said::Sleeps;
                    prop_assert_eq!(consumer.sleeps_from_here(), queue.is_empty());
                }
                Step::ProducerSleeps => {
                    producer_sleeps = producer.about_to_wait().unwrap();
                    prop_assert_eq!(producer_sleeps, SMALL - queue.len() < SMALL / 2);
                }
            }
            prop_assert_eq!(consumer.has_something(), !queue.is_empty());
            prop_assert_eq!(producer.room().unwrap(), SMALL - queue.len());
        }
    }

    /// Whatever a peer writes into the words, this side reads what can be or says what cannot.
    #[test]
    fn no_word_of_a_peer_is_believed(
        words in proptest::collection::vec((any::<bool>(), prop_oneof![any::<u64>(), 0..200_u64]), 1..50),
        size in 0..2 * SMALL,
    ) {
        let [write, read] = two_views(SMALL);
        let peer = read.clone();
        let mut producer = Producer::new(write.clone());
        let mut consumer = Consumer::new(read);
        let (mut written, mut taken) = (0_u64, 0_u64);
        for (of_tail, value) in words {
            let mut buffer = vec![0; size];
            if of_tail {
                peer.word(Place::Tail).store(value, std::sync::atomic::Ordering::Relaxed);
                match consumer.read(&mut buffer) {
                    Ok(count) => {
                        prop_assert!(value - taken <= SMALL as u64 && count as u64 <= value - taken);
                        taken += count as u64;
                    }
                    Err(violation) => prop_assert!(
                        violation.found == value && (value < violation.least || value > violation.most)
                    ),
                }
            } else {
                peer.word(Place::Head).store(value, std::sync::atomic::Ordering::Relaxed);
                match producer.write(&[IoSlice::new(&buffer)]) {
                    Ok(count) => {
                        prop_assert!(count <= SMALL);
                        written += count as u64;
                    }
                    Err(violation) => prop_assert!(
                        violation.found == value && (value < violation.least || value > written)
                    ),
                }
            }
        }
    }
}

#[test]
fn positions_do_not_go_back() {
    let [write, read] = two_views(SMALL);
    let peer = write.clone();
    let mut producer = Producer::new(write);
    let mut consumer = Consumer::new(read);
    producer.write(&[IoSlice::new(&[7; 10])]).unwrap();
    assert_eq!(consumer.read(&mut [0; 4]), Ok(4));
    peer.word(Place::Tail).store(9, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(consumer.look(), Err(Violation { found: 9, least: 10, most: 4 + SMALL as u64 }));
    assert_eq!(producer.room(), Ok(SMALL - 6));
    peer.word(Place::Head).store(3, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(producer.room(), Err(Violation { found: 3, least: 4, most: 10 }));
}

#[test]
fn bytes_and_descriptors_cross_in_both_directions() {
    let Pair { host: (send, mut receive), mut worker } = pair();
    let mut file = tempfile();
    io::Write::write_all(&mut file, b"of the host").unwrap();
    assert_eq!(send.try_write(&[IoSlice::new(b"ab"), IoSlice::new(b"c")], Some(file.as_fd())).unwrap(), 3);
    let mut buffer = [0; 8];
    assert_eq!(worker.receive.read(&mut buffer, true).unwrap(), 3);
    assert_eq!(&buffer[..3], b"abc");
    let mut taken = File::from(worker.receive.take_descriptor().unwrap());
    io::Seek::rewind(&mut taken).unwrap();
    assert_eq!(io::read_to_string(taken).unwrap(), "of the host");
    assert!(worker.receive.take_descriptor().is_none());

    // A host takes none.
    assert_eq!(worker.send.try_write(&[IoSlice::new(b"back")], Some(file.as_fd())).unwrap(), 4);
    assert_eq!(receive.read(&mut buffer, true).unwrap(), 4);
    assert!(receive.take_descriptor().is_none());
}

fn tempfile() -> File {
    memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

#[test]
fn what_a_host_has_said_can_be_looked_at() {
    let (ours, theirs) = socket_pair().unwrap();
    let (send, _receive) = offer(ours).map_err(|(error, _)| error).unwrap();
    send.try_write(&[IoSlice::new(b"hello")], None).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(peek(theirs.as_fd(), &mut buffer).unwrap(), 5);
    let mut worker = accept(theirs).unwrap();
    assert_eq!(worker.receive.read(&mut buffer, true).unwrap(), 5);
    assert_eq!(&buffer[..5], b"hello");
}

#[test]
fn a_socket_is_taken_for_what_it_is() {
    let (ours, theirs) = socket_pair().unwrap();
    let (send, mut receive) = crate::transport::unix_socket(ours, crate::transport::Descriptors::Refuse);
    send.try_write(&[IoSlice::new(&[1; 20])], None).unwrap();
    let mut buffer = [0; 32];
    assert_eq!(peek(theirs.as_fd(), &mut buffer).unwrap(), 20);
    let mut worker = accept(theirs).unwrap();
    assert_eq!(worker.descriptors.len(), 1);
    assert_eq!(worker.receive.read(&mut buffer, true).unwrap(), 20);
    worker.send.try_write(&[IoSlice::new(b"x")], None).unwrap();
    assert_eq!(receive.read(&mut buffer, true).unwrap(), 1);
}

#[test]
fn a_full_ring_says_so_and_shutdown_wakes_both_halves() {
    let Pair { host: (send, mut receive), worker } = pair();
    let chunk = vec![0; 64 * 1024];
    let full = (0..1000).find_map(|_| send.try_write(&[IoSlice::new(&chunk)], None).err()).unwrap();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    assert_eq!(receive.read(&mut [0; 8], false).unwrap_err().kind(), ErrorKind::WouldBlock);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| send.wait_writable());
        let reading = scope.spawn(move || receive.read(&mut [0; 8], true));
        send.shutdown();
        // That the connection is gone may be told, or found out with the next write.
        let _ = waiting.join().unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), 0);
    });
    assert!(send.try_write(&[IoSlice::new(b"x")], None).is_err());
    drop(worker);
}

#[test]
fn what_a_peer_wrote_before_its_end_is_read() {
    let Pair { host: (_send, mut receive), worker } = pair();
    worker.send.try_write(&[IoSlice::new(b"last words")], None).unwrap();
    drop(worker);
    let mut buffer = [0; 4];
    let mut heard = Vec::new();
    loop {
        match receive.read(&mut buffer, true).unwrap() {
            0 => break,
            count => heard.extend_from_slice(&buffer[..count]),
        }
    }
    assert_eq!(heard, b"last words");
}

#[test]
fn who_wrote_nothing_wrong_but_hung_up_is_no_offender_and_who_did_is() {
    let Pair { host: (send, mut receive), worker } = pair();
    worker.send.shutdown();
    assert_eq!(receive.read(&mut [0; 8], true).unwrap(), 0);
    drop(send);

    // The half that sends finds it, the half that receives tells.
    let (ours, theirs) = socket_pair().unwrap();
    let (send, mut receive) = offer(ours).map_err(|(error, _)| error).unwrap();
    let (memory, _room, capacity) = handover::taken(theirs.as_fd(), rustix::net::RecvFlags::empty()).unwrap().unwrap();
    let (to_worker, _) = Ring::both(Mapping::new(memory.as_fd(), total_bytes(capacity)).unwrap(), capacity);
    to_worker.word(Place::Head).store(1 << 40, std::sync::atomic::Ordering::Relaxed);
    let chunk = vec![0; 2 * CAPACITY_BYTES];
    assert_eq!(send.try_write(&[IoSlice::new(&chunk)], None).unwrap_err().kind(), ErrorKind::InvalidData);
    send.shutdown();
    assert_eq!(receive.read(&mut [0; 8], true).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn the_memory_keeps_its_size() {
    let (ours, theirs) = socket_pair().unwrap();
    let _halves = offer(ours).map_err(|(error, _)| error).unwrap();
    let (memory, _room, capacity) = handover::taken(theirs.as_fd(), rustix::net::RecvFlags::empty()).unwrap().unwrap();
    for size in [0, total_bytes(capacity) as u64 - 1, total_bytes(capacity) as u64 + 1] {
        assert!(rustix::fs::ftruncate(&memory, size).is_err());
    }
    let mut whole = Vec::new();
    File::from(memory).read_to_end(&mut whole).unwrap();
    assert!(whole.len() == total_bytes(capacity) && whole.iter().all(|byte| *byte == 0));
}

#[test]
fn a_bell_rings_for_bytes_and_for_the_end_and_is_silenced_by_a_read() {
    let Pair { host: (_send, mut receive), worker } = pair();
    let rings = |receive: &RingReceiveHalf, patience| {
        wait(receive.bell().unwrap(), PollFlags::IN, Some(std::time::Duration::from_millis(patience))).unwrap()
    };
    assert!(receive.about_to_wait());
    assert_eq!(receive.look(), Some(false));
    assert!(!rings(&receive, 0));
    worker.send.try_write(&[IoSlice::new(b"x")], None).unwrap();
    assert!(rings(&receive, 10_000));
    assert_eq!(receive.look(), Some(true));
    assert!(!receive.about_to_wait(), "there is something already");
    assert_eq!(receive.read(&mut [0; 8], false).unwrap(), 1);
    assert_eq!(receive.read(&mut [0; 8], false).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Nobody sleeps, so nobody is rung for.
    worker.send.try_write(&[IoSlice::new(b"x")], None).unwrap();
    assert_eq!(receive.read(&mut [0; 8], false).unwrap(), 1);
    while receive.about_to_wait() && rings(&receive, 0) {
        assert_eq!(receive.read(&mut [0; 8], false).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    drop(worker);
    assert!(rings(&receive, 10_000));
    assert_eq!(receive.read(&mut [0; 8], false).unwrap(), 0);
    assert!(!receive.about_to_wait());
    assert_eq!(receive.look(), Some(true), "the end is something to read");
}

#[test]
fn who_dozes_is_woken_for_what_cannot_wait_and_for_half_a_ring() {
    let Pair { host: (_send, mut receive), worker } = pair();
    let bell = receive.own_bell().unwrap();
    let rings = || wait(bell.as_fd(), PollFlags::IN, Some(std::time::Duration::ZERO)).unwrap();
    let lazily = |bytes: &[u8]| worker.send.try_write_lazily(&[IoSlice::new(bytes)], None).unwrap();
    let mut buffer = vec![0; CAPACITY_BYTES];
    assert_eq!(receive.about_to_doze(), Some(true));
    lazily(b"later");
    assert!(!rings());
    assert_eq!(receive.read(&mut buffer, false).unwrap(), 5, "another thread takes it");
    lazily(b"later");
    worker.send.try_write(&[IoSlice::new(b"now")], None).unwrap();
    assert!(rings());
    receive.has_dozed().unwrap();
    assert!(!rings());
    assert_eq!(receive.about_to_doze(), Some(false), "there is something already");
    assert_eq!(receive.read(&mut buffer, false).unwrap(), 8);
    assert_eq!(receive.about_to_doze(), Some(true));
    lazily(&vec![0; CAPACITY_BYTES / 2]);
    assert!(!rings());
    lazily(b"x");
    assert!(rings());
    receive.has_dozed().unwrap();
    assert_eq!(receive.read(&mut buffer, false).unwrap(), CAPACITY_BYTES / 2 + 1);
    // Its peer runs dry.
    assert_eq!(receive.about_to_doze(), Some(true));
    lazily(b"last");
    assert!(!rings());
    worker.send.wake_peer().unwrap();
    assert!(rings());
    receive.has_dozed().unwrap();
    worker.send.wake_peer().unwrap();
    assert!(!rings(), "it is awake");
    assert_eq!(receive.read(&mut buffer, false).unwrap(), 4);
    // Who looks after it ceases to.
    assert_eq!(receive.about_to_doze(), Some(true));
    lazily(b"x");
    assert!(!receive.sleeps_from_here(), "this is for whoever asks to read");
    assert_eq!(receive.read(&mut buffer, false).unwrap(), 1);
    assert!(receive.sleeps_from_here() && !rings());
    lazily(b"x");
    assert!(rings());
    receive.has_dozed().unwrap();
    assert_eq!(receive.read(&mut buffer, false).unwrap(), 1);
    assert_eq!(receive.about_to_doze(), Some(true));
    drop(worker);
    assert!(rings(), "the end cannot wait");
    receive.has_dozed().unwrap();
    assert_eq!(receive.read(&mut buffer, false).unwrap(), 0);
    assert_eq!(receive.about_to_doze(), Some(false));
}

/// Both directions at once, more than the rings hold, in pieces that do not fit; whoever can sleep does.
#[test]
fn much_crosses_in_order_in_both_directions() {
    const TOTAL: usize = 20 * CAPACITY_BYTES + 7;
    let Pair { host: (send, receive), worker: Accepted { send: worker_send, receive: worker_receive, .. } } = pair();
    let sends = |half: &dyn SendHalf| {
        let bytes: Vec<u8> = (0..=250).cycle().take(251 * 400).collect();
        let mut position = 0;
        while position < TOTAL {
            let piece = (1 + position * 7 % 90_000).min(TOTAL - position);
            let start = position % 251;
            match half.try_write(&[IoSlice::new(&bytes[start..start + piece])], None) {
                Ok(count) => position += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => half.wait_writable().unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let receives = |mut half: Box<dyn ReceiveHalf>| {
        let mut position = 0;
        let mut buffer = vec![0; 70_001];
        while position < TOTAL {
            let size = 1 + position * 11 % buffer.len();
            let count = half.read(&mut buffer[..size], true).unwrap();
            assert_ne!(count, 0);
            assert!(buffer[..count].iter().enumerate().all(|(at, byte)| usize::from(*byte) == (position + at) % 251));
            position += count;
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| sends(&send));
        scope.spawn(|| sends(&*worker_send));
        scope.spawn(|| receives(Box::new(receive)));
        scope.spawn(|| receives(worker_receive));
    });
}
