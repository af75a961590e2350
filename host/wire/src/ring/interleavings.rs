//! Every interleaving of a producer and a consumer, as far as a model checker can follow them, with the reorderings that the
//! memory orderings allow.
//!
//! Once with a consumer alone; once with one that dozes while another thread looks, as in a worker; and with one that dozes and
//! looks by itself now and then, as in a host, which a producer that runs dry wakes.
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
    bytes: Vec<Cell<u8>>,
}

impl Shared {
    fn new(capacity: usize) -> Shared {
        Shared { words: Default::default(), bytes: (0..capacity).map(|_| Cell::default()).collect() }
    }
}

#[derive(Clone)]
struct View(Arc<Shared>);

impl Word for AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        AtomicU64::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        // As a swap: the checker does not know that a swap stands right behind what it has read, and would otherwise order a
        // store, which came later, before it.
        AtomicU64::swap(self, value, ordering);
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
        self.0.bytes.len()
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

fn consume(view: View, bytes: &Bell, room: &Bell, appends: bool) {
    let mut consumer = Consumer::new(view);
    let mut last = 0;
    while last < TOTAL {
        let mut buffer = Vec::with_capacity(CAPACITY);
        let count = if appends {
            consumer.append(&mut buffer, CAPACITY).unwrap()
        } else {
            buffer.resize(CAPACITY, 0);
            consumer.read(&mut buffer).unwrap()
        };
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
    bytes_cross(false);
    bytes_cross(true);
}

fn bytes_cross(appends: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let view = View(Arc::new(Shared::new(CAPACITY)));
        let bells = Arc::new((Bell::default(), Bell::default()));
        let (of_producer, bells_of_producer) = (view.clone(), Arc::clone(&bells));
        let producer = thread::spawn(move || produce(of_producer, &bells_of_producer.0, &bells_of_producer.1));
        consume(view, &bells.0, &bells.1, appends);
        producer.join().unwrap();
    });
}

/// Bytes that cross to a consumer that dozes, through a ring that they do not fill to the half.
const FEW: u8 = 2;
const LARGE_CAPACITY: usize = 4;

/// The main thread of a worker and its executor, which share the reading half. What the lock of the hub protects is in `State`.
#[derive(Default)]
struct State {
    dozes: bool,
    /// The executor does not look any more.
    is_idle: bool,
}

struct Worker {
    consumer: Mutex<Consumer<View>>,
    state: Mutex<State>,
    taken: Mutex<u8>,
}

impl Worker {
    /// Takes what is there, with the consumer locked.
    fn take(&self, consumer: &mut Consumer<View>) -> bool {
        let mut buffer = [0; CAPACITY];
        let count = consumer.read(&mut buffer).unwrap();
        if count > 0 {
            // As whoever reads asks. Here the producer has room.
            assert!(!consumer.has_to_ring());
        }
        let mut taken = self.taken.lock().unwrap();
        for byte in &buffer[..count] {
            assert_eq!(*byte, *taken + 1);
            *taken = *byte;
        }
        count > 0
    }

    fn has_all(&self) -> bool {
        *self.taken.lock().unwrap() == FEW
    }

    /// As `doze` and what it returns to, in the worker's `reading.rs`.
    fn stand(&self, bell: &Bell) {
        let mut consumer = self.consumer.lock().unwrap();
        while !self.has_all() {
            let sleeps = {
                let mut state = self.state.lock().unwrap();
                let sleeps = if state.is_idle { consumer.about_to_wait() } else { consumer.about_to_doze() };
                state.dozes = sleeps && !state.is_idle;
                sleeps
            };
            if sleeps {
                drop(consumer);
                bell.wait();
                self.state.lock().unwrap().dozes = false;
                consumer = self.consumer.lock().unwrap();
                consumer.is_awake();
            }
            self.take(&mut consumer);
        }
    }

    /// As `glance`, until it is idle.
    fn glance(&self) {
        loop {
            {
                let mut state = self.state.lock().unwrap();
                if !state.dozes {
                    state.is_idle = true;
                    return;
                }
            }
            // The worker's only tries, and looks at `dozes` again: nobody keeps it for long then.
            let mut consumer = self.consumer.lock().unwrap();
            if !self.take(&mut consumer) {
                let mut state = self.state.lock().unwrap();
                state.dozes &= !consumer.sleeps_from_here();
            }
        }
    }
}

