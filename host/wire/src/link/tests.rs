//! Links between threads of this process, and peers that do not keep to the rules.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::core::{End, Link, LinkEnd};
use super::frame::{FrameEncoder, HEADER_BYTES, LinkError, LinkFrame, LinkReader, MAX_PAYLOAD_BYTES};
use super::message::{self, FromAgent, LastWord, Start, ToAgent, kind};
use super::stream::{StreamItem, StreamReceive, StreamSend, WINDOW_BYTES};
use crate::transport::testing::Scripted;
use crate::transport::{Descriptors, ReceiveHalf, SendHalf, socket_pair, unix_socket};

const LONG: Duration = Duration::from_secs(60);

struct Served {
    link: Arc<Link>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.link.end(LinkEnd::Closed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no thread of a link panics"));
    }
}

fn serve(end: End, socket: OwnedFd, heartbeat: Duration) -> Served {
    let (send, receive) = unix_socket(socket, Descriptors::Refuse);
    let link = Link::new(end, Box::new(send), heartbeat);
    let (reading, writing, looking) = (Arc::clone(&link), Arc::clone(&link), Arc::clone(&link));
    let mut reader = LinkReader::new(Box::new(receive), &[]);
    let threads = vec![
        thread("reader", move || reading.run_reader(&mut reader, |frame| Err(format!("kind {}", frame.kind)))),
        thread("writer", move || writing.run_writer(FrameEncoder::default())),
        thread("clock", move || looking.run_clock()),
    ];
    Served { link, threads }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).unwrap()
}

fn both(heartbeat: Duration) -> (Served, Served) {
    let (a, b) = socket_pair().unwrap();
    (serve(End::Host, a, heartbeat), serve(End::Agent, b, heartbeat))
}

fn open(host: &Served, agent: &Served) -> ((StreamSend, StreamReceive), (StreamSend, StreamReceive)) {
    let ours = host.link.open(|_| None).unwrap();
    let theirs = agent.link.accept(ours.0.id()).unwrap();
    (ours, theirs)
}

fn write_all(send: &dyn SendHalf, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match send.try_write(&[IoSlice::new(bytes)], None) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => send.wait_writable()?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_exactly(receive: &mut dyn ReceiveHalf, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let read = receive.read(&mut bytes[filled..], true).unwrap();
        assert!(read > 0, "the stream ended after {filled} bytes of {count}");
        filled += read;
    }
    bytes
}

fn wait_until_ended(link: &Link) -> LinkEnd {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(end) = link.ended() {
            return end;
        }
        assert!(Instant::now() < patience, "the link has not ended");
        std::thread::yield_now();
    }
}

#[test]
fn bytes_cross_in_both_directions_and_then_an_end() {
    let (host, agent) = both(LONG);
    let ((send, mut receive), (their_send, mut their_receive)) = open(&host, &agent);
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|it| it.to_le_bytes()[1]).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write_all(&send, &bytes).unwrap();
            send.finish();
        });
        scope.spawn(|| write_all(&their_send, &bytes).unwrap());
        assert_eq!(read_exactly(&mut receive, bytes.len()), bytes);
        let mut got = Vec::new();
        while let StreamItem::Data(more) = their_receive.next_item().unwrap() {
            got.extend(more);
        }
        assert_eq!(got, bytes);
    });
    their_send.shutdown();
    assert_eq!(receive.read(&mut [0], true).unwrap(), 0);
    let patience = Instant::now() + Duration::from_secs(20);
    while host.link.streams() + agent.link.streams() > 0 {
        assert!(Instant::now() < patience, "a stream that is over is forgotten");
        std::thread::yield_now();
    }
}

