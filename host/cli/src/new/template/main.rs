//! A program for a sandbox. It counts what is in a text, in two ways:
//!
//! * as a program: `main` reads standard input and writes standard output;
//! * as a named task: `count` takes arguments and gives a result, both of them typed.

use std::io::{self, Read};

use sandgate_guest::{Schema, task};
use serde::{Deserialize, Serialize};

/// What is in a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Counts {
    lines: u64,
    words: u64,
    bytes: u64,
}

/// Counts the lines, words and bytes of a text.
#[task]
fn count(text: String) -> Counts {
    Counts {
        lines: text.lines().count() as u64,
        words: text.split_whitespace().count() as u64,
        bytes: text.len() as u64,
    }
}

fn main() -> io::Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let Counts { lines, words, bytes } = count(text);
    println!("{lines} {words} {bytes}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_words_and_bytes_are_counted() {
        let check = |text: &str, lines, words, bytes| {
            assert_eq!(count(text.to_owned()), Counts { lines, words, bytes }, "{text:?}");
        };
        check("", 0, 0, 0);
        check("one two\nthree\n", 2, 3, 14);
    }
}
