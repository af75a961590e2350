//! The one place of the tests that starts tools, such as cargo and git. Workers are not started here: that is the library's
//! part.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `program` in `dir` to its end, without stdin, and gives back what it wrote.
///
/// # Panics
///
/// When the program cannot be started. That it fails is for the caller to see.
#[expect(clippy::disallowed_methods, reason = "this is the one place, and the call waits for the process")]
pub fn output(program: impl AsRef<OsStr>, args: &[&str], dir: &Path) -> Output {
    let program = program.as_ref();
    match Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot start `{}` in `{}`: {error}", program.display(), dir.display()),
    }
}