#[test]
fn a_stream_that_nobody_reads_delays_no_other() {
    let (host, agent) = both(LONG);
    let ((slow, _), (_keep, _unread)) = open(&host, &agent);
    let ((send, _), (_keep_too, mut receive)) = open(&host, &agent);
    let window = usize::try_from(WINDOW_BYTES).unwrap();
    write_all(&slow, &vec![7; window]).unwrap();
    let full = slow.try_write(&[IoSlice::new(b"x")], None).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    let bytes = vec![1; 3 * window];
    std::thread::scope(|scope| {
        scope.spawn(|| write_all(&send, &bytes).unwrap());
        assert_eq!(read_exactly(&mut receive, bytes.len()), bytes);
    });
    assert_eq!(slow.try_write(&[IoSlice::new(b"x")], None).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn an_artefact_comes_before_its_byte() {
    let (host, agent) = both(LONG);
    let ((send, _), (_keep, mut receive)) = open(&host, &agent);
    let ticket = tempfile_with(&99_u64.to_le_bytes());
    write_all(&send, b"ab").unwrap();
    assert_eq!(send.try_write(&[IoSlice::new(b"cd")], Some(ticket.as_fd())).unwrap(), 2);
    let mut items = Vec::new();
    while items.len() < 4 {
        match receive.next_item().unwrap() {
            StreamItem::Data(bytes) => items.extend(bytes.into_iter().map(|byte| StreamItem::Data(vec![byte]))),
            other => items.push(other),
        }
    }
    let byte = |byte| StreamItem::Data(vec![byte]);
    assert_eq!(items, [byte(b'a'), byte(b'b'), StreamItem::Attach(99), byte(b'c'), byte(b'd')][..items.len()]);
}

fn tempfile_with(bytes: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&memory, bytes).unwrap();
    memory
}

#[test]
fn silence_is_noticed_and_beats_break_it() {
    let (a, _silent) = socket_pair().unwrap();
    let heartbeat = Duration::from_millis(200);
    let alone = serve(End::Host, a, heartbeat);
    let (_send, mut receive) = alone.link.open(|_| None).unwrap();
    assert_eq!(receive.read(&mut [0], true).unwrap(), 0, "the stream ends with its link");
    assert_eq!(wait_until_ended(&alone.link), LinkEnd::Silent { after: heartbeat });

    let (host, agent) = both(heartbeat);
    let ((send, _), (_keep, mut receive)) = open(&host, &agent);
    // Five times as long as a silence may be.
    assert!(
        !crate::transport::wait(receive.ready().unwrap().as_fd(), rustix::event::PollFlags::IN, Some(heartbeat * 5))
            .unwrap()
    );
    write_all(&send, b"x").unwrap();
    assert_eq!(read_exactly(&mut receive, 1), b"x");
    assert_eq!((host.link.ended(), agent.link.ended()), (None, None));
    let far = [&host, &agent].map(|served| served.link.round_trip().expect("beats that were heard"));
    assert!(far.iter().all(|far| *far < heartbeat), "{far:?}");
}

#[test]
fn the_end_of_the_peer_ends_everything() {
    let (host, agent) = both(LONG);
    let ((send, mut receive), (their_send, _)) = open(&host, &agent);
    write_all(&their_send, b"last").unwrap();
    assert_eq!(read_exactly(&mut receive, 2), b"la");
    agent.link.end(LinkEnd::Closed);
    assert_eq!(wait_until_ended(&host.link), LinkEnd::Ended);
    assert_eq!(read_exactly(&mut receive, 2), b"st", "what had arrived is still there");
    assert_eq!(receive.read(&mut [0], true).unwrap(), 0);
    assert!(send.try_write(&[IoSlice::new(b"x")], None).is_err());
    assert!(send.wait_writable().is_ok());
    let (late, mut never) = host.link.open(|_| None).unwrap();
    assert!(late.try_write(&[IoSlice::new(b"x")], None).is_err());
    assert_eq!(never.read(&mut [0], true).unwrap(), 0);
}

#[test]
fn an_agent_says_why_it_ends_the_link() {
    let both = |heartbeat| {
        let (host, agent) = both(heartbeat);
        let patience = Instant::now() + Duration::from_secs(20);
        while agent.link.round_trip().is_none() {
            assert!(Instant::now() < patience, "nobody writes");
            std::thread::yield_now();
        }
        (host, agent)
    };
    let (host, agent) = both(LONG);
    agent.link.end(LinkEnd::Corrupt { what: "nonsense \u{7}".to_owned() });
    assert_eq!(wait_until_ended(&host.link), LinkEnd::Corrupt { what: "at its far end: nonsense \\u{7}".to_owned() });
    let (host, agent) = both(LONG);
    agent.link.end(LinkEnd::Silent { after: LONG });
    assert_eq!(wait_until_ended(&host.link), LinkEnd::Silent { after: LONG });
    // A host needs not say it: its agent ends either way.
    let (host, agent) = both(LONG);
    host.link.end(LinkEnd::Corrupt { what: "nonsense".to_owned() });
    assert_eq!(wait_until_ended(&agent.link), LinkEnd::Ended);
}

#[test]
fn an_agent_whose_host_reads_nothing_ends_without_a_word() {
    let (a, b) = socket_pair().unwrap();
    let agent = serve(End::Agent, b, LONG);
    // More than has room, so that the writer waits, or is about to.
    for number in 0..60_000 {
        agent.link.push(FromAgent::Resident(number, None).encode());
    }
    agent.link.end(LinkEnd::Corrupt { what: "nonsense".to_owned() });
    drop(agent);
    let mut reader = LinkReader::new(Box::new(unix_socket(a, Descriptors::Refuse).1), &[]);
    while reader.fill(true).unwrap() {
        while let Some(frame) = reader.next_frame().unwrap() {
            assert!(matches!(frame.kind, kind::BEAT | kind::RESIDENT | kind::LAST), "{}", frame.kind);
        }
    }
}

/// What a host makes of an agent that writes these frames.
fn from_hostile_agent(frames: &[LinkFrame<'_>]) -> LinkEnd {
    let (a, b) = socket_pair().unwrap();
    let host = serve(End::Host, a, LONG);
    let (_send, _receive) = host.link.open(|_| None).unwrap();
    let mut bytes = Vec::new();
    let mut encoder = FrameEncoder::default();
    frames.iter().for_each(|frame| encoder.append(*frame, &mut bytes));
    let (send, _receive) = unix_socket(b, Descriptors::Refuse);
    // It may be hung up on in the middle.
    let _ = write_all(&send, &bytes);
    wait_until_ended(&host.link)
}

#[test]
fn an_agent_that_breaks_the_rules_loses_its_link() {
    let frame = |kind, stream, payload| LinkFrame { kind, stream, payload };
    let check = |frames: &[LinkFrame<'_>], text: &str| match from_hostile_agent(frames) {
        LinkEnd::Corrupt { what } => assert!(what.contains(text), "{what}"),
        other => panic!("{other:?} instead of `{text}`"),
    };
    let much = vec![0; MAX_PAYLOAD_BYTES];
    let (one, most) = (1_u64.to_le_bytes(), u64::MAX.to_le_bytes());
    check(&[frame(kind::DATA, 2, b"x")], "does not exist");
    check(&[frame(kind::DATA, 1, b"")], "no bytes");
    check(&[frame(kind::DATA, 1, &much); 5], "more of a stream than there is credit for");
    check(&[frame(kind::CREDIT, 1, &one)], "credit for more of a stream than was sent");
    check(&[frame(kind::CREDIT, 1, &most)], "credit for more");
    check(&[frame(kind::CREDIT, 1, b"1")], "malformed number");
    check(&[frame(kind::ATTACH, 1, &one)], "an artefact from an agent");
    check(&[frame(kind::END, 1, b""), frame(kind::END, 1, b"")], "second end");
    check(&[frame(kind::END, 1, b""), frame(kind::DATA, 1, b"x")], "after its end");
    check(&[frame(kind::HELLO, 0, b"")], "second hello");
    check(&[frame(kind::BEAT, 0, b"")], "malformed number");
    check(&[frame(kind::ECHO, 0, &most)], "an echo of a beat that was not sent");
    check(&[frame(kind::LAST, 0, b"\x07")], "malformed");
    check(&[frame(99, 0, b"")], "kind 99");
}

/// Kind, stream and payload.
type Owned = (u8, u64, Vec<u8>);

fn all_frames(bytes: &[u8], part: usize) -> (Vec<Owned>, Option<LinkError>) {
    let parts: Vec<&[u8]> = bytes.chunks(part.max(1)).collect();
    let mut reader = LinkReader::new(Box::new(Scripted::new(&parts)), &[]);
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push((frame.kind, frame.stream, frame.payload.to_vec())),
            Ok(None) => match reader.fill(true) {
                Ok(true) => {}
                Ok(false) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            },
            Err(error) => return (frames, Some(error)),
        }
        assert!(reader.capacity() <= HEADER_BYTES + MAX_PAYLOAD_BYTES);
    }
}

