//! What guests print, from frames to lines.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use sandgate_wire::message::{Output, Stream};
use sandgate_wire::{ChannelId, ToHost, ToWorker};

use crate::fake_worker::{FakeWorker, PATIENCE, Stage, done, eventually};
use crate::output::{MAX_LINE_BYTES, OutputLine, OutputSink};
use crate::spec::Spec;
use crate::{KilledBy, Limits, Outcome};

fn print(worker: &mut FakeWorker, id: u64, stream: Stream, bytes: &[u8], truncated: bool) {
    worker.send(&ToHost::Output(ChannelId(id), Output { stream, truncated, bytes }));
}

fn lines() -> (Stage, Receiver<OutputLine>) {
    let (sender, lines) = unbounded();
    let sink = OutputSink::callback(move |line| drop(sender.send(line)));
    (Stage::with_output(Spec::popen(), sink), lines)
}

/// What becomes of one execution's standard output, written in these pieces.
fn check(pieces: &[&[u8]], truncated: bool, expected: &[&str]) {
    let (mut stage, lines) = lines();
    let task = stage.execution();
    for (number, piece) in pieces.iter().enumerate() {
        print(&mut stage.worker, 1, Stream::Stdout, piece, truncated && number + 1 == pieces.len());
        let taken = piece.len() as u64;
        if taken > 0 {
            stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), taken));
        }
    }
    stage.worker.send(&done(1, Outcome::Returned));
    for (number, text) in expected.iter().enumerate() {
        let line = lines.recv_timeout(PATIENCE).expect("another line");
        assert_eq!((line.text.as_str(), line.channel, line.gateway.as_str()), (*text, 1, "gw0"));
        assert_eq!(line.truncated, truncated && number + 1 == expected.len());
    }
    task.wait_close_timeout(PATIENCE).unwrap();
    drop(task);
    drop(stage);
    assert_eq!(lines.iter().count(), 0, "and no more");
}

#[test]
fn bytes_become_lines() {
    check(&[b"one\ntwo\n"], false, &["one", "two"]);
    check(&[b"o", b"ne", b"\n", b"\n", b"two"], false, &["one", "", "two"]);
    check(&[b"\r\n\x1b[31mred\0\n"], false, &["\r", "\u{1b}[31mred\0"]);
    check(&[b"caf\xc3", b"\xa9\n\xff\xfe\n"], false, &["caf\u{e9}", "\u{fffd}\u{fffd}"]);
    check(&[b"one\ntw"], true, &["one", "tw"]);
    check(&[b"one\n", b""], true, &["one", ""]);
}

#[test]
fn a_worker_that_prints_more_than_it_may_is_cut_off_as_it_would_have_done() {
    let (sender, lines) = unbounded();
    let sink = OutputSink::callback(move |line| drop(sender.send(line)));
    let spec = Spec::popen().with_limits(Limits { output_bytes: 10, ..Limits::default() });
    let mut stage = Stage::with_output(spec, sink);
    let task = stage.execution();
    print(&mut stage.worker, 1, Stream::Stdout, b"12345\n", false);
    stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), 6));
    print(&mut stage.worker, 1, Stream::Stderr, b"6789ab\n", false);
    stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), 4));
    print(&mut stage.worker, 1, Stream::Stdout, b"more\n", false);
    // What is dropped gets no credit, so that there is an end of it.
    stage.settle();
    print(&mut stage.worker, 1, Stream::Stdout, &[b'x'; 60_000], false);
    stage.settle();
    let texts: Vec<_> = lines.try_iter().map(|line| (line.text.clone(), line.limit, line.to_string())).collect();
    let marked = "[gw0 #1 stderr] 6789 [output limit of 10 bytes reached, the rest is dropped; setting `output=`]";
    let expected = [("12345", None, "[gw0 #1 stdout] 12345"), ("6789", Some(10), marked)];
    assert_eq!(texts, expected.map(|(text, limit, shown)| (text.to_owned(), limit, shown.to_owned())));
    print(&mut stage.worker, 1, Stream::Stdout, &[b'x'; 10_000], false);
    let loss = stage.loss().to_string();
    assert!(loss.contains("sent output without credit"), "{loss}");
    assert!(task.outcome().is_some());
}

#[test]
fn a_long_line_is_cut_between_characters() {
    let x = "x".repeat(MAX_LINE_BYTES);
    let almost = "x".repeat(MAX_LINE_BYTES - 1);
    check(&[format!("{x}\nnext\n").as_bytes()], false, &[&x, "next"]);
    check(&[format!("{x}y\n").as_bytes()], false, &[&x, "y"]);
    check(&[x.as_bytes(), x.as_bytes(), b"\n"], false, &[&x, &x]);
    let second = format!("\u{e9}{}", &almost[1..]);
    check(&[format!("{almost}{second}x\n").as_bytes()], false, &[&almost, &second, "x"]);
}