#[test]
fn what_can_wait_is_taken_by_who_looks_or_wakes_who_sleeps() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let view = View(Arc::new(Shared::new(LARGE_CAPACITY)));
        let bell = Arc::new(Bell::default());
        let consumer = Mutex::new(Consumer::new(view.clone()));
        let worker = Arc::new(Worker { consumer, state: Mutex::default(), taken: Mutex::new(0) });
        let host = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || drop(write_what_can_wait(view, &bell)))
        };
        let executor = {
            let worker = Arc::clone(&worker);
            thread::spawn(move || worker.glance())
        };
        // The bell rings once more at the end, for a main thread whose executor has taken all: it is not to wait for that.
        let main = {
            let (worker, bell) = (Arc::clone(&worker), Arc::clone(&bell));
            thread::spawn(move || worker.stand(&bell))
        };
        host.join().unwrap();
        executor.join().unwrap();
        if worker.has_all() {
            bell.ring();
        }
        main.join().unwrap();
        assert!(worker.has_all());
    });
}

/// A consumer that dozes: it looks once without being rung, then sleeps.
fn look_now_and_then(view: View, bell: &Bell) {
    let mut consumer = Consumer::new(view);
    let (mut last, mut in_vain) = (0, 0);
    while last < FEW {
        let mut buffer = [0; CAPACITY];
        let count = consumer.read(&mut buffer).unwrap();
        for byte in &buffer[..count] {
            assert_eq!(*byte, last + 1);
            last = *byte;
        }
        if count > 0 {
            assert!(!consumer.has_to_ring(), "the producer has room");
            in_vain = 0;
            continue;
        }
        let dozes = in_vain < 1;
        in_vain += 1;
        if dozes {
            // Its timer comes before any bell.
            if consumer.about_to_doze() {
                thread::yield_now();
            }
        } else if consumer.about_to_wait() {
            bell.wait();
        }
        consumer.is_awake();
    }
}

/// A host of executions, or a worker that says of their ends: a few bytes that can wait.
fn write_what_can_wait(view: View, bell: &Bell) -> Producer<View> {
    let mut producer = Producer::new(view);
    for next in 1..=FEW {
        // There is room for all.
        assert_eq!(producer.write(&[IoSlice::new(&[next])]).unwrap(), 1);
        if producer.has_to_ring_lazily() {
            bell.ring();
        }
    }
    producer
}

/// Beside a consumer, with what the producer does at its end.
fn with_what_can_wait(consume: fn(View, &Bell), end: fn(Producer<View>, &Bell)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let view = View(Arc::new(Shared::new(LARGE_CAPACITY)));
        let bell = Arc::new(Bell::default());
        let (of_producer, bell_of_producer) = (view.clone(), Arc::clone(&bell));
        let producer =
            thread::spawn(move || end(write_what_can_wait(of_producer, &bell_of_producer), &bell_of_producer));
        consume(view, &bell);
        producer.join().unwrap();
    });
}

#[test]
fn what_can_wait_is_found_by_who_looks_now_and_then_or_wakes_it_once_it_sleeps() {
    with_what_can_wait(look_now_and_then, |producer, _| drop(producer));
}

/// Who dozes here never looks without being rung.
#[test]
fn a_producer_that_runs_dry_wakes_who_dozes() {
    fn doze(view: View, bell: &Bell) {
        let mut consumer = Consumer::new(view);
        let mut last = 0;
        while last < FEW {
            let mut buffer = [0; CAPACITY];
            let count = consumer.read(&mut buffer).unwrap();
            last = buffer[..count].last().copied().unwrap_or(last);
            if last < FEW && consumer.about_to_doze() {
                bell.wait();
                consumer.is_awake();
            }
        }
    }
    with_what_can_wait(doze, |producer, bell| {
        // As `wake_peer`.
        if producer.has_to_ring() {
            bell.ring();
        }
    });
}
