//! E. The guest ABI: pointers, lengths, handles and messages that are not what they should be.

use std::time::Duration;

use sandgate::{Channel, Event};
use sandgate_tests::{LIMIT, eventually};

use crate::expected::Expected;
use crate::house::check;
use crate::row::{Row, row};
use crate::visit;
use crate::wasm::{program, with_memory};

const FAULT: i32 = -5;
const BAD_HANDLE: i32 = -4;
const TOO_LARGE: i32 = -6;
const LIMIT_STATUS: i32 = -7;
const CLOSED: i32 = -1;
const TIMEOUT: i32 = -2;

/// The time for what is done a million times, in code that is not optimised.
const MILLION: Duration = Duration::from_secs(25);

/// How many channels are made and dropped. Each takes an answer of the host, and the corpus's million half a minute in code that
/// is not optimised: `SANDGATE_HOSTILE_CHANNELS` says another number.
fn made_and_dropped() -> u32 {
    let number = std::env::var("SANDGATE_HOSTILE_CHANNELS").ok();
    number.map_or(100_000, |number| number.parse().expect("SANDGATE_HOSTILE_CHANNELS is a number"))
}

#[test]
fn the_abi_believes_nothing() {
    check("E", rows);
}

#[test]
fn callbacks_harm_their_own_channel_alone() {
    check("E, callbacks", callbacks);
}

/// Sends from a pointer with a length and expects a status.
fn send(pointer: &str, length: &str, status: i32) -> String {
    format!(
        "(call $want (call $channel_send (i32.const 0) (i32.const {pointer}) (i32.const {length})
            (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const {status}))"
    )
}

/// Receives into a pointer with a capacity, size at 1024, and expects a status.
fn receive(pointer: &str, capacity: &str, timeout: i64, status: i32) -> String {
    format!(
        "(call $want (call $channel_receive (i32.const 0) (i32.const {pointer}) (i32.const {capacity})
            (i32.const 0) (i32.const 0) (i32.const 1024) (i64.const {timeout})) (i32.const {status}))"
    )
}

