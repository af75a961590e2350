//! Base64, the one form in which data stands in the page: whatever a guest says, nothing of it is markup.

use std::io::{self, Write};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes the bytes.
pub(super) fn write(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    let mut text = Vec::with_capacity(1 << 16);
    for part in bytes.chunks(3 << 14) {
        text.clear();
        for three in part.chunks(3) {
            let at = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            for digit in 0..4 {
                match digit <= three.len() {
                    true => text.push(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]),
                    false => text.push(b'='),
                }
            }
        }
        out.write_all(&text)?;
    }
    Ok(())
}

/// The bytes as text.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    // A vector takes all.
    let _ = write(&mut text, bytes);
    text.into_iter().map(char::from).collect()
}

#[cfg(test)]
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let digits = four.iter().filter(|digit| **digit != b'=');
        let values = digits.map(|digit| DIGITS.iter().position(|other| other == digit).unwrap());
        let (bits, count) = values.fold((0, 0), |(bits, count), value| (bits << 6 | value, count + 1));
        let bits = bits << (6 * (4 - count));
        bytes.extend((0..count - 1).map(|at| u8::try_from(bits >> (16 - 8 * at) & 255).unwrap()));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_everybody_else_has() {
        let known = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, text) in known {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text), plain.as_bytes());
        }
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(decode(&encode(&bytes)), bytes);
    }
}
