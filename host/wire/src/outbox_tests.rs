//! The outbox against a transport that takes as much as the test lets it.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::batch::COPY_BYTES;
use super::*;
use crate::assembly::{Assembly, Chunk, SEVERAL};
use crate::frame::{CHUNK_BYTES, FrameReader, HEADER_BYTES};
use crate::message::ToWorker;
use crate::messages::each;
use crate::transport::testing::Scripted;

#[derive(Debug, Default)]
struct Valve {
    open: usize,
    written: Vec<u8>,
    writes: usize,
    /// Those of them that wake nobody who dozes, and how often such a peer was woken since the last of them.
    lazy_writes: usize,
    wakes: usize,
    descriptors: usize,
    shut: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Throttled(Arc<(Mutex<Valve>, Condvar)>);

impl Throttled {
    pub(super) fn open(&self, bytes: usize) {
        self.0.0.lock().open += bytes;
        self.0.1.notify_all();
    }

    pub(super) fn writes(&self) -> usize {
        self.0.0.lock().writes
    }

    /// How many writes were lazy, and how often the peer was woken after the last of them.
    pub(super) fn lazy_writes(&self) -> (usize, usize) {
        let valve = self.0.0.lock();
        (valve.lazy_writes, valve.wakes)
    }

    /// Each with its kind, its channel, and its length; of several messages in a frame each for itself, as if it had one of its own.
    pub(super) fn frames(&self) -> Vec<(u8, u64, usize)> {
        let written = self.0.0.lock().written.clone();
        let mut reader = FrameReader::new(Box::new(Scripted::new(&[&written])));
        let mut frames = Vec::new();
        while let Some(frame) = reader.read_frame().unwrap() {
            let (kind, channel) = (frame.header.kind, frame.header.channel.0);
            if frame.header.flags == SEVERAL && kind == kind::DATA {
                frames.extend(each(frame.payload).map(|message| (kind, channel, message.len())));
                continue;
            }
            frames.push((kind, channel, frame.payload.len()));
        }
        frames
    }
}

impl SendHalf for Throttled {
    fn try_write(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut valve = self.0.0.lock();
        let mut count = 0;
        for buffer in buffers {
            let take = buffer.len().min(valve.open);
            valve.written.extend_from_slice(&buffer[..take]);
            valve.open -= take;
            count += take;
        }
        if count == 0 {
            return Err(if valve.shut { io::ErrorKind::BrokenPipe } else { io::ErrorKind::WouldBlock }.into());
        }
        valve.writes += 1;
        valve.descriptors += usize::from(descriptor.is_some());
        Ok(count)
    }

    fn try_write_lazily(&self, buffers: &[IoSlice<'_>], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let count = self.try_write(buffers, descriptor)?;
        let mut valve = self.0.0.lock();
        (valve.lazy_writes, valve.wakes) = (valve.lazy_writes + 1, 0);
        Ok(count)
    }

    fn wake_peer(&self) -> io::Result<()> {
        self.0.0.lock().wakes += 1;
        Ok(())
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut valve = self.0.0.lock();
        while valve.open == 0 && !valve.shut {
            self.0.1.wait(&mut valve);
        }
        Ok(())
    }

    fn shutdown(&self) {
        self.0.0.lock().shut = true;
        self.0.1.notify_all();
    }
}

pub(super) fn message(bytes: usize) -> Message {
    Message { bytes: Bytes::from(vec![1; bytes]), channels: Vec::new() }
}

pub(super) fn control(kind: u8, channel: u64) -> Encoded {
    Encoded { kind, flags: 0, channel: ChannelId(channel), body: vec![2; 3] }
}

/// Runs `test` with a writer thread beside it, and ends that.
pub(super) fn with_writer(test: impl FnOnce(&Outbox, &Throttled)) {
    let transport = Throttled::default();
    let outbox = Outbox::new(Box::new(transport.clone()));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| outbox.run_writer());
        // A test that fails ends the thread, too, instead of waiting for it for ever.
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| test(&outbox, &transport)));
        outbox.shutdown();
        writer.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn an_idle_connection_needs_no_other_thread() {
    let transport = Throttled::default();
    transport.open(usize::MAX / 2);
    let outbox = Outbox::new(Box::new(transport.clone()));
    outbox.push_message(ChannelId(1), message(5)).unwrap();
    outbox.push(control(kind::CLOSE, 1)).unwrap();
    assert_eq!(transport.frames(), [(kind::DATA, 1, 5), (kind::CLOSE, 1, 3)]);
}

