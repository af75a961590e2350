//! What a guest can be doing when somebody wants its end.

use std::time::Duration;

use sandgate::{Call, Channel, Event, Gateway, Module, MultiChannel, QueueError, SendError};

use crate::remote::{LIMIT, module, run};
use crate::waiting::eventually;

/// A module that never gets as far as its entry point.
pub const LOOP_IN_START: &str = r#"(module
    (func $start (loop $again (br $again)))
    (func (export "_start"))
    (start $start))"#;

/// Something that a guest does until it is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It computes and calls nothing.
    Computes,
    /// It sleeps, in a call of WASI.
    Sleeps,
    /// It waits for a message, and ends when there can be none.
    Receives,
    /// It receives again and again, whatever it is answered.
    ReceivesForEver,
    /// It sends, and the host takes nothing.
    Sends,
    /// It is in its module's `start` function, before its entry point.
    InStart,
    /// It sends, and the host takes nothing; the host sends, and the guest takes nothing.
    BothFull,
}

impl State {
    /// All of them.
    pub const ALL: [State; 7] = [
        State::Computes,
        State::Sleeps,
        State::Receives,
        State::ReceivesForEver,
        State::Sends,
        State::InStart,
        State::BothFull,
    ];

    /// The module whose `main` gets there, except for [`State::BothFull`], to which the host has to contribute.
    pub fn module(self) -> Module {
        match self {
            State::Computes => module("spin"),
            State::Sleeps => module("sleeper"),
            State::Receives => module("silent"),
            State::ReceivesForEver => module("receives_forever"),
            State::Sends => module("flood"),
            State::InStart => wat(LOOP_IN_START),
            State::BothFull => module("echo"),
        }
    }

    /// Runs a guest on `gateway` until it is in this state, or a few instructions away from it.
    ///
    /// # Panics
    ///
    /// When it does not get there.
    pub fn enter(self, gateway: &Gateway) -> Channel {
        let before = gateway.status().expect("a gateway that is alive").running;
        let channel = gateway.remote_exec_with(&self.module(), &Call::start()).expect("a guest that runs");
        match self {
            State::Sleeps | State::ReceivesForEver => drop(channel.receive_bytes_timeout(LIMIT).expect("it says so")),
            State::Computes | State::Receives | State::Sends | State::InStart => {
                eventually(LIMIT, "a guest that runs", || gateway.status().expect("a status").running > before);
            }
            State::BothFull => fill(&channel),
        }
        channel
    }
}

/// Sends to a guest that echoes until it takes nothing more, because nobody takes its echo.
fn fill(channel: &Channel) {
    let message = vec![0xee; 64 * 1024];
    loop {
        match channel.send_bytes_timeout(message.clone(), Duration::from_millis(200)) {
            Ok(()) => {}
            Err(SendError::Timeout(_)) => return,
            Err(error) => panic!("a guest that is full ends: {error}"),
        }
    }
}

/// The module of a text in WebAssembly's text format.
///
/// # Panics
///
/// When it is none.
#[track_caller]
pub fn wat(text: &str) -> Module {
    Module::from_bytes(wat::parse_str(text).expect("a module as text")).expect("a module that is not empty")
}

/// Checks that each of `channels`, on which nobody has received, has exactly one end, which is its outcome.
///
/// # Panics
///
/// When one has none, or more.
#[track_caller]
pub fn assert_one_end_each(channels: &[Channel]) {
    let multi = MultiChannel::new(channels.iter().cloned());
    let queue = multi.make_receive_queue::<()>().expect("channels without a consumer");
    let mut ends = vec![0; channels.len()];
    loop {
        match queue.get_timeout(LIMIT) {
            Ok((_, Event::Item(()))) | Err(QueueError::Decode { .. }) => {}
            Ok((channel, Event::End(outcome))) => {
                assert_eq!(channel.outcome(), Some(outcome));
                let position = channels.iter().position(|other| *other == channel).expect("one of them");
                ends[position] += 1;
            }
            Err(QueueError::Exhausted) => break,
            Err(error) => panic!("an end does not come: {error}"),
        }
    }
    assert!(ends.iter().all(|count| *count == 1), "ends of the channels: {ends:?}");
}

/// Whether a message gets to the guest `echo` behind `channel` and back.
///
/// # Panics
///
/// When it does not.
#[track_caller]
pub fn assert_echoes(channel: &Channel) {
    for number in 0..10_u32 {
        channel.send_timeout(&number, LIMIT).expect("a guest that takes messages");
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).expect("an echo"), number);
    }
}

/// Starts the guest `echo`, to see whether others disturb it.
///
/// # Panics
///
/// When it does not run.
#[track_caller]
pub fn sibling(gateway: &Gateway) -> Channel {
    let channel = run(gateway, "echo");
    assert_echoes(&channel);
    channel
}
