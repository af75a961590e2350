//! Many small messages, none of which is lost, doubled or out of order, over each transport.

use std::thread;
use std::time::{Duration, Instant};

use sandgate::Transport;
use sandgate_tests::{builder, popen, run, within};

/// How many messages cross, for runs that are longer than a test.
const VARIABLE: &str = "SANDGATE_ORDER_MESSAGES";
const MESSAGES: u64 = 100_000;

#[test]
fn messages_come_in_order_through_rings() {
    check(Transport::Ring);
}

#[test]
fn messages_come_in_order_through_a_socket() {
    check(Transport::Socket);
}

#[expect(clippy::print_stdout, reason = "a figure for whoever asks for many messages")]
fn check(transport: Transport) {
    let messages: u64 = std::env::var(VARIABLE).map_or(MESSAGES, |number| number.parse().unwrap());
    let group = builder().build();
    let gateway = group.make_gateway(popen().transport(transport)).unwrap();
    let channel = run(&gateway, "echo");
    // Each crosses twice.
    let echoes = messages / 2;
    let limit = Duration::from_secs(60 + messages / 100_000);
    let start = Instant::now();
    within(limit, "all messages to come back", move || {
        let sending = channel.clone();
        thread::scope(|scope| {
            scope.spawn(move || (0..echoes).for_each(|number| sending.send_bytes(number.to_le_bytes()).unwrap()));
            for number in 0..echoes {
                assert_eq!(channel.receive_bytes().unwrap(), number.to_le_bytes(), "message {number}");
            }
        });
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("{}: {messages} messages in order, both ways together, in {seconds:.1} s", transport.name());
}
