//! Large messages that are read straight to where they belong, cut within their chunks.

use sandgate_wire::Outcome;
use sandgate_wire::message::kind;
use sandgate_wire::outcome::LossCause;

use crate::error::ReceiveError;
use crate::fake_worker::*;

const MORE: u8 = 1;
const CHUNK: usize = 60_000;
const CHUNKS: usize = 5;

fn bytes() -> Vec<u8> {
    (0..CHUNK * CHUNKS).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// The frames of the message, which announces so many bytes.
fn frames(channel: u64, announced: usize) -> Vec<Vec<u8>> {
    let bytes = bytes();
    let frame = |(number, chunk): (usize, &[u8])| {
        let prefix = if number == 0 { (announced as u64).to_le_bytes().to_vec() } else { Vec::new() };
        let flags = if number + 1 < CHUNKS { MORE } else { 0 };
        frame(kind::DATA, flags, channel, &[&prefix[..], chunk].concat())
    };
    bytes.chunks(CHUNK).enumerate().map(frame).collect()
}

/// Sends bytes, and returns when the host has read them.
fn say(stage: &mut Stage, bytes: &[u8]) {
    stage.worker.raw(bytes);
    let reading = &stage.connection().reading;
    eventually("the host to have read", || reading.has_read_all());
}

/// Sends the first chunk, and the second up to a position.
fn begin(stage: &mut Stage, channel: u64, cut: usize) -> Vec<u8> {
    let stream = frames(channel, bytes().len()).concat();
    let cut = CHUNK + cut;
    say(stage, &stream[..cut]);
    stream[cut..].to_vec()
}

#[test]
fn a_message_is_whole_however_it_is_cut() {
    let mut stage = Stage::new();
    let task = stage.execution();
    for cut in [30, 40, 41, 1000, CHUNK - 1] {
        let rest = begin(&mut stage, 1, cut);
        for part in rest.chunks(37_001) {
            say(&mut stage, part);
        }
        assert!(task.receive_bytes_timeout(PATIENCE).unwrap() == bytes(), "the message is another one, cut at {cut}");
        stage.settle_past(|message| matches!(message, sandgate_wire::ToWorker::Credit(..)));
    }
}

#[test]
fn a_channel_that_is_closed_within_a_chunk_drops_the_rest() {
    for keeps in [true, false] {
        let mut stage = Stage::new();
        let (task, other) = (stage.execution(), stage.plain());
        let rest = begin(&mut stage, 1, 1000);
        let kept = keeps.then(|| task.clone());
        match &kept {
            Some(task) => task.close(),
            None => drop(task),
        }
        stage.worker.expect(&closed_by_host(1));
        say(&mut stage, &rest);
        stage.settle();
        if let Some(task) = kept {
            assert!(matches!(task.receive_bytes_timeout(PATIENCE), Err(ReceiveError::Closed)));
        }
        stage.worker.data(other.id(), &[7]);
        assert_eq!(other.receive_timeout::<u8>(PATIENCE).unwrap(), 7);
    }
}

#[test]
fn a_worker_that_ends_within_a_chunk_is_lost() {
    let mut stage = Stage::new();
    let task = stage.execution();
    begin(&mut stage, 1, 1000);
    stage.worker.hang_up();
    let loss = stage.loss();
    assert_eq!(task.outcome(), Some(Outcome::WorkerLost { loss }));
}

#[test]
fn chunks_that_do_not_fit_are_refused_once_they_are_here() {
    let all = bytes().len();
    for (announced, expected) in [(all - 1, "arrived as"), (all + 1, "arrived as"), (2 * CHUNK - 1, "arrived as")] {
        let mut stage = Stage::new();
        let task = stage.execution();
        for frame in frames(1, announced) {
            let (head, rest) = frame.split_at(100);
            stage.worker.raw_or_refused(head);
            stage.worker.raw_or_refused(rest);
        }
        let loss = stage.loss();
        let LossCause::ProtocolViolation { message } = &loss.cause else { panic!("{loss}") };
        assert!(message.contains(expected), "{message}");
        assert_eq!(task.outcome(), Some(Outcome::WorkerLost { loss }));
    }
}
