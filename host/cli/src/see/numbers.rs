//! Messages without their numbers, so that those that differ in nothing else are one cause.
//!
//! A number is one by itself: a count, a line, a size, an address. Digits that are part of a name, as in `UTF-8`, `i32`,
//! `gw0` or `v1.2`, tell one cause from another and stay.

/// Units that may follow a number without a space.
const UNITS: [&str; 22] = [
    "ns", "us", "µs", "ms", "s", "m", "min", "h", "B", "k", "K", "M", "G", "kB", "KB", "MB", "GB", "KiB", "MiB", "GiB",
    "x", "px",
];
/// Hexadecimal digits that are an address or a hash, and no word.
const LEAST_HEX: usize = 8;

/// A line with `N` for each number in it.
pub(super) fn without_numbers(line: &str) -> String {
    let mut cause = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let word = word(rest);
        if word.is_empty() {
            cause.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            put(&mut cause, word);
            rest = &rest[word.len()..];
        }
    }
    cause
}

/// What belongs together at the start of a text: letters, digits, `_`, and between them `-` and `.`.
fn word(text: &str) -> &str {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut end = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let joins = matches!(c, '-' | '.') && at > 0 && characters.peek().is_some_and(|&(_, next)| is_part(next));
        if !is_part(c) && !joins {
            break;
        }
        end = at + c.len_utf8();
    }
    &text[..end]
}

fn put(cause: &mut String, word: &str) {
    let number = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let begins_with_digit = word.starts_with(|c: char| c.is_ascii_digit());
    if begins_with_digit && (word.parse::<f64>().is_ok() || is_hex(word)) {
        cause.push('N');
    } else if begins_with_digit && UNITS.contains(&number) {
        cause.push('N');
        cause.push_str(number);
    } else if is_hash(word) {
        cause.push('N');
    } else if word.contains(char::is_alphabetic) {
        cause.push_str(word);
    } else {
        digits(cause, word);
    }
}

/// A date, a version, a range: each number by itself.
fn digits(cause: &mut String, word: &str) {
    let mut before = ' ';
    for c in word.chars() {
        match c {
            '0'..='9' if before.is_ascii_digit() => {}
            '0'..='9' => cause.push('N'),
            c => cause.push(c),
        }
        before = c;
    }
}

fn is_hex(word: &str) -> bool {
    let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_hash(word: &str) -> bool {
    let is_all_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    word.len() >= LEAST_HEX
        && is_all_hex
        && word.contains(|c: char| c.is_ascii_digit())
        && word.contains(char::is_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_and_names_stay() {
        for (line, expected) in [
            ("index 12 of 7 in f32x4 at a.rs:10:2", "index N of N in f32x4 at a.rs:N:N"),
            ("line 17 is not UTF-8", "line N is not UTF-8"),
            ("ISO-8859-1, SHA-256, x86_64, wasm32-wasip1", "ISO-8859-1, SHA-256, x86_64, wasm32-wasip1"),
            ("i32.add in func2 of gw0 with v1.2 and utf8", "i32.add in func2 of gw0 with v1.2 and utf8"),
            ("at 0x7ffd12ab and 0X1, not 0xyz", "at N and N, not 0xyz"),
            ("took 1.5s, 20ms, 64KiB, 3 MiB, 1e-9", "took Ns, Nms, NKiB, N MiB, N"),
            ("2024-01-31, 1.0.228 and 3-7, but 3rd and 8-bit", "N-N-N, N.N.N and N-N, but 3rd and 8-bit"),
            ("[5] (6) <7> #8 -9 $10 50% x=1", "[N] (N) <N> #N -N $N N% x=N"),
            ("object 550e8400-e29b-41d4-a716-446655440000", "object N"),
            ("commit 1f6a5f10aa of deadbeef and decade", "commit N of deadbeef and decade"),
            ("ends with 5.", "ends with N."),
            ("päge 3 … µ 4µs", "päge N … µ Nµs"),
            ("", ""),
            ("...--__", "...--__"),
        ] {
            assert_eq!(without_numbers(line), expected);
        }
    }
}
