//! Channels that travel: named tasks.

use sandgate_guest::{Channel, Result, new_channel, task};
use serde::{Deserialize, Serialize};

/// A value with channels in it: `(String, Channel, Vec<Channel>)` to the host.
#[derive(Serialize, Deserialize)]
struct Parcel {
    text: String,
    reply_on: Channel,
    copies_to: Vec<Channel>,
}

/// Receives parcels and sends the text in upper case on the channels in each.
#[task]
fn replies(channel: Channel) -> Result {
    for parcel in channel.iter::<Parcel>() {
        let parcel = parcel?;
        let text = parcel.text.to_uppercase();
        parcel.reply_on.send(&text)?;
        for copy in &parcel.copies_to {
            copy.send(&text)?;
        }
    }
    Ok(())
}

/// Sends a parcel with `count` new channels, the first of them as `reply_on` too, and echoes `u32` on the first one.
#[task]
fn serves(channel: Channel, count: u32) -> Result {
    let copies_to: Vec<Channel> = (0..count).map(|_| new_channel()).collect::<Result<_, _>>()?;
    let reply_on = match copies_to.first() {
        Some(first) => first.clone(),
        None => new_channel()?,
    };
    let parcel = Parcel { text: "served here".to_owned(), reply_on, copies_to };
    channel.send(&parcel)?;
    for value in parcel.reply_on.iter::<u32>() {
        parcel.reply_on.send(&value?)?;
    }
    Ok(())
}

/// Sends a new channel, sends `1u32` and `2u32` on it and closes it; then receives one message on its own.
#[task]
fn closes(channel: Channel) -> Result {
    let inner = new_channel()?;
    channel.send(&inner)?;
    inner.send(&1u32)?;
    inner.send(&2u32)?;
    inner.close()?;
    channel.receive_bytes()?;
    Ok(())
}

/// As `closes`, with the error text "inner trouble" after one value.
#[task]
fn closes_with_error(channel: Channel) -> Result {
    let inner = new_channel()?;
    channel.send(&inner)?;
    inner.send(&1u32)?;
    inner.close_with_error("inner trouble")?;
    channel.receive_bytes()?;
    Ok(())
}

/// As `closes`, but only drops the channel after one value.
#[task]
fn drops(channel: Channel) -> Result {
    let inner = new_channel()?;
    channel.send(&inner)?;
    inner.send(&1u32)?;
    drop(inner);
    channel.receive_bytes()?;
    Ok(())
}

/// Sends a new channel and returns at once: the channel ends with the task.
#[task]
fn leaves(channel: Channel) -> Result {
    let inner = new_channel()?;
    channel.send(&inner)?;
    inner.send(&1u32)?;
    Ok(())
}

/// Sends the channel it was passed back, and receives one message on its own.
#[task]
fn returns(channel: Channel, other: Channel) -> Result {
    channel.send(&other)?;
    channel.receive_bytes()?;
    Ok(())
}

/// Receives two channels and forwards raw messages from the first to the second, up to the end.
#[task]
fn forwards(from: (Channel, Channel)) -> Result {
    let (from, to) = from;
    let mut bytes = Vec::new();
    while from.receive_bytes_into(&mut bytes).is_ok() {
        to.send_bytes(&bytes)?;
    }
    to.close()?;
    Ok(())
}

/// Makes channels until there are too many, and sends their number.
#[task]
fn exhausts() -> u32 {
    let mut channels = Vec::new();
    while let Ok(channel) = new_channel() {
        channels.push(channel);
    }
    u32::try_from(channels.len()).unwrap_or(u32::MAX)
}

/// Makes and drops `count` channels, and sends `()`: handles are given back.
#[task]
fn recycles(channel: Channel, count: u32) -> Result {
    for _ in 0..count {
        new_channel()?;
    }
    channel.send(&())?;
    Ok(())
}

fn main() {}