#[test]
fn what_is_placed_waits_to_be_written() {
    let transport = Throttled::default();
    transport.open(usize::MAX / 2);
    let outbox = Outbox::new(Box::new(transport.clone()));
    outbox.place(control(kind::CLOSE, 1)).unwrap();
    outbox.place_urgent(control(kind::OPEN, 3)).unwrap();
    assert_eq!(transport.frames(), []);
    outbox.write_placed();
    let written = [(kind::OPEN, 3, 3), (kind::CLOSE, 1, 3)];
    assert_eq!(transport.frames(), written);
    outbox.write_placed();
    assert_eq!(transport.frames(), written);
    // Whoever writes takes it along, in its turn.
    outbox.place(control(kind::CLOSE, 3)).unwrap();
    outbox.push_message(ChannelId(3), message(5)).unwrap();
    assert_eq!(transport.frames()[2..], [(kind::CLOSE, 3, 3), (kind::DATA, 3, 5)]);
    outbox.write_placed();
    assert_eq!(transport.frames().len(), 4);
}

#[test]
fn large_messages_take_turns_and_control_overtakes() {
    with_writer(|outbox, transport| {
        outbox.push_message(ChannelId(1), message(3 * CHUNK_BYTES)).unwrap();
        outbox.push_message(ChannelId(3), message(2 * CHUNK_BYTES)).unwrap();
        outbox.push_message(ChannelId(5), message(10)).unwrap();
        outbox.push(control(kind::CLOSE, 5)).unwrap();
        outbox.push_urgent(control(kind::KILL, 9)).unwrap();
        transport.open(usize::MAX / 2);
        outbox.flush();
        let frames: Vec<_> = transport.frames().into_iter().map(|(kind, channel, _)| (kind, channel)).collect();
        let expected = [
            (kind::DATA, 1), // written before anything else was there
            (kind::KILL, 9),
            (kind::DATA, 3),
            (kind::DATA, 5),
            (kind::CLOSE, 5),
            (kind::DATA, 1),
            (kind::DATA, 3),
            (kind::DATA, 1),
        ];
        let mut sorted = frames.clone();
        sorted.sort_unstable();
        let mut same = expected.to_vec();
        same.sort_unstable();
        assert_eq!(sorted, same);
        assert_eq!(frames[..2], expected[..2]);
        let of = |channel| frames.iter().position(|frame| *frame == (kind::DATA, channel)).unwrap();
        let last_of_1 = frames.iter().rposition(|frame| *frame == (kind::DATA, 1)).unwrap();
        assert!(of(5) < last_of_1, "a small message does not wait for the end of a large one: {frames:?}");
    });
}

