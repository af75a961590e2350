//! What the host does while a guest runs.

use std::time::{Duration, Instant};

use sandgate::{Channel, ReceiveError, SendError};
use sandgate_tests::LIMIT;

/// Takes everything and keeps nothing.
pub(crate) fn listens(channel: &Channel) -> Result<(), String> {
    loop {
        match channel.receive_bytes_timeout(LIMIT) {
            Ok(_) => {}
            Err(ReceiveError::Ended(_)) => return Ok(()),
            Err(error) => return Err(format!("the host cannot listen: {error}")),
        }
    }
}

/// Takes nothing.
#[expect(clippy::unnecessary_wraps, reason = "as all visits")]
pub(crate) fn ignores(_: &Channel) -> Result<(), String> {
    Ok(())
}

/// Expects these messages and no others.
pub(crate) fn hears(channel: &Channel, messages: &[&[u8]]) -> Result<(), String> {
    let mut heard = Vec::new();
    loop {
        match channel.receive_bytes_timeout(LIMIT) {
            Ok(message) => heard.push(message),
            Err(ReceiveError::Ended(_)) if heard == messages => return Ok(()),
            Err(error) => return Err(format!("the host heard {heard:?} instead of {messages:?}, then: {error}")),
        }
    }
}

/// Sends without end, and has to be held back by the guest that takes nothing.
pub(crate) fn floods(channel: &Channel) -> Result<(), String> {
    let message = vec![0x5a; 4096];
    let (mut sent, mut was_held) = (0_u64, false);
    loop {
        match channel.send_bytes_timeout(message.clone(), Duration::from_millis(10)) {
            Ok(()) => sent += message.len() as u64,
            Err(SendError::Timeout(_)) => was_held = true,
            Err(SendError::Ended(_)) => break,
            Err(error) => return Err(format!("the host cannot send: {error}")),
        }
    }
    let window = sandgate_wire::limits::WINDOW_BYTES;
    if !was_held || sent > 2 * window {
        return Err(format!("the host sent {sent} bytes to a guest that takes nothing; held back: {was_held}"));
    }
    Ok(())
}

/// Kills the guest once it has said something, and expects a quick answer.
pub(crate) fn kills_once_it_speaks(channel: &Channel) -> Result<(), String> {
    channel.receive_bytes_timeout(LIMIT).map_err(|error| format!("the guest does not begin: {error}"))?;
    kills(channel)
}

/// Kills the guest.
pub(crate) fn kills(channel: &Channel) -> Result<(), String> {
    let start = Instant::now();
    channel.kill().map_err(|error| error.to_string())?;
    let took = start.elapsed();
    if took > Duration::from_secs(1) { Err(format!("the kill took {took:?}")) } else { Ok(()) }
}

/// Sends a few messages, of which the guest may make what it likes, and ends its input.
pub(crate) fn sends(count: u32, bytes: usize) -> impl Fn(&Channel) -> Result<(), String> + Send + 'static {
    move |channel| {
        for _ in 0..count {
            channel.send_bytes_timeout(vec![7; bytes], LIMIT).map_err(|error| error.to_string())?;
        }
        channel.close_send();
        listens(channel)
    }
}

/// Closes the channel at once.
#[expect(clippy::unnecessary_wraps, reason = "as all visits")]
pub(crate) fn closes(channel: &Channel) -> Result<(), String> {
    channel.close();
    Ok(())
}
