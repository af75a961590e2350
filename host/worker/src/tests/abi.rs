//! What a guest gets for wrong pointers, wrong handles and wrong sizes: a status, every time.

use sandgate_wire::message::Close;
use sandgate_wire::{Message, Outcome};

use super::host::*;

const ROOM: &str = "(i32.const 512) (i32.const 16) (i32.const 8)";

#[test]
fn wrong_pointers_and_handles() {
    let end = 65_536_u32;
    let send = |handle: i64, pointer: u32, length: u32, channels: u32, count: u32| {
        format!(
            "(call $send (i32.const {handle}) (i32.const {pointer}) (i32.const {length}) (i32.const {channels}) (i32.const {count}) (i64.const 0))"
        )
    };
    let receive = |handle: i64, numbers: [u32; 5]| {
        let numbers = numbers.map(|number| format!("(i32.const {number})")).concat();
        format!("(call $receive (i32.const {handle}) {numbers} (i64.const 0))")
    };
    let ok = |status: i32, expression: String| (status, expression);
    let cases = vec![
        ok(0, send(0, 0, 0, 0, 0)),
        ok(0, send(0, u32::MAX, 0, u32::MAX, 0)),
        ok(0, send(0, end - 1, 1, 0, 0)),
        ok(0, send(0, 0, end, 0, 0)),
        ok(-5, send(0, end - 1, 2, 0, 0)),
        ok(-5, send(0, end, 1, 0, 0)),
        ok(-5, send(0, u32::MAX, 1, 0, 0)),
        ok(-5, send(0, u32::MAX, u32::MAX, 0, 0)),
        ok(-5, send(0, 1, u32::MAX, 0, 0)),
        ok(-5, send(0, 0, 0, end - 3, 1)),
        ok(-5, send(0, 0, 0, 0, u32::MAX)),
        ok(-5, send(0, 0, 0, 8, 0x4000_0000)),
        ok(-6, send(0, 0, 0, 0, 65)),
        ok(
            -4,
            send(0, 0, 0, 1024, 1).replace("(call $send", "(i32.store (i32.const 1024) (i32.const 77)) (call $send"),
        ),
        ok(-4, send(1, 0, 0, 0, 0)),
        ok(-4, send(-1, 0, 0, 0, 0)),
        ok(-4, send(0x7fff_ffff, 0, 0, 0, 0)),
        ok(-4, send(-2_147_483_648, u32::MAX, 1, 0, 0)),
        ok(-2, receive(0, [0, 0, 0, 0, 0])),
        ok(-2, receive(0, [0, end, 0, end / 4, end - 8])),
        ok(-5, receive(0, [1, end, 0, 0, 0])),
        ok(-5, receive(0, [0, u32::MAX, 0, 0, 0])),
        ok(-5, receive(0, [0, 0, 0, u32::MAX, 0])),
        ok(-5, receive(0, [0, 0, 0, 0, end - 7])),
        ok(-5, receive(0, [0, 0, 0, 0, u32::MAX])),
        ok(-4, receive(5, [0, 0, 0, 0, u32::MAX])),
        ok(-2, "(call $wait (i32.const 0) (i32.const 0) (i64.const 0))".to_owned()),
        ok(-2, "(call $wait (i32.const 0) (i32.const 0) (i64.const 1000))".to_owned()),
        ok(-2, "(call $wait (i32.const 0) (i32.const 1) (i64.const 0))".to_owned()),
        ok(-5, "(call $wait (i32.const -4) (i32.const 2) (i64.const 0))".to_owned()),
        ok(-5, "(call $wait (i32.const 0) (i32.const -1) (i64.const 0))".to_owned()),
        ok(-9, "(call $close (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))".to_owned()),
        ok(-4, "(call $close (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0))".to_owned()),
        ok(-5, "(call $close (call $new) (i32.const 0) (i32.const -1) (i32.const 1))".to_owned()),
        ok(0, "(call $close (call $new) (i32.const -1) (i32.const -1) (i32.const 0))".to_owned()),
        ok(-1, "(call $error (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))".to_owned()),
        ok(-5, "(call $error (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))".to_owned()),
        ok(-4, "(call $error (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 0))".to_owned()),
        ok(-9, "(call $drop (i32.const 0))".to_owned()),
        ok(-4, "(call $drop (i32.const 1))".to_owned()),
        ok(-4, "(call $drop (i32.const -1))".to_owned()),
        ok(-1, format!("(call $args (i32.const 0) (i32.const 0) {ROOM})")),
        ok(-5, format!("(call $args (i32.const -1) (i32.const 1) {ROOM})")),
        ok(-5, "(call $report (i32.const 1) (i32.const -1) (i32.const 2))".to_owned()),
        ok(-5, "(call $report (i32.const 1) (i32.const 0) (i32.const -1))".to_owned()),
        ok(-9, "(call $report (i32.const 7) (i32.const 0) (i32.const 0))".to_owned()),
        // WASI's errors are positive.
        ok(-21, minus("(call $random (i32.const 0) (i32.const -1))")),
        ok(-21, minus("(call $random (i32.const -1) (i32.const 1))")),
        ok(0, minus("(call $random (i32.const -1) (i32.const 0))")),
        ok(-28, minus("(call $poll (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))")),
        ok(-28, minus("(call $poll (i32.const 0) (i32.const 0) (i32.const 1000000) (i32.const 0))")),
        ok(-21, minus("(call $poll (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 0))")),
        ok(-21, minus("(call $write (i32.const 1) (i32.const -8) (i32.const 2) (i32.const 0))")),
        ok(-28, minus("(call $write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0))")),
        ok(-8, minus("(call $write (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))")),
        ok(-8, minus("(call $write (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0))")),
        ok(
            -8,
            minus(
                "(call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0))",
            ),
        ),
    ];
    let mut host = Host::new(1);
    for (status, expression) in cases {
        let text = match expression.strip_prefix("(i32.store") {
            // A preparation, then the call.
            Some(_) => {
                let (prepare, call) = expression.split_once(") (call").unwrap();
                guest(&format!("{prepare}) {}", exit_with(&format!("(call{call}"))))
            }
            None => guest_status(&expression),
        };
        let channel = host.start(&text, Call::default());
        assert_eq!(host.done(channel), status_outcome(status), "{expression}");
    }
}

