//! What guests print arrives as lines, with the gateway and the channel they come from.

use std::collections::BTreeMap;
use std::sync::mpsc;

use guest_protocol::Print;
use sandgate::{OutputLine, OutputSink, Stream};
use sandgate_tests::{LIMIT, assert_echoes, builder, module, run_with, sibling, spec, within};

#[test]
fn lines_say_where_they_come_from() {
    let (sender, lines) = mpsc::channel::<OutputLine>();
    let group = builder().output(OutputSink::callback(move |line| drop(sender.send(line)))).build();
    let gateways = group.make_gateways(["popen//id=a", "popen//id=b"].map(spec)).unwrap();
    let print = Print { lines: 3, line_bytes: 5, unfinished: true };
    let channels: Vec<_> =
        gateways.iter().flat_map(|gateway| [(); 2].map(|()| run_with(gateway, "prints", &print))).collect();
    for channel in &channels {
        channel.wait_close_timeout(LIMIT).unwrap();
    }
    // The lines of a gateway are out when it is terminated.
    group.terminate(LIMIT);

    let mut by_origin: BTreeMap<(String, u64, bool), Vec<String>> = BTreeMap::new();
    for line in lines.try_iter() {
        assert!(!line.truncated);
        by_origin.entry((line.gateway, line.channel, line.stream == Stream::Stderr)).or_default().push(line.text);
    }
    assert_eq!(by_origin.len(), 8, "{by_origin:?}");
    for channel in &channels {
        let lines = |stderr| by_origin[&(channel.gateway_id().to_owned(), channel.id(), stderr)].join(" ");
        assert_eq!(lines(false), "xxxxx xxxxx xxxxx unfinished");
        assert_eq!(lines(true), "xxxxx xxxxx xxxxx");
    }
}

#[test]
fn named_tasks_print_too() {
    let (sender, lines) = mpsc::channel::<OutputLine>();
    let group = builder().output(OutputSink::callback(move |line| drop(sender.send(line)))).build();
    let gateway = group.make_default_gateway().unwrap();
    gateway.remote_exec_fn(&module("tasks"), "prints", &()).unwrap().wait_close_timeout(LIMIT).unwrap();
    for expected in ["a line", "no line"] {
        assert_eq!(lines.recv_timeout(LIMIT).unwrap().text, expected);
    }
}

#[test]
fn a_sink_that_blocks_stops_those_that_print_alone() {
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let sink = OutputSink::callback(move |_| {
        // Until the test lets go of the other end.
        let _ = wait.lock().expect("no panic").recv_timeout(LIMIT);
    });
    let group = builder().output(sink).build();
    let gateway = group.make_default_gateway().unwrap();
    let sibling = sibling(&gateway);
    let printing = run_with(&gateway, "prints", &Print { lines: 1000, line_bytes: 1000, unfinished: false });
    assert_echoes(&sibling);
    assert_eq!(printing.try_receive::<()>().unwrap(), None, "it waits for the sink, and has not come to its message");
    // It can be stopped all the same.
    let killed = printing.clone();
    within(LIMIT, "the end of a guest that prints", move || killed.kill()).unwrap();
    assert_echoes(&sibling);
    drop(release);
}
