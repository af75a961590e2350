//! What the command exits with, and the one place that prints an error.

use std::io;

use crate::print;

/// Shown under `--help`, so that scripts need no other source.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    all went well; a pipe that is closed by its reader counts as well
  1    what was asked for was done, and the answer is no: a check that failed
  2    the command line is wrong, or a file of machines that it names (`--hosts`)
  3    the command could not do what it was asked to, as standard error says
  130  interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP
`sandgate run` has those of the program that it runs, and a table of its own: see `sandgate run --help`.";

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well.
    Success,
    /// The answer is no.
    No,
    /// The command line is wrong.
    Usage,
    /// It could not be done.
    Failure,
    /// This signal came.
    Interrupted(i32),
    /// As a program that was run has it.
    Of(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Failure => 3,
            Exit::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Exit::Of(code) => code,
        }
    }
}

/// The command line is wrong, in a way that its parser does not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// Prints what went wrong, with its causes, and says how to exit.
pub(crate) fn code(result: anyhow::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Success,
        Err(error) => {
            print::complain(&format!("{error:#}"));
            if error.chain().any(|cause| cause.is::<WrongUsage>()) { Exit::Usage } else { Exit::Failure }
        }
    }
}

/// Whether all that went wrong is that nobody reads the output any more.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_success_and_everything_else_is_not() {
        let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("failed to print");
        assert_eq!(code(Err(broken)), Exit::Success);
        assert_eq!(code(Err(anyhow::anyhow!("no"))), Exit::Failure);
        assert_eq!(code(Ok(Exit::No)).code(), 1);
        assert_eq!(code(Err(WrongUsage("no".to_owned()).into())).code(), 2);
    }
}