#[test]
fn streams_and_executions_do_not_mix() {
    let (mut stage, lines) = lines();
    let (_first, _second) = (stage.execution(), stage.execution());
    for (id, stream, text) in [
        (1, Stream::Stdout, "a"),
        (3, Stream::Stdout, "b"),
        (1, Stream::Stderr, "c"),
        (1, Stream::Stdout, "d\n"),
        (3, Stream::Stdout, "e\n"),
        (1, Stream::Stderr, "f"),
    ] {
        print(&mut stage.worker, id, stream, text.as_bytes(), false);
    }
    stage.worker.hang_up();
    let mut found: Vec<_> = (0..3)
        .map(|_| lines.recv_timeout(PATIENCE).expect("another line"))
        .map(|line| (line.channel, line.stream, line.text))
        .collect();
    let last = found.pop();
    assert_eq!(found, [(1, Stream::Stdout, "ad".to_owned()), (3, Stream::Stdout, "be".to_owned())]);
    assert_eq!(last, Some((1, Stream::Stderr, "cf".to_owned())), "flushed when the worker is lost");
}

#[test]
fn a_line_on_a_terminal_has_a_prefix_and_no_escapes() {
    let (mut stage, lines) = lines();
    let _task = stage.execution();
    print(&mut stage.worker, 1, Stream::Stderr, b"\x1b[2Jgone", true);
    let line = lines.recv_timeout(PATIENCE).unwrap();
    let note = "[output limit of 16777216 bytes reached, the rest is dropped; setting `output=`]";
    assert_eq!(line.to_string(), format!("[gw0 #1 stderr] \\u{{1b}}[2Jgone {note}"));
}

#[test]
fn pieces_are_bytes_as_they_came() {
    let (sender, pieces) = unbounded();
    let (let_go, may_go) = bounded::<()>(1);
    let sink = OutputSink::pieces(move |piece| {
        let _ = may_go.recv_timeout(PATIENCE);
        drop(sender.send((piece.channel, piece.stream, piece.bytes.to_vec(), piece.truncated)));
    });
    let mut stage = Stage::with_output(Spec::popen(), sink);
    let task = stage.execution();
    print(&mut stage.worker, 1, Stream::Stderr, b"\xff\n\0x", true);
    stage.worker.send(&done(1, Outcome::Returned));
    task.wait_close_timeout(PATIENCE).unwrap();
    assert!(!stage.gateway().wait_output(Duration::from_millis(1)), "it is not handed on yet");
    let_go.send(()).unwrap();
    assert!(stage.gateway().wait_output(PATIENCE));
    assert_eq!(pieces.try_iter().collect::<Vec<_>>(), [(1, Stream::Stderr, b"\xff\n\0x".to_vec(), true)]);
    stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), 4));
}

#[test]
fn a_sink_that_blocks_withholds_credit_and_nothing_else() {
    let (entered, has_entered) = bounded(1);
    let (let_go, may_go) = bounded::<()>(1);
    let sink = OutputSink::callback(move |_| {
        let _ = entered.try_send(());
        let _ = may_go.recv_timeout(PATIENCE);
    });
    let mut stage = Stage::with_output(Spec::popen(), sink);
    let task = stage.execution();
    print(&mut stage.worker, 1, Stream::Stdout, b"one\n", false);
    has_entered.recv_timeout(PATIENCE).expect("the sink to be called");
    stage.worker.data(1, &[1]);
    assert_eq!(task.receive_timeout::<u8>(PATIENCE).unwrap(), 1);
    // The worker has read everything, and there is no credit among it.
    stage.settle();
    let_go.send(()).unwrap();
    stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), 4));
}

#[test]
fn a_sink_that_panics_gets_the_next_line_all_the_same() {
    let (sender, lines) = unbounded();
    let sink = OutputSink::callback(move |line: OutputLine| {
        let text = line.text.clone();
        let _ = sender.send(line);
        assert_ne!(text, "panic");
    });
    let mut stage = Stage::with_output(Spec::popen(), sink);
    let _task = stage.execution();
    print(&mut stage.worker, 1, Stream::Stdout, b"panic\nnext\n", false);
    stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), 11));
    assert_eq!(lines.try_iter().map(|line| line.text).collect::<Vec<_>>(), ["panic", "next"]);
}

#[test]
fn a_sink_that_is_discarded_costs_the_guest_nothing() {
    let mut stage = Stage::new();
    let task = stage.execution();
    print(&mut stage.worker, 1, Stream::Stdout, b"one\n", false);
    stage.worker.expect(&ToWorker::OutputCredit(ChannelId(1), 4));
    stage.worker.send(&done(1, Outcome::Killed { by: KilledBy::Kill, started: true }));
    task.wait_close_timeout(PATIENCE).unwrap_err();
    // A piece that waited would hold it.
    eventually("nothing to wait anywhere", || Arc::strong_count(task.endpoint()) == 1);
}
