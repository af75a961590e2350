//! Why another machine, or the agent on it, was not reached.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::outcome::LossCause;
use sandgate_wire::text::printable;

/// Why there is no agent at the other end of a link. `words` are those of the launcher, of ssh for example: the last that
/// it wrote to its standard error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReachError {
    /// The launcher is not installed on the machine that is to start it.
    #[error("cannot start the launcher `{}`", program.display())]
    NoLauncher {
        /// Its name.
        program: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// There is no host of this name.
    #[error("host not found{}", said(words))]
    NotFound {
        /// The launcher's words.
        words: String,
    },
    /// Nobody answers at the host's port.
    #[error("connection refused{}", said(words))]
    Refused {
        /// The launcher's words.
        words: String,
    },
    /// There is no way to the host, or it does not answer.
    #[error("host cannot be reached{}", said(words))]
    Unreachable {
        /// The launcher's words.
        words: String,
    },
    /// The host does not let this user in.
    #[error("authentication failed{}", said(words))]
    Authentication {
        /// The launcher's words.
        words: String,
    },
    /// The host is not known, or not the one that is known.
    #[error("host key is not accepted{}", said(words))]
    HostKey {
        /// The launcher's words.
        words: String,
    },
    /// The `sandgate` command, or another program of the way to it, is not there.
    #[error(
        "`sandgate` was not started there{}; install the same version of it on that machine, or name it in `exec=`",
        said(words)
    )]
    NoBinary {
        /// The launcher's words.
        words: String,
    },
    /// The host is of another platform, so this binary cannot be copied there.
    #[error(
        "host is `{}`, and the binary here is for `{ours}`: install `sandgate` {} for its platform there, on the search \
         path of non-interactive shells", printable(theirs), env!("CARGO_PKG_VERSION")
    )]
    Platform {
        /// What the host says it is.
        theirs: String,
        /// What the binary here is for.
        ours: String,
    },
    /// The binary could not be copied to the host.
    #[error(
        "binary could not be copied there: {}{}; mend that, or install `sandgate` {ours} there, on the search path of \
         non-interactive shells",
        printable(problem),
        said(words),
        ours = env!("CARGO_PKG_VERSION")
    )]
    Copy {
        /// What went wrong.
        problem: String,
        /// The launcher's words.
        words: String,
    },
    /// The agent is of another version.
    #[error("agent has version `{}`, this library {ours}: install the same version of both", printable(theirs))]
    Version {
        /// The agent's version.
        theirs: String,
        /// This library's version.
        ours: &'static str,
    },
    /// What the launcher connects to is no agent of ours.
    #[error("launcher connects to no sandgate agent; it wrote: {}; {NO_AGENT}", printable(&tidy(said)))]
    NotAnAgent {
        /// The beginning of what came.
        said: String,
    },
    /// Launcher or agent ended before there was a link.
    #[error("launcher {}{}{}{}", ended(cause), advice(cause).0, said(words), advice(cause).1)]
    Ended {
        /// How.
        cause: LossCause,
        /// The launcher's words.
        words: String,
    },
    /// Nothing came in time.
    #[error("no agent answered within {after:?} (setting `hello=`){}", said(words))]
    Silent {
        /// How long it was waited for.
        after: Duration,
        /// The launcher's words.
        words: String,
    },
    /// The host is being closed.
    #[error("group is terminated")]
    Closed,
    /// Descriptors or threads could not be had.
    #[error("cannot set up a link")]
    Resources(#[source] Arc<io::Error>),
}

impl ReachError {
    pub(super) fn resources(error: io::Error) -> ReachError {
        ReachError::Resources(Arc::new(error))
    }
}

/// What a launcher said last, as it is told behind something else.
pub(super) fn said(words: &str) -> String {
    match tidy(words).as_str() {
        "" => String::new(),
        words => format!("; its words: {}", printable(words)),
    }
}

/// Words without empty lines, and without spaces at the ends of lines.
fn tidy(words: &str) -> String {
    let lines: Vec<&str> = words.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.join("\n").trim().to_owned()
}

/// What a launcher has to be.
const NO_AGENT: &str =
    "a launcher has to run `sandgate agent` on the machine and connect its standard input and output";

/// What there is to be done about a launcher for which all went well.
fn advice(cause: &LossCause) -> (&'static str, String) {
    match cause {
        LossCause::Exited { code: 0 } => (" before an agent spoke", format!("; {NO_AGENT}")),
        _ => ("", String::new()),
    }
}

