//! Named tasks whose types describe themselves, and one whose type does not.

use std::num::ParseIntError;

use guest_protocol::{Age, Animal, Zoo};
use sandgate_guest::{Channel, task};
use serde::{Deserialize, Serialize};

/// Gives the zoo back.
///
/// With all its animals.
#[task]
fn echo(zoo: Zoo) -> Zoo {
    zoo
}

/// Sends the name as often as it is asked to, and says how many bytes that were.
#[task]
fn repeat(channel: &Channel, name: String, count: u32) -> sandgate_guest::Result<u64> {
    for _ in 0..count {
        channel.send(&name)?;
    }
    Ok(u64::from(count) * name.len() as u64)
}

/// The age of an animal, if it has one.
#[task]
fn age(animal: Animal) -> Option<Age> {
    if let Animal::Pair(_, age) = animal { Some(age) } else { None }
}

#[task]
fn number(text: String) -> Result<i64, ParseIntError> {
    text.parse()
}

/// Its types have no schema.
#[derive(Serialize, Deserialize)]
struct Undescribed {
    value: u32,
}

#[task]
fn undescribed(value: Undescribed) -> Result<Undescribed, ParseIntError> {
    Ok(value)
}

fn main() {}