#[test]
fn what_arrives_is_what_was_sent_however_little_room_there_is() {
    with_writer(|outbox, transport| {
        let sent: Vec<Message> = [0, 1, 100, COPY_BYTES, COPY_BYTES + 1, CHUNK_BYTES, CHUNK_BYTES + 1, 300_000]
            .into_iter()
            .map(|size| Message {
                bytes: (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect(),
                channels: vec![ChannelId(7); size % 3],
            })
            .collect();
        for message in &sent {
            outbox.push_message(ChannelId(1), message.clone()).unwrap();
        }
        for _ in 0..1000 {
            transport.open(1009);
        }
        outbox.flush();
        let written = transport.0.0.lock().written.clone();
        let mut reader = FrameReader::new(Box::new(Scripted::new(&[&written])));
        let mut assembly = Assembly::default();
        let mut arrived = Vec::new();
        while let Some(frame) = reader.read_frame().unwrap() {
            let chunk = Chunk { flags: frame.header.flags, payload: frame.payload };
            arrived.extend(assembly.push(chunk, u64::MAX, None).unwrap());
        }
        assert_eq!(arrived, sent);
    });
}

#[test]
fn each_descriptor_travels_with_a_write_of_its_own() {
    with_writer(|outbox, transport| {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        outbox.push_message(ChannelId(1), message(10)).unwrap();
        outbox.push_with_descriptors(control(kind::COMPILE, 0), vec![null(), null()]).unwrap();
        outbox.push_with_descriptors(control(kind::LOAD, 0), vec![null()]).unwrap();
        transport.open(usize::MAX / 2);
        outbox.flush();
        assert_eq!(transport.0.0.lock().descriptors, 3);
        assert_eq!(transport.frames().len(), 3);
    });
}

#[test]
fn many_senders_lose_nothing() {
    with_writer(|outbox, transport| {
        std::thread::scope(|scope| {
            for channel in 0..4 {
                scope.spawn(move || {
                    for size in 0..500 {
                        outbox.push_message(ChannelId(channel), message(size)).unwrap();
                    }
                });
            }
            for _ in 0..600 {
                transport.open(1000);
                std::thread::yield_now();
            }
            transport.open(usize::MAX / 2);
        });
        outbox.flush();
        let frames = transport.frames();
        for channel in 0..4 {
            let sizes: Vec<usize> = frames.iter().filter(|frame| frame.1 == channel).map(|frame| frame.2).collect();
            assert_eq!(sizes, (0..500).collect::<Vec<_>>(), "channel {channel} is in order and complete");
        }
    });
}

#[test]
fn a_dead_connection_refuses_and_wakes_everybody() {
    with_writer(|outbox, transport| {
        outbox.push_message(ChannelId(1), message(10)).unwrap();
        transport.shutdown();
        outbox.flush();
        assert_eq!(outbox.push(control(kind::CLOSE, 1)), Err(OutboxClosed));
    });
}

#[test]
fn a_descriptor_waits_for_a_write_of_its_own_and_what_needs_it_waits_behind() {
    with_writer(|outbox, transport| {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        // The first fills the batch that has no room; the rest is queued.
        for channel in [1, 3] {
            outbox.push_urgent(control(kind::KILL, channel)).unwrap();
        }
        outbox.push_with_descriptors(control(kind::LOAD, 0), vec![null]).unwrap();
        outbox.push(control(kind::EXECUTE, 5)).unwrap();
        transport.open(usize::MAX / 2);
        outbox.flush();
        let kinds: Vec<u8> = transport.frames().into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, [kind::KILL, kind::KILL, kind::LOAD, kind::EXECUTE]);
        assert_eq!(transport.0.0.lock().descriptors, 1);
    });
}

#[test]
fn what_a_peer_does_not_read_is_bounded_and_known() {
    let transport = Throttled::default();
    let outbox = Outbox::bounded(Box::new(transport.clone()), Bounds { controls: 10, answers: 0 });
    // What is in the batch already may have been seen by the peer, for all that the outbox knows.
    outbox.push_message(ChannelId(1), message(7)).unwrap();
    for size in [20, 30] {
        outbox.push_message(ChannelId(1), message(size)).unwrap();
        outbox.push_arguments(ChannelId(1), message(size)).unwrap();
    }
    assert_eq!(outbox.unsent(ChannelId(1)), Credit { bytes: 50, messages: 2 });
    assert_eq!(outbox.unsent(ChannelId(3)), Credit::default());
    for number in 0..10 {
        assert!(!outbox.overflowed());
        let control = control(kind::CREDIT, number);
        if number % 2 == 0 { outbox.push(control) } else { outbox.push_urgent(control) }.unwrap();
    }
    assert_eq!(outbox.push(control(kind::CREDIT, 99)), Err(OutboxClosed));
    assert!(outbox.overflowed() && transport.0.0.lock().shut);
}