fn minus(expression: &str) -> String {
    format!("(i32.sub (i32.const 0) {expression})")
}

#[test]
fn a_message_that_is_too_large_for_its_buffer_is_kept() {
    // Tries with no room at all, checks status and size, and echoes with room.
    let text = guest(&format!(
        "(if (i32.ne (call $receive (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 8) (i64.const -1)) (i32.const -3))
            (then unreachable))
         (if (i32.ne (i32.load (i32.const 8)) (i32.const 5)) (then unreachable))
         (if (i32.ne (i32.load (i32.const 12)) (i32.const 1)) (then unreachable))
         (if (i32.ne (call $receive (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 8) (i64.const -1)) (i32.const -3))
            (then unreachable))
         (if {RECEIVE} (then unreachable))
         (drop {ECHO})"
    ));
    let mut host = Host::new(1);
    let channel = host.start(&text, Call::default());
    let attached = host.open();
    host.data(channel, b"12345", &[attached]);
    let expected = Message { bytes: b"12345"[..].into(), channels: vec![attached] };
    assert_eq!(host.receive(channel), expected);
    assert_eq!(host.done(channel), Outcome::Returned);
    assert_eq!(host.closed(attached), Close::default());
}

#[test]
fn the_end_and_the_error_of_a_channel_come_every_time_after_its_messages() {
    let receive_twice = |first: i32| {
        guest(&format!(
            "(if {RECEIVE} (then unreachable))
             (if (i32.ne {RECEIVE} (i32.const {first})) (then unreachable))
             (if (i32.ne (call $wait (i32.const 0) (i32.const 1) (i64.const -1)) (i32.const 0)) (then unreachable))
             {}",
            exit_with(RECEIVE)
        ))
        .replace("(call $wait (i32.const 0)", "(call $wait (i32.const 4096)")
    };
    for (error, sending_only, status) in
        [(None, true, -1), (None, false, -1), (Some("broken"), true, -8), (Some("broken"), false, -8)]
    {
        let mut host = Host::new(1);
        let channel = host.start(&receive_twice(status), Call::default());
        host.data(channel, b"last", &[]);
        host.close(channel, error, sending_only);
        assert_eq!(host.done(channel), status_outcome(status));
    }
}

#[test]
fn a_guest_can_send_on_until_the_host_closes_fully() {
    let text = guest(&format!("(if (i32.ne {RECEIVE} (i32.const -1)) (then unreachable)) {}", exit_with(SEND_1)));
    for (sending_only, status) in [(true, 0), (false, -1)] {
        let mut host = Host::new(1);
        let channel = host.start(&text, Call::default());
        host.close(channel, None, sending_only);
        assert_eq!(host.done(channel), status_outcome(status));
    }
}

#[test]
fn the_text_of_a_peer_error() {
    let text = guest(&format!(
        "(if (i32.ne {RECEIVE} (i32.const -8)) (then unreachable))
         (if (i32.ne (call $error (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 8)) (i32.const -3)) (then unreachable))
         (if (call $error (i32.const 0) (i32.const 1024) (i32.const 6) (i32.const 8)) (then unreachable))
         (drop {ECHO})"
    ));
    let mut host = Host::new(1);
    let channel = host.start(&text, Call::default());
    host.close(channel, Some("broken"), true);
    assert_eq!(host.receive_bytes(channel), b"broken");
}

#[test]
fn output_may_lie_over_input() {
    // Bytes, handles and size all go to 16: the size is written last.
    let text = guest(&format!(
        "(if (call $receive (i32.const 0) (i32.const 16) (i32.const 8) (i32.const 16) (i32.const 1) (i32.const 16) (i64.const -1)) (then unreachable))
         (i64.store (i32.const 1024) (i64.load (i32.const 16)))
         (drop {})",
        SEND_1.replace("(i32.const 1)", "(i32.const 8)")
    ));
    let mut host = Host::new(1);
    let channel = host.start(&text, Call::default());
    host.data(channel, &[9; 8], &[]);
    assert_eq!(host.receive_bytes(channel), [8, 0, 0, 0, 0, 0, 0, 0]);
}
