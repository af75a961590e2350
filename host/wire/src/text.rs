//! Text that somebody else wrote, on its way to a terminal or a log.

use std::fmt::{self, Write};

/// Writes text through, with all that a terminal would act on made visible: control characters other than line breaks and
/// tabs, and those that change the direction of writing.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_active) {
            self.0.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            if let Some(active) = after.next() {
                write!(self.0, "{}", active.escape_default())?;
            }
            rest = after.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Whether a terminal would do something else than show it.
pub fn is_active(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

/// The text with all that a terminal would act on made visible.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // A string takes everything.
    let _ = Escaping(&mut out).write_str(text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_made_visible() {
        for (text, expected) in [
            ("plain, süß\n\tand 漢字", "plain, süß\n\tand 漢字"),
            ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
            ("\u{9b}2J\r\u{7}\0", "\\u{9b}2J\\r\\u{7}\\u{0}"),
            ("\u{202e}drow", "\\u{202e}drow"),
        ] {
            assert_eq!(printable(text), expected);
            assert_eq!(printable(expected), expected, "twice is as once");
        }
    }
}
