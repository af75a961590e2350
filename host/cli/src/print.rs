//! The command's two ways to speak: results on standard output, everything else on standard error.

use std::io::{self, Write};

use sandgate::text::printable;

/// Writes a result. An error is the caller's to return: [`exit::code`](crate::exit::code) knows a closed pipe.
pub(crate) fn result(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says what went wrong. If standard error is closed there is nobody to tell. What others have named is shown, and not
/// acted on.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "sandgate: {}", printable(message));
}