#[test]
fn controls_that_were_written_do_not_count() {
    let transport = Throttled::default();
    transport.open(usize::MAX / 2);
    let outbox = Outbox::bounded(Box::new(transport), Bounds { controls: 1, answers: 0 });
    for number in 0..100 {
        outbox.push(control(kind::CREDIT, number)).unwrap();
        outbox.push_urgent(control(kind::KILL, number)).unwrap();
    }
}

fn close(channel: u64) -> Encoded {
    Encoded { kind: kind::CLOSE, flags: 0, channel: ChannelId(channel), body: Vec::new() }
}

#[test]
fn answers_take_little_and_have_a_bound_of_their_own() {
    const MANY: u64 = 65_536;
    let transport = Throttled::default();
    let bounds = Bounds { controls: 0, answers: usize::try_from(MANY).unwrap() };
    let outbox = Outbox::bounded(Box::new(transport.clone()), bounds);
    // The first ones are in a batch that waits for room.
    let mut number = 0;
    while outbox.push_answer(close(2 * number)).is_ok() {
        number += 1;
        let state = outbox.state.lock();
        let bytes = state.answers.capacity() * size_of::<(u8, u8, ChannelId)>() + state.batch.copied.capacity();
        assert!(bytes <= 2 << 20 && state.lanes.is_empty(), "{bytes} bytes");
    }
    assert!((MANY..MANY + 10_000).contains(&number), "{number}");
    assert!(outbox.overflowed() && transport.0.0.lock().shut);
}

#[test]
fn an_answer_comes_after_its_channels_data() {
    let transport = Throttled::default();
    let outbox = Outbox::bounded(Box::new(transport.clone()), Bounds { controls: 9, answers: 9 });
    // A frame of three bytes opens the batch, and all else waits behind it.
    outbox.push(control(kind::STATUS, 0)).unwrap();
    outbox.push_message(ChannelId(4), message(5)).unwrap();
    outbox.push_answer(close(2)).unwrap();
    outbox.push_answer(close(4)).unwrap();
    transport.open(usize::MAX / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| outbox.run_writer());
        outbox.flush();
        outbox.shutdown();
    });
    let frames = [(kind::STATUS, 0, 3), (kind::CLOSE, 2, 0), (kind::DATA, 4, 5), (kind::CLOSE, 4, 0)];
    assert_eq!(transport.frames(), frames);
}

#[test]
fn credits_that_wait_become_one() {
    let transport = Throttled::default();
    let outbox = Outbox::bounded(Box::new(transport.clone()), Bounds { controls: 1, answers: 0 });
    outbox.push(control(kind::STATUS, 0)).unwrap();
    for _ in 0..100_000 {
        outbox.push_credit(CreditFor::Output(ChannelId(1)), Credit { bytes: 1, messages: 0 }).unwrap();
        outbox.push_credit(CreditFor::Messages(ChannelId(1)), Credit { bytes: 2, messages: 1 }).unwrap();
    }
    transport.open(usize::MAX / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| outbox.run_writer());
        outbox.flush();
        outbox.shutdown();
    });
    assert_eq!(transport.frames(), [(kind::STATUS, 0, 3), (kind::CREDIT, 1, 12), (kind::OUTPUT_CREDIT, 1, 8)]);
    let written = transport.0.0.lock().written.clone();
    let bodies = &written[HEADER_BYTES + 3..];
    let credit = Credit { bytes: 200_000, messages: 100_000 };
    assert_eq!(bodies[HEADER_BYTES..][..12], ToWorker::Credit(ChannelId(1), credit).encode().body);
    assert_eq!(bodies[2 * HEADER_BYTES + 12..], 100_000_u64.to_le_bytes());
}

/// Room for everything, but one write takes until the test says so.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<(Mutex<(usize, bool)>, Condvar)>);

