//! Tasks as a pool runs them: one input, one value. Some inputs are hostile.

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_protocol::Hostile;
use sandgate_guest::{Channel, Error, Result, serve, task};

/// Twice the number.
#[task]
fn double(x: u64) -> u64 {
    x * 2
}

/// The sum of two.
#[task]
fn add(a: u32, b: u32) -> u32 {
    a + b
}

/// Twice the number, after so many milliseconds.
#[task]
fn slowly(x: u64, millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    x * 2
}

/// When it began and when it ended, after so many milliseconds: in nanoseconds of the time of day.
#[task]
fn span(millis: u64) -> (u64, u64) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let began = now();
    std::thread::sleep(Duration::from_millis(millis));
    (nanos(began), nanos(now()))
}

/// Nothing at all.
#[task]
fn nothing(_x: u64) {}

/// The number of bytes.
#[task]
fn size(bytes: Vec<u8>) -> usize {
    bytes.len()
}

/// So many bytes.
#[task]
fn swell(length: usize) -> Vec<u8> {
    vec![7; length]
}

/// Sends many values; the last counts.
#[task]
fn chatty(channel: Channel, x: u64) -> Result<u64> {
    for count in 0..x {
        channel.send(&count)?;
    }
    Ok(x * 2)
}

/// Twice the number, or whatever else it is told to do.
#[task]
fn hostile(input: Hostile) -> Result<u64> {
    obey(input)
}

/// The same for many inputs, in one instance.
#[task]
fn serves(channel: Channel) -> Result {
    serve(&channel, obey_or_die)
}

/// Doubles many numbers, in one instance.
#[task]
fn serves_double(channel: Channel) -> Result {
    serve(&channel, |x: u64| x * 2)
}

/// Answers one input and returns.
#[task]
fn serves_one(channel: Channel) -> Result {
    let x: u64 = channel.receive()?;
    channel.send(&(x * 2))?;
    Ok(())
}

fn obey_or_die(input: Hostile) -> u64 {
    obey(input).expect("to be told something else")
}

fn obey(input: Hostile) -> Result<u64> {
    match input {
        Hostile::Double(x) => Ok(x * 2),
        Hostile::Sleep(millis) => {
            std::thread::sleep(Duration::from_millis(millis));
            Ok(0)
        }
        Hostile::Loop => {
            let mut count = 0_u64;
            loop {
                count = black_box(count.wrapping_add(1));
            }
        }
        Hostile::Panic => panic!("as told"),
        Hostile::Bomb => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(black_box(vec![1; 16 << 20]));
            }
        }
        Hostile::Recurse => Ok(deeper(1)),
        Hostile::Fail => Err(Error::msg("as told")),
        Hostile::Exit(code) => std::process::exit(code),
    }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    deeper(depth + 1) + room[5]
}

/// Twice the argument.
fn main() -> Result {
    let x: u64 = sandgate_guest::args()?;
    sandgate_guest::channel().send(&(x * 2))?;
    Ok(())
}
