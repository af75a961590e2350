//! Fails with an error that has two sources: "cannot load the table: line `3` is broken: invalid digit found in string".

use std::error::Error;
use std::fmt;
use std::num::ParseIntError;

#[derive(Debug)]
struct LoadError(LineError);

#[derive(Debug)]
struct LineError {
    line: u32,
    cause: ParseIntError,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot load the table")
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line `{}` is broken", self.line)
    }
}

impl Error for LoadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl Error for LineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

fn main() -> sandgate_guest::Result {
    "x".parse::<u32>().map_err(|cause| LoadError(LineError { line: 3, cause }))?;
    Ok(())
}