impl SendHalf for Gate {
    fn try_write(&self, buffers: &[IoSlice<'_>], _: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut state = self.0.0.lock();
        state.0 += 1;
        self.0.1.notify_all();
        while state.0 == MAX_INLINE_BATCHES && !state.1 {
            self.0.1.wait(&mut state);
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }

    fn wait_writable(&self) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self) {}
}

#[test]
fn who_waits_for_the_last_inline_batch_is_woken() {
    let gate = Gate::default();
    let outbox = Outbox::new(Box::new(gate.clone()));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| outbox.run_writer());
        scope.spawn(|| outbox.push_message(ChannelId(1), message(MAX_INLINE_BATCHES * CHUNK_BYTES)).unwrap());
        let mut state = gate.0.0.lock();
        while state.0 < MAX_INLINE_BATCHES {
            gate.0.1.wait(&mut state);
        }
        drop(state);
        let flushing = scope.spawn(|| outbox.flush());
        // It wakes up in vain, which shows that it waited; it gets the lock, and whoever has it next knows that it waits.
        let mut state = outbox.state.lock();
        while !outbox.idle.notify_one() {
            parking_lot::MutexGuard::unlock_fair(state);
            state = outbox.state.lock();
        }
        parking_lot::MutexGuard::unlock_fair(state);
        drop(outbox.state.lock());
        gate.0.0.lock().1 = true;
        gate.0.1.notify_all();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !flushing.is_finished() {
            assert!(std::time::Instant::now() < deadline, "flush does not return though all was written");
            std::thread::yield_now();
        }
        outbox.shutdown();
        writer.join().unwrap();
    });
}

/// An outbox that is served, and how often it has called.
fn served() -> (Outbox, Throttled, Arc<std::sync::atomic::AtomicUsize>) {
    let transport = Throttled::default();
    let outbox = Outbox::new(Box::new(transport.clone()));
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    outbox.serve_by(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    (outbox, transport, calls)
}

#[test]
fn what_finds_no_room_calls_and_is_served_when_there_is_some() {
    let (outbox, transport, calls) = served();
    let calls = || calls.swap(0, Ordering::Relaxed);
    assert_eq!(outbox.serve(), Served::Nothing);
    outbox.push_message(ChannelId(1), message(5)).unwrap();
    assert_eq!((calls(), outbox.serve()), (1, Served::Full));
    // Nobody else tries, and nobody calls again.
    outbox.push_message(ChannelId(1), message(6)).unwrap();
    transport.open(10);
    assert_eq!((calls(), outbox.serve()), (0, Served::Full));
    transport.open(usize::MAX / 2);
    assert_eq!(outbox.serve(), Served::Nothing);
    assert_eq!(transport.frames(), [(kind::DATA, 1, 5), (kind::DATA, 1, 6)]);
    // From here on senders write themselves.
    outbox.push_message(ChannelId(1), message(7)).unwrap();
    assert_eq!((calls(), transport.frames().len()), (0, 3));
}

#[test]
fn a_large_message_is_served_a_few_batches_at_a_time() {
    let (outbox, transport, calls) = served();
    transport.open(usize::MAX / 2);
    let chunks = 3 * MAX_INLINE_BATCHES;
    outbox.push_message(ChannelId(1), message(chunks * CHUNK_BYTES)).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let mut turns = 1;
    while outbox.serve() == Served::Again {
        turns += 1;
    }
    assert_eq!((turns, transport.frames().len()), (2, chunks));
}

#[test]
fn what_is_gathered_calls_once_and_is_served_at_its_moment() {
    let (outbox, transport, calls) = served();
    transport.open(usize::MAX / 2);
    let mut pushed = 0;
    let at = loop {
        outbox.push_message(ChannelId(1), message(5)).unwrap();
        pushed += 1;
        match outbox.serve() {
            Served::Nothing => {}
            Served::At(at) if outbox.is_gathering() => break at,
            other => assert!(matches!(other, Served::At(_)), "{other:?}"),
        }
        assert!(pushed < 1_000_000, "nothing is gathered");
    };
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(transport.frames().len() < pushed);
    let mut next = Some(at);
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(at) = next {
        // As a thread would that has nothing else to do.
        while Instant::now() < at {
            std::hint::spin_loop();
        }
        assert!(Instant::now() < deadline, "it is looked after for ever");
        next = match outbox.serve() {
            Served::At(at) => Some(at),
            Served::Nothing => None,
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(transport.frames().len(), pushed);
}

#[test]
fn a_dead_connection_calls_once_more_and_is_closed() {
    let (outbox, transport, calls) = served();
    outbox.push_message(ChannelId(1), message(5)).unwrap();
    assert_eq!(outbox.serve(), Served::Full);
    outbox.shutdown();
    assert_eq!((calls.load(Ordering::Relaxed), outbox.serve()), (2, Served::Closed));
    assert!(transport.frames().is_empty() && outbox.push(control(kind::STATUS, 0)).is_err());

    let (outbox, transport, _) = served();
    outbox.push_message(ChannelId(1), message(5)).unwrap();
    transport.0.0.lock().shut = true;
    assert_eq!(outbox.serve(), Served::Closed);
}

#[test]
fn where_room_is_unknown_a_thread_writes_all_of_it() {
    let (outbox, transport, _) = served();
    outbox.push_message(ChannelId(1), message(3 * CHUNK_BYTES)).unwrap();
    assert_eq!(outbox.serve(), Served::Full);
    assert!(matches!(outbox.room(), Ok(crate::transport::Room::Unknown)));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| outbox.write_out());
        (0..3 * CHUNK_BYTES / 1000 + 1).for_each(|_| transport.open(1000));
        writing.join().unwrap();
    });
    assert_eq!(transport.frames().len(), 3);
    assert_eq!(outbox.serve(), Served::Nothing);
}