fn ended(cause: &LossCause) -> String {
    match cause {
        LossCause::Exited { code } => format!("exited with code {code}"),
        LossCause::Signaled { signal } => format!("was ended by signal {signal}"),
        LossCause::Link { problem, message } => format!("is lost, its link {problem}: {}", printable(message)),
        LossCause::Unknown { message } => format!("is lost: {}", printable(message)),
        _ => "ended".to_owned(),
    }
}

/// What the end of a launcher means. ssh says no more than 255 for all of its own failures, so its words, which are never
/// translated, have to tell them apart.
pub(super) fn of_launcher(is_ssh: bool, cause: LossCause, words: String) -> ReachError {
    let has = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
    match cause {
        LossCause::Exited { code: 255 } if is_ssh => {
            if has(&["Could not resolve hostname", "Name or service not known", "no address associated"]) {
                ReachError::NotFound { words }
            } else if has(&["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"]) {
                ReachError::HostKey { words }
            } else if has(&["Permission denied", "Too many authentication failures", "No more authentication methods"])
            {
                ReachError::Authentication { words }
            } else if has(&["Connection refused"]) {
                ReachError::Refused { words }
            } else if has(&["timed out", "No route to host", "Network is unreachable"]) {
                ReachError::Unreachable { words }
            } else {
                ReachError::Ended { cause, words }
            }
        }
        LossCause::Exited { code: 126 | 127 } => ReachError::NoBinary { words },
        cause => ReachError::Ended { cause, words },
    }
}

/// Whether ssh has ended because what came was not what its other end had sent. Only the client's own words say so: a server
/// that finds it hangs up without a word.
pub(super) fn is_of_corruption(cause: &LossCause, words: &str) -> bool {
    let texts = [
        "Corrupted MAC on input",
        "message authentication code incorrect",
        "Bad packet length",
        "Connection corrupted",
        "Packet corrupt",
    ];
    matches!(cause, LossCause::Exited { code: 255 }) && texts.iter().any(|text| words.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ssh_tell_of_corruption() {
        let check = |code, words: &str| is_of_corruption(&LossCause::Exited { code }, words);
        assert!(check(
            255,
            "Bad packet length 1627390000.\nssh_dispatch_run_fatal: Connection to h port 22: Connection corrupted"
        ));
        assert!(check(
            255,
            "Corrupted MAC on input.\nssh_dispatch_run_fatal: Connection to h port 22: message authentication code incorrect"
        ));
        assert!(check(255, "Received disconnect from h port 22:2: Packet corrupt"));
        assert!(!check(255, "Connection to h closed by remote host."));
        assert!(!check(1, "Packet corrupt"));
    }

    #[test]
    fn the_words_of_ssh_tell_its_failures_apart() {
        let check = |is_ssh, code, words: &str, text: &str| {
            let error = of_launcher(is_ssh, LossCause::Exited { code }, words.to_owned()).to_string();
            assert!(error.starts_with(text) && error.contains(words), "{error}");
        };
        check(
            true,
            255,
            "ssh: Could not resolve hostname nowhere.invalid: Name or service not known",
            "host not found",
        );
        check(true, 255, "ssh: connect to host h port 22: Connection refused", "connection refused");
        check(true, 255, "ssh: connect to host h port 22: Connection timed out", "host cannot be reached");
        check(true, 255, "ssh: connect to host h port 22: No route to host", "host cannot be reached");
        check(true, 255, "u@h: Permission denied (publickey).", "authentication failed");
        check(true, 255, "Host key verification failed.", "host key is not accepted");
        check(true, 255, "kex_exchange_identification: banner line contains invalid characters", "launcher exited");
        check(true, 127, "sh: 1: sandgate: not found", "`sandgate` was not started there");
        check(false, 255, "Permission denied", "launcher exited with code 255");
        check(false, 127, "exec: \"sandgate\": not found", "`sandgate` was not started there");
    }

    #[test]
    fn a_launcher_that_is_none_is_told_what_to_be_on_one_line() {
        let went_well = |words: &str| of_launcher(false, LossCause::Exited { code: 0 }, words.to_owned()).to_string();
        let plain = went_well("\n");
        assert!(
            plain.starts_with(
                "launcher exited with code 0 before an agent spoke; a launcher has to run `sandgate agent`"
            )
        );
        assert!(
            went_well(" one \r\n\r\n two\r\n")
                .contains("before an agent spoke; its words: one\n two; a launcher has to")
        );
        let stranger = ReachError::NotAnAgent { said: "Welcome\n\n".to_owned() }.to_string();
        assert!(stranger.contains("it wrote: Welcome; a launcher has to run"), "{stranger}");
    }
}