pub(crate) fn rows() -> Vec<Row> {
    let body = |text: &str| program("", text);
    let mut rows = vec![
        row("pointer and length past the end", body(&send("65535", "2", FAULT))),
        row("pointer 0xffffffff", body(&send("0xffffffff", "1", FAULT))),
        row("pointer and length that overflow 32 bits", body(&send("0xfffffff0", "0x20", FAULT))),
        row("a negative length", body(&send("0", "-1", FAULT))),
        row("length 0 at a wild pointer", body(&send("0xffffffff", "0", 0))),
        row("a list of channels past the end", body(
            "(call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 65533) (i32.const 1) (i64.const 0)) (i32.const -5))",
        )),
        row("2^30 channels in a message", body(
            "(call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0x40000000) (i64.const 0)) (i32.const -5))",
        )),
        row("65 channels in a message", body(
            "(call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 65) (i64.const 0)) (i32.const -6))",
        )),
        row("output over input", body(
            "(i32.store (i32.const 1024) (i32.const 0x01020304))
             (drop (call $channel_receive (i32.const 0) (i32.const 1024) (i32.const 8) (i32.const 1024) (i32.const 2) (i32.const 1024) (i64.const 1000000000)))
             (call $say (i32.const 1024))",
        ))
        .host(visit::sends(1, 8)),
        row("sending all of memory", with_memory("1024", "", &send("0", "0x4000000", 0))).host_may_grow(160 << 20).worker_may_grow(160 << 20),
        row("sending more than a message may have", with_memory("1025", "", &send("0", "0x4010000", TOO_LARGE))),
        row("sending all of memory, again and again", with_memory(
            "1024",
            "",
            &format!(
                "(local.set $i (i32.const 5)) (loop $l {} (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
                "(drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 0x4000000) (i32.const 0) (i32.const 0) (i64.const -1)))",
            ),
        ))
        .host_may_grow(320 << 20)
        .worker_may_grow(320 << 20),
        row("capacities of 2^32-1", body(&receive("0", "-1", 0, FAULT))),
        row("a list of 2^32-1 handles to wait for", body(
            "(call $want (call $channel_wait (i32.const 0) (i32.const -1) (i64.const 0)) (i32.const -5))",
        )),
        row("a million empty sends", body(
            "(local.set $i (i32.const 1000000))
             (loop $l
                (call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
        ))
        .timeout(MILLION),
        row("a flood of tiny sends that nobody reads", body(
            "(loop $l
                (call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
                (br $l))",
        ))
        .host(visit::ignores)
        .timeout(Duration::from_millis(500))
        .expect(Expected::TimedOut),
        row("a flood of large sends that nobody reads", with_memory(
            "16",
            "",
            "(loop $l
                (call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 1000000) (i32.const 0) (i32.const 0) (i64.const -1)) (i32.const 0))
                (br $l))",
        ))
        .host(visit::ignores)
        .timeout(Duration::from_millis(500))
        .expect(Expected::TimedOut),
        // Kept and sized: TOO_SMALL twice, then the whole of it.
        row("a receive buffer that is too small", body(&format!(
            "{} {} (if (i32.ne (i32.load (i32.const 1024)) (i32.const 8)) (then (call $proc_exit (i32.const 66)))) {} {}",
            receive("0", "7", -1, -3),
            receive("0", "0", -1, -3),
            receive("0", "8", -1, 0),
            "(if (i64.ne (i64.load (i32.const 0)) (i64.const 0x0707070707070707)) (then (call $proc_exit (i32.const 67))))",
        )))
        .host(visit::sends(1, 8)),
        row("receive on a channel that ended, every time", body(&format!(
            "{} {} {}",
            receive("0", "8", -1, CLOSED),
            receive("0", "8", -1, CLOSED),
            receive("0", "8", -1, CLOSED),
        )))
        .host(visit::sends(0, 0)),
        row("receive with a deadline on a silent channel", body(&receive("0", "8", 1_000_000, TIMEOUT))),
        row("receive for ever on a silent channel", body(&receive("0", "8", -1, 0))).times_out(),
        row("receive for ever on a silent channel, killed", body(&format!("(call $say (i32.const 0)) {}", receive("0", "8", -1, 0))))
            .host(visit::kills_once_it_speaks)
            .expect(Expected::Killed),
        row("send for ever without credit, killed", body(
            "(loop $l (drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 0) (i64.const -1))) (br $l))",
        ))
        .host(visit::kills_once_it_speaks)
        .expect(Expected::Killed),
        row("wait for ever on nothing", body("(drop (call $channel_wait (i32.const 0) (i32.const 0) (i64.const -1)))")).times_out(),
        row("wait for 2^63-1 ns", body("(drop (call $channel_wait (i32.const 0) (i32.const 0) (i64.const 0x7fffffffffffffff)))")).times_out(),
        row("a million channels", body(
            "(local.set $i (i32.const 1000000))
             (loop $l
                (drop (call $channel_new))
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
             (call $want (call $channel_new) (i32.const -7))",
        )),
        row("channels made and dropped by the hundred thousand", body(&format!(
            "(local.set $i (i32.const {}))
             (loop $l
                (call $want (call $channel_drop (call $channel_new)) (i32.const 0))
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
            made_and_dropped(),
        )))
        .timeout(MILLION),
        row("its own channel cannot be closed or dropped", body(
            "(call $want (call $channel_close (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const -9))
             (call $want (call $channel_drop (i32.const 0)) (i32.const -9))",
        )),
        row("a channel inside itself", body(
            "(local.set $i (call $channel_new))
             (i32.store (i32.const 0) (local.get $i))
             (drop (call $channel_send (local.get $i) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 1) (i64.const 0)))
             (drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 1) (i64.const 0)))",
        )),
        row("the same channel 64 times in a message", body(
            "(drop (call $channel_new))
             (memory.fill (i32.const 0) (i32.const 0) (i32.const 256))
             (drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 64) (i64.const 0)))",
        )),
        row("an error text of 64 KiB", body(
            "(local.set $i (call $channel_new))
             (memory.fill (i32.const 0) (i32.const 0x1b) (i32.const 65536))
             (call $want (call $channel_close (local.get $i) (i32.const 0) (i32.const 65536) (i32.const 1)) (i32.const 0))",
        )),
        row("a report of 64 KiB of escapes", body(
            "(memory.fill (i32.const 0) (i32.const 0x1b) (i32.const 65536))
             (call $want (call $task_report (i32.const 1) (i32.const 0) (i32.const 65536)) (i32.const 0))",
        ))
        .expect(Expected::Failed("")),
        row("a report of a kind that there is not", body("(drop (call $task_report (i32.const 99) (i32.const 0) (i32.const 9)))")),
        row("a hundred thousand reports", body(
            "(local.set $i (i32.const 100000))
             (loop $l
                (drop (call $task_report (i32.const 2) (i32.const 0) (i32.const 100)))
                (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
        )),
        row("arguments taken twice", body(
            "(call $want (call $call_args (i32.const 0) (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 1024)) (i32.const 0))
             (call $want (call $call_args (i32.const 0) (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 1024)) (i32.const -1))",
        ))
        .args(&7_u32),
        row("garbage that the host decodes", body(
            "(memory.fill (i32.const 0) (i32.const 0xff) (i32.const 4096))
             (drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 0) (i64.const -1)))
             (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))
             (drop (call $channel_send (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 0) (i32.const 0) (i64.const -1)))",
        ))
        .host(decodes),
    ];
    for handle in ["1", "-1", "2", "0x7fffffff", "0x80000000", "65536", "1024"] {
        rows.push(row(
            format!("a forged handle: {handle}"),
            body(&format!(
                "(call $want (call $channel_send (i32.const {handle}) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const {BAD_HANDLE}))
                 (call $want (call $channel_receive (i32.const {handle}) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 64) (i64.const 0)) (i32.const {BAD_HANDLE}))
                 (call $want (call $channel_close (i32.const {handle}) (i32.const 0) (i32.const 1) (i32.const 0)) (i32.const {BAD_HANDLE}))
                 (call $want (call $channel_error (i32.const {handle}) (i32.const 0) (i32.const 9) (i32.const 64)) (i32.const {BAD_HANDLE}))
                 (call $want (call $channel_drop (i32.const {handle})) (i32.const {BAD_HANDLE}))
                 (i32.store (i32.const 0) (i32.const {handle}))
                 (call $want (call $channel_wait (i32.const 0) (i32.const 1) (i64.const 0)) (i32.const {BAD_HANDLE}))
                 (call $want (call $channel_send (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i64.const 0)) (i32.const {BAD_HANDLE}))",
            )),
        ));
    }
    rows.push(
        row(
            "more channels than it may have",
            body(&format!(
                "(local.set $i (i32.const 7))
         (loop $l (drop (call $channel_new)) (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
         (call $want (call $channel_new) (i32.const {LIMIT_STATUS}))",
            )),
        )
        .limit(|limits| limits.channels = 8),
    );
    rows
}

/// Decodes what it gets as types that it is not, some of them deep.
fn decodes(channel: &Channel) -> Result<(), String> {
    #[derive(Debug, serde::Deserialize)]
    struct Nested(#[expect(dead_code, reason = "only decoded")] Option<Box<Nested>>);
    for _ in 0..2 {
        if let Ok(value) = channel.receive_timeout::<(Vec<Nested>, Vec<String>, Nested)>(LIMIT) {
            return Err(format!("garbage was decoded as {value:?}"));
        }
    }
    visit::listens(channel)
}

/// Rows with a callback of the host's. The threads that run callbacks wait for more work for a while, so there are few.
fn callbacks() -> Vec<Row> {
    // It waits for the end of its channel, so that it is not over before its message is looked at.
    let speaks = || program("", &format!("(call $say (i32.const 0)) {}", receive("0", "8", -1, CLOSED)));
    vec![
        // Where backtraces are on, the panic's own message reads the debug information of this program.
        row("a callback that panics", speaks())
            .host_may_grow(160 << 20)
            .host(|channel| set(channel, |_: Event<[u8; 4]>| panic!("as this test wants it to")))
            .expect(Expected::CallbackFailed("as this test wants it to")),
        row("a callback of another type", speaks())
            .host(|channel| set(channel, |_: Event<(String, u64)>| {}))
            .expect(Expected::CallbackFailed("cannot be decoded")),
        row("a callback that blocks", program("", "(loop $l (call $say (i32.const 0)) (br $l))"))
            .host(|channel| {
                let done = channel.clone();
                // It keeps its own channel waiting, and nobody else, until the guest is stopped.
                set(channel, move |event: Event<[u8; 4]>| {
                    if matches!(event, Event::Item(_)) {
                        eventually(LIMIT, "the end of the guest", || done.outcome().is_some());
                    }
                })
            })
            .times_out(),
    ]
}

fn set<T: serde::de::DeserializeOwned>(
    channel: &Channel,
    callback: impl FnMut(Event<T>) + Send + 'static,
) -> Result<(), String> {
    channel.set_callback(callback).map_err(|error| error.to_string())
}