/// One that says through the channel that its writer thread is to be started.
fn unstarted() -> (Outbox, Throttled, std::sync::mpsc::Receiver<()>) {
    let transport = Throttled::default();
    let outbox = Outbox::new(Box::new(transport.clone()));
    let (starts, started) = std::sync::mpsc::channel();
    outbox.start_writer_by(move || starts.send(()).unwrap());
    (outbox, transport, started)
}

#[test]
fn the_writer_thread_is_started_when_it_is_needed_and_once() {
    use std::sync::mpsc::TryRecvError::{Disconnected, Empty};
    let (outbox, transport, started) = unstarted();
    transport.open(HEADER_BYTES + 5);
    outbox.push_message(ChannelId(1), message(5)).unwrap();
    assert_eq!((transport.frames().len(), started.try_recv()), (1, Err(Empty)), "its sender writes it");
    outbox.push_message(ChannelId(1), message(5)).unwrap();
    assert_eq!(started.try_recv(), Ok(()), "there is no room");
    outbox.push(control(kind::CLOSE, 1)).unwrap();
    transport.open(usize::MAX / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| outbox.run_writer());
        outbox.flush();
        outbox.shutdown();
    });
    assert_eq!((transport.frames().len(), started.try_recv()), (3, Err(Disconnected)));

    let (outbox, _, started) = unstarted();
    outbox.shutdown();
    assert_eq!(started.try_recv(), Err(Disconnected), "there is nothing to write any more");
}

#[test]
fn small_messages_can_be_sent_together() {
    let transport = Throttled::default();
    transport.open(usize::MAX / 2);
    let outbox = Outbox::new(Box::new(transport.clone()));
    outbox.push_small(ChannelId(1), &[b"first"; 100]).unwrap();
    assert_eq!((transport.frames(), transport.writes()), (vec![(kind::DATA, 1, 5); 100], 1));
    outbox.push_small(ChannelId(1), &[[0; 4000]; 5]).unwrap();
    outbox.push_small(ChannelId(1), &[b""; 0]).unwrap();
    assert_eq!(transport.frames()[100..], [(kind::DATA, 1, 4000); 5]);
    assert!(!outbox.is_gathering());
    outbox.shutdown();
    assert_eq!(outbox.push_small(ChannelId(1), &[b"late"]), Err(OutboxClosed));
}
