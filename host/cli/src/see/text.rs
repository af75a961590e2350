//! Numbers, times and foreign texts as people read them.

use std::fmt::Write as _;
use std::time::Duration;

/// `1234567` as `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time with three digits that count: `950 µs`, `12.3 ms`, `4.56 s`, `3m07s`, `2h05m`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 9.995e-3 => format!("{:.2} ms", s * 1e3),
        s if s < 99.95e-3 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ => {
            let seconds = time.as_secs() + u64::from(time.subsec_millis() >= 500);
            match seconds {
                s if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
                s => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
            }
        }
    }
}

/// Bytes in binary units.
pub(super) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let number = bytes as f64;
    match bytes {
        b if b < 1 << 10 => format!("{b} B"),
        b if b < 1 << 20 => format!("{:.0} KiB", number / 1024.0),
        b if b < 10 << 30 => format!("{:.0} MiB", number / 1_048_576.0),
        _ => format!("{:.1} GiB", number / 1_073_741_824.0),
    }
}

/// A rate per second.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        r if r < 9.95 => format!("{r:.1}/s"),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and clamped by the cast"
        )]
        r => format!("{}/s", count(r.round() as u64)),
    }
}

/// One thing or many: `1 task`, `2 tasks`.
pub(super) fn many(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A foreign text on one line, of at most so many characters, its control characters and those that turn the direction of
/// writing escaped.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == most {
            line.push('…');
            break;
        }
        match c {
            '\t' => line.push(' '),
            c if is_active(c) => {
                let _ = write!(line, "{}", c.escape_default());
            }
            c => line.push(c),
        }
    }
    line
}

/// A foreign text with its line breaks, and nothing else in it that does anything.
pub(super) fn lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => lines.push(c),
            c if is_active(c) => {
                let _ = write!(lines, "{}", c.escape_default());
            }
            c => lines.push(c),
        }
    }
    lines
}

fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The end of a text, of at most so many bytes.
pub(super) fn tail(text: &str, most: usize) -> &str {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// The beginning of a text, of at most so many bytes.
pub(super) fn head(text: &str, most: usize) -> &str {
    let mut to = text.len().min(most);
    while !text.is_char_boundary(to) {
        to -= 1;
    }
    &text[..to]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count).join(" "), "0 999 1,000 1,234,567");
        let times = [0, 950, 1500, 12_340, 999_600, 4_560_000, 187_000_000, 7_500_000_000].map(Duration::from_micros);
        assert_eq!(times.map(time).join(" "), "0 µs 950 µs 1.50 ms 12.3 ms 1.00 s 4.56 s 3m07s 2h05m");
        assert_eq!([512, 4096, 34 << 20, 20 << 30].map(bytes).join(" "), "512 B 4 KiB 34 MiB 20.0 GiB");
        assert_eq!([0.0, 3.12, 16_667.0].map(rate).join(" "), "0.0/s 3.1/s 16,667/s");
        assert_eq!([1, 2].map(|n| many(n, "task")).join(" "), "1 task 2 tasks");
    }

    #[test]
    fn foreign_texts_do_nothing_to_a_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\nc\u{202e}d", 99), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert_eq!(lines("a\x1b[2Jb\n\tc\r"), "a\\u{1b}[2Jb\n\tc\\r");
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!((tail("aé", 1), tail("aé", 2), head("éa", 1), head("éa", 2)), ("", "é", "", "é"));
    }
}
