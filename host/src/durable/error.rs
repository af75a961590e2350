//! What can go wrong between here and a queue. No text here has anything of a credential: addresses are shown without what
//! stands before their `@`, and errors about keys say which file, not what is in it.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sandgate_wire::ModuleId;
use sandgate_wire::text::printable;

use super::name::JobId;
use crate::error::ModuleError;

/// Why a queue could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// The address of a server is none.
    #[error("`{address}` cannot be used as the address of a NATS server: {problem}")]
    Address {
        /// The address, without what may be secret in it.
        address: Cause,
        /// What is wrong with it, or allowed.
        problem: &'static str,
    },
    /// A file with a certificate, a key or credentials cannot be used.
    #[error("{what} `{}` cannot be used", path.display())]
    Credentials {
        /// What the file should hold.
        what: &'static str,
        /// Its name.
        path: PathBuf,
        /// Why not.
        source: Cause,
    },
    /// The system gives no thread, or no random numbers.
    #[error("connection to NATS cannot be made")]
    System(#[source] std::io::Error),
    /// No server could be reached.
    #[error("no NATS server can be reached at `{servers}`")]
    Unreachable {
        /// Where it was looked for.
        servers: String,
        /// What became of the last attempt.
        source: Cause,
    },
    /// The server does not take these credentials, or wants some.
    #[error("NATS server at `{servers}` does not accept these credentials")]
    Denied {
        /// Which server.
        servers: String,
    },
    /// TLS could not be agreed on.
    #[error("no TLS connection to the NATS server at `{servers}`")]
    Tls {
        /// Which server.
        servers: String,
        /// Why not.
        source: Cause,
    },
    /// The server has no JetStream.
    #[error("NATS server has no JetStream")]
    NoJetStream,
    /// The user of this connection may not do what was necessary.
    #[error("NATS server does not permit it: {problem}")]
    NotPermitted {
        /// The server's words.
        problem: String,
    },
    /// The server was away, or did not answer, for longer than the settings allow.
    #[error("NATS server did not {doing} within {} (setting `patience`)", humantime::format_duration(*waited))]
    Gone {
        /// What was waited for.
        doing: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// JetStream has refused something.
    #[error("NATS server did not {doing}")]
    Refused {
        /// What it was asked to.
        doing: &'static str,
        /// Why not.
        source: Cause,
    },
    /// There is no such job.
    #[error("there is no job `{job}`")]
    NoJob {
        /// Which.
        job: JobId,
    },
    /// The record of a job cannot be read.
    #[error("record of job `{job}` cannot be read")]
    BadJob {
        /// Which.
        job: JobId,
        /// Why not.
        source: Cause,
    },
    /// There is a job of this id that is another one.
    #[error("there is another job `{job}`, with a different {what}")]
    OtherJob {
        /// Which.
        job: JobId,
        /// In what they differ.
        what: &'static str,
    },
    /// A job is gone on with or submitted again, but not with the inputs that it was begun with.
    #[error("job `{job}` was begun with other inputs: {}", difference.told(*inputs))]
    OtherInputs {
        /// Which.
        job: JobId,
        /// How many the server knows of.
        inputs: u64,
        /// In what they differ.
        difference: Difference,
    },
    /// Somebody else submits the same job.
    #[error("job `{job}` is being submitted by somebody else")]
    Busy {
        /// Which.
        job: JobId,
    },
    /// A module is not in the object store.
    #[error("module {module:?} is not in the object store")]
    NoModule {
        /// Which.
        module: ModuleId,
    },
    /// What the object store has in a module's place is another one.
    #[error("object store has something else in the place of module {module:?}")]
    OtherModule {
        /// Which.
        module: ModuleId,
    },
    /// A module in the object store is larger than is taken.
    #[error("module {module:?} in the object store has more than {maximum} bytes")]
    LargeModule {
        /// Which.
        module: ModuleId,
        /// The most that is taken.
        maximum: u64,
    },
    /// A module cannot be used at all.
    #[error("module cannot be used")]
    Module(#[source] ModuleError),
    /// A message is larger than the server takes.
    #[error(
        "message of {bytes} bytes is larger than the NATS server takes, which is {maximum} (its setting `max_payload`)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that the server takes.
        maximum: usize,
    },
    /// This machine cannot run tasks.
    #[error("tasks cannot be run here")]
    Unable {
        /// Why not.
        source: Cause,
    },
    /// The connection was closed.
    #[error("connection to NATS is closed")]
    Closed,
}

/// In what the inputs of a job differ from those that it was begun with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// Some of those that the server knows of are not the same.
    NotTheSame,
    /// There are fewer than it knows of.
    Fewer,
    /// The job is complete, and there are more.
    More,
}

impl Difference {
    fn told(self, inputs: u64) -> String {
        match self {
            Difference::NotTheSame => format!("the first {inputs} are not the same"),
            Difference::Fewer => format!("it has {inputs}, and these are fewer"),
            Difference::More => format!("it has {inputs}, and these are more"),
        }
    }
}

/// What other code says of an error, as text that can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    /// The error and its causes.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Cause {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Cause::text(&text)
    }

    /// These words.
    pub(super) fn text(text: &str) -> Cause {
        let mut shown: String = text.chars().take(MAX_CAUSE_CHARS).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Cause(printable(&shown).replace('\n', " "))
    }
}

/// More than an error says; what servers say may be as long as they like.
const MAX_CAUSE_CHARS: usize = 600;

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_bounded_and_has_no_commands_for_terminals() {
        assert_eq!(Cause::text("a\n\x1b[31mb").to_string(), "a \\u{1b}[31mb");
        assert!(Cause::text(&"x".repeat(10_000)).to_string().len() < 700);
    }
}