fn encode(frames: &[(u8, u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = FrameEncoder::default();
    for (kind, stream, payload) in frames {
        encoder.append(LinkFrame { kind: *kind, stream: *stream, payload }, &mut bytes);
    }
    bytes
}

fn some_frames() -> impl Strategy<Value = Vec<Owned>> {
    proptest::collection::vec((any::<u8>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..300)), 1..8)
}

proptest! {
    #[test]
    fn what_is_written_is_read(frames in some_frames(), part in 1_usize..500) {
        let (read, error) = all_frames(&encode(&frames), part);
        prop_assert!(error.is_none());
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn a_bit_that_changes_is_noticed(frames in some_frames(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = encode(&frames);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (read, error) = all_frames(&bytes, 1000);
        prop_assert!(matches!(error, Some(LinkError::Corrupt(_))));
        prop_assert!(read.len() < frames.len() && read == frames[..read.len()]);
    }

    #[test]
    fn a_frame_that_is_lost_or_comes_twice_is_noticed(frames in some_frames(), at in any::<prop::sample::Index>()) {
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut encoder = FrameEncoder::default();
        for (kind, stream, payload) in &frames {
            let mut piece = Vec::new();
            encoder.append(LinkFrame { kind: *kind, stream: *stream, payload }, &mut piece);
            pieces.push(piece);
        }
        let at = at.index(pieces.len());
        let mut twice = pieces.clone();
        twice.insert(at, pieces[at].clone());
        prop_assert!(all_frames(&twice.concat(), 1000).1.is_some());
        if at + 1 < pieces.len() {
            pieces.remove(at);
            prop_assert!(all_frames(&pieces.concat(), 1000).1.is_some());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, part in 1_usize..50) {
        let _ = all_frames(&bytes, part);
    }

    #[test]
    fn any_body_is_a_message_or_none(kind: u8, stream: u64, payload: Vec<u8>) {
        let frame = LinkFrame { kind, stream, payload: &payload };
        let _ = ToAgent::decode(frame);
        let _ = FromAgent::decode(frame);
        let _ = message::read_hello::<message::AgentHello>(frame);
    }
}

#[test]
fn messages_have_the_bytes_they_had() {
    let check = |encoded: message::LinkEncoded, kind: u8, stream: u64, body: &[u8]| {
        assert_eq!((encoded.kind, encoded.stream, &encoded.body[..]), (kind, stream, body));
    };
    let start = Start::Launcher { command: vec!["a".to_owned(), "b".to_owned()] };
    check(ToAgent::Start(3, start).encode(), 7, 3, &[1, 2, 1, b'a', 1, b'b']);
    check(ToAgent::Kill(3).encode(), 10, 3, &[]);
    check(ToAgent::Forget(9).encode(), 16, 9, &[]);
    check(FromAgent::Started(3, 300).encode(), 8, 3, &[0xac, 2]);
    check(FromAgent::Resident(3, Some(1)).encode(), 11, 3, &[1, 1]);
    check(FromAgent::Need(5).encode(), 13, 5, &[]);
    check(LastWord::Silent.encode(), 18, 0, &[0]);
    check(LastWord::Corrupt("a".to_owned()).encode(), 18, 0, &[1, 1, b'a']);
    assert_eq!(message::hello_body(&()), [2, 0]);
}
