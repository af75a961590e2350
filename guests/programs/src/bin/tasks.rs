//! Named tasks: one function each, with the arguments and results that the `task` attribute can take.
//!
//! `main` sends `"main"`, to tell that none of them ran.

use std::num::ParseIntError;

use sandgate_guest::{Channel, Error, Result, task};

/// Sends the sum.
#[task]
fn add(a: u32, b: u32) -> u32 {
    a + b
}

/// Sends a text.
#[task]
fn greet(name: String) -> String {
    format!("hello, {name}")
}

/// Sends the product for each item, up to the end of the channel.
#[task]
fn process_item(channel: Channel, factor: u32) -> Result {
    for item in channel.iter::<u32>() {
        channel.send(&(item? * factor))?;
    }
    Ok(())
}

/// Fails with "no luck".
#[task]
fn fails() -> Result {
    Err(Error::msg("no luck"))
}

/// Sends the number, or fails with the parser's error.
#[task]
fn parse(text: String) -> Result<u32, ParseIntError> {
    text.parse()
}

/// Panics with "boom in a task".
#[task]
fn panics() {
    panic!("boom in a task");
}

/// Receives a `u32` on its own channel and sends its successor on the other one.
#[task]
fn takes_channel(channel: &Channel, other: Channel) -> Result {
    let value: u32 = channel.receive()?;
    other.send(&(value + 1))?;
    Ok(())
}

/// Returns the channel it was passed.
#[task]
fn returns_channel(_own: Channel, other: Channel) -> Channel {
    other
}

/// Sends `"no args"`.
#[task]
fn no_args() -> &'static str {
    "no args"
}

/// Does nothing.
#[task]
fn nothing() {}

/// Receives for ever.
#[task]
fn silent(channel: Channel) {
    for message in channel.iter::<()>() {
        drop(message);
    }
}

/// Prints a line and the beginning of another one.
#[task]
fn prints() {
    println!("a line");
    print!("no line");
}

fn main() -> Result {
    sandgate_guest::channel().send("main")?;
    Ok(())
}
