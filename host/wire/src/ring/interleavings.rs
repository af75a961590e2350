//! Every interleaving of a producer and a consumer, as far as a model checker can follow them, with the reorderings that the
//! memory orderings allow.
//!
//! What is checked: bytes cross in order; none is copied in and out at once (its cells would tell); and nobody sleeps for
//! ever (no thread could go on). The bells are a counter under a lock, as the sockets are: a ring is not lost.

use std::io::IoSlice;
use std::sync::atomic::Ordering;

use loom::cell::Cell;
use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::consumer::Consumer;
use super::layout::{Memory, Place, Word};
use super::producer::Producer;

/// Bytes in the ring, so that it is full and empty often.
const CAPACITY: usize = 2;
/// Bytes that cross.
const TOTAL: u8 = 3;

struct Shared {
    words: [AtomicU64; 4],
    bytes: [Cell<u8>; CAPACITY],
}

#[derive(Clone)]
struct View(Arc<Shared>);

impl Word for AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        AtomicU64::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        AtomicU64::store(self, value, ordering);
    }

    fn swap(&self, value: u64, ordering: Ordering) -> u64 {
        AtomicU64::swap(self, value, ordering)
    }
}

impl Memory for View {
    type Word = AtomicU64;

    fn word(&self, place: Place) -> &AtomicU64 {
        &self.0.words[place as usize]
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (cell, byte) in self.0.bytes[offset..].iter().zip(bytes) {
            cell.set(*byte);
        }
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        for (cell, byte) in self.0.bytes[offset..].iter().zip(bytes) {
            *byte = cell.get();
        }
    }

    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// A socket with bytes in it that say nothing: waiting takes them all.
#[derive(Default)]
struct Bell {
    rings: Mutex<usize>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.rung.notify_one();
    }

    fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == 0 {
            rings = self.rung.wait(rings).unwrap();
        }
        *rings = 0;
    }
}

fn produce(view: View, bytes: &Bell, room: &Bell) {
    let mut producer = Producer::new(view);
    let mut next = 1;
    while next <= TOTAL {
        let piece: Vec<u8> = (next..=TOTAL).collect();
        let count = producer.write(&[IoSlice::new(&piece)]).unwrap();
        if count == 0 {
            if producer.about_to_wait().unwrap() {
                room.wait();
                producer.is_awake();
            }
            continue;
        }
        if producer.has_to_ring() {
            bytes.ring();
        }
        next += u8::try_from(count).unwrap();
    }
}

fn consume(view: View, bytes: &Bell, room: &Bell) {
    let mut consumer = Consumer::new(view);
    let mut last = 0;
    while last < TOTAL {
        let mut buffer = [0; CAPACITY];
        let count = consumer.read(&mut buffer).unwrap();
        if count == 0 {
            if consumer.about_to_wait() {
                bytes.wait();
                consumer.is_awake();
            }
            continue;
        }
        if consumer.has_to_ring() {
            room.ring();
        }
        for byte in &buffer[..count] {
            assert_eq!(*byte, last + 1);
            last = *byte;
        }
    }
}

#[test]
fn bytes_cross_in_order_and_nobody_sleeps_for_ever() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Shared { words: Default::default(), bytes: Default::default() };
        let view = View(Arc::new(shared));
        let bells = Arc::new((Bell::default(), Bell::default()));
        let (of_producer, bells_of_producer) = (view.clone(), Arc::clone(&bells));
        let producer = thread::spawn(move || produce(of_producer, &bells_of_producer.0, &bells_of_producer.1));
        consume(view, &bells.0, &bells.1);
        producer.join().unwrap();
    });
}
