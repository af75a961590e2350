//! Millions of messages to a task and back, each compared with what was sent in its place: nothing is lost, doubled, changed or
//! out of order, over each transport.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use sandgate::{Call, Channel, Limits, Spec, Transport};

use crate::fixtures::Fixtures;
use crate::machine::Machine;

/// Nothing may take longer than this to move.
const PATIENCE: Duration = Duration::from_secs(60);
/// One of so many messages is large, and goes in chunks.
const LARGE_EACH: u64 = 65_521;
const LARGE_BYTES: usize = 300 << 10;
/// Lengths of all others, which make frames of one and of several messages, on the stack and on the heap.
const SMALL_BYTES: [usize; 8] = [8, 9, 16, 23, 24, 31, 64, 600];

/// Over what messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    Ring,
    Socket,
    Both,
}

/// Sends so many messages to a task that sends them back, over each of these transports, and prints how long that took.
pub(crate) fn run(fixtures: &Fixtures, count: u64, over: Over) -> Result<()> {
    println!("{}", Machine::describe().summary());
    println!("{count} messages to a task and as many back, each compared with what was sent in its place\n");
    for (name, transport, is_asked) in
        [("ring", Transport::Ring, over != Over::Socket), ("socket", Transport::Socket, over != Over::Ring)]
    {
        if !is_asked {
            continue;
        }
        let seconds = echoed(fixtures, count, transport).with_context(|| format!("over transport `{name}`"))?;
        let rate = 2e-6 * count as f64 / seconds;
        println!("{name:<7} {count} of {count} in order, {seconds:.1} s, {rate:.2} million messages a second");
    }
    Ok(())
}

fn echoed(fixtures: &Fixtures, count: u64, transport: Transport) -> Result<f64> {
    let group = fixtures.builder().build();
    let gateway = group.make_gateway(Spec::popen().transport(transport))?;
    let limits = Limits { wall_time: None, cpu_time: None, ..Limits::default() };
    let channel = gateway.remote_exec_with(&fixtures.module("echo")?, &Call::start().limits(limits))?;
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| send(&channel, count));
        let received = receive(&channel, count);
        if received.is_err() {
            // Nothing moves any more, so that the sender need not wait for it.
            channel.close();
        }
        let sent = sender.join().expect("it does not panic");
        match (received, sent) {
            (Err(received), Err(sent)) => bail!("{received:#}; and {sent:#}"),
            (received, sent) => received.and(sent),
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    channel.close_send();
    ensure!(channel.receive_bytes_timeout(PATIENCE).is_err(), "there is a message that nobody sent");
    channel.wait_close_timeout(PATIENCE)?;
    Ok(seconds)
}

fn send(channel: &Channel, count: u64) -> Result<()> {
    let mut message = Vec::new();
    for number in 0..count {
        write(number, &mut message);
        channel.send_bytes_timeout(&message, PATIENCE).with_context(|| format!("message {number} is not taken"))?;
    }
    Ok(())
}

fn receive(channel: &Channel, count: u64) -> Result<()> {
    let mut expected = Vec::new();
    for number in 0..count {
        let came = channel.receive_bytes_timeout(PATIENCE).with_context(|| format!("message {number} did not come"))?;
        write(number, &mut expected);
        ensure!(
            came == expected,
            "in the place of message {number} of {} bytes came one of {} bytes, number {:?}",
            expected.len(),
            came.len(),
            came.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
        );
    }
    Ok(())
}

/// What the message of this number is.
fn write(number: u64, to: &mut Vec<u8>) {
    let length = match number % LARGE_EACH {
        0 => LARGE_BYTES,
        place => SMALL_BYTES[usize::try_from(place).unwrap_or(0) % SMALL_BYTES.len()],
    };
    to.clear();
    to.extend_from_slice(&number.to_le_bytes());
    to.resize(length, number.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_says_its_number_and_some_are_large() {
        let mut message = Vec::new();
        for number in [0, 1, 7, LARGE_EACH, LARGE_EACH + 1] {
            write(number, &mut message);
            assert_eq!(message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)), Some(number));
            assert_eq!(message.len() == LARGE_BYTES, number % LARGE_EACH == 0);
        }
    }
}
