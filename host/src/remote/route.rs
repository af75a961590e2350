//! The way to another machine, one step after the other; and how each step is started.
//!
//! A step is a program with its arguments, and never a line for a shell: what a spec says can name a host or a program, and
//! add nothing else.

use std::path::{Path, PathBuf};

use super::bootstrap::{Binary, SCRIPT};
use super::error::ReachError;

/// One step: from the machine before it to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Whatever a program connects its standard input and output to.
    Exec {
        /// The program, then its arguments.
        command: Vec<String>,
    },
    /// A host, by ssh.
    Ssh {
        /// `[user@]host`.
        destination: String,
        port: Option<u16>,
        /// Instead of the user's and the system's.
        config: Option<PathBuf>,
        /// The binary that is copied there, if it is not this machine's own.
        agent: Option<PathBuf>,
    },
}

impl Step {
    /// A command, as a shell would split it. No shell is asked.
    pub(crate) fn exec(line: &str) -> Result<Step, &'static str> {
        let command = shlex::split(line).ok_or("has a quotation mark or backslash that nothing ends")?;
        match command.first() {
            Some(program) if !program.is_empty() => Ok(Step::Exec { command }),
            _ => Err("needs a program"),
        }
    }

    /// `[user@]host[:port]`; an IPv6 address with a port stands in brackets.
    pub(crate) fn ssh(text: &str) -> Result<Step, &'static str> {
        let (user, address) = match text.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, text),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("has something after its address")?)),
                None => return Err("has a bracket that nothing closes"),
            },
            None => match address.split_once(':') {
                // More than one colon: an IPv6 address without a port.
                Some((_, rest)) if rest.contains(':') => (address, None),
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = port.map(|port| port.parse::<u16>().map_err(|_| "has a port that is none")).transpose()?;
        for part in [Some(host), user].into_iter().flatten() {
            let is_odd = |c: char| c.is_whitespace() || c.is_control();
            if part.is_empty() || part.starts_with('-') || part.contains(is_odd) {
                return Err("names no host: neither a host nor a user is empty, begins with `-` or has spaces");
            }
        }
        let destination = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
        Ok(Step::Ssh { destination, port, config: None, agent: None })
    }

    /// The same step, with this configuration of ssh and this binary to be copied.
    pub(crate) fn with(mut self, their_config: Option<&Path>, their_agent: Option<&Path>) -> Step {
        if let Step::Ssh { config, agent, .. } = &mut self {
            *config = their_config.map(ToOwned::to_owned);
            *agent = their_agent.map(ToOwned::to_owned);
        }
        self
    }

    pub(crate) fn is_ssh(&self) -> bool {
        matches!(self, Step::Ssh { .. })
    }

    /// The binary that it may have to copy, if that can be.
    pub(super) fn binary(&self) -> Result<Option<Binary>, ReachError> {
        match self {
            Step::Exec { .. } => Ok(None),
            Step::Ssh { agent, .. } => Binary::find(agent.as_deref()).map(Some),
        }
    }

    /// The program that is started, and its arguments. `binary` is what the script is told of that which ssh is to start there.
    pub(crate) fn command(&self, binary: &str) -> Vec<String> {
        match self {
            Step::Exec { command } => command.clone(),
            Step::Ssh { destination, port, config, .. } => {
                // No terminal, no questions; and nothing that the user's configuration forwards, which the host could use.
                let mut command: Vec<String> =
                    ["ssh", "-T", "-a", "-x", "-o", "BatchMode=yes"].map(String::from).into();
                command.extend(["-o", "ClearAllForwardings=yes"].map(String::from));
                if let Some(config) = config {
                    command.extend(["-F".to_owned(), config.to_string_lossy().into_owned()]);
                }
                if let Some(port) = port {
                    command.extend(["-p".to_owned(), port.to_string()]);
                }
                let is_plain = binary.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b' ');
                assert!(is_plain, "nothing but a hash and a size is built into what a shell reads");
                command.extend(["--".to_owned(), destination.clone(), format!("exec sh -c '{SCRIPT}' sh {binary}")]);
                command
            }
        }
    }

    /// For messages. Arguments of launchers may be secrets, so they are left out.
    pub(crate) fn name(&self) -> String {
        match self {
            Step::Exec { command } => format!("exec={}", command.first().map_or("", String::as_str)),
            Step::Ssh { destination, port: None, .. } => format!("ssh={destination}"),
            Step::Ssh { destination, port: Some(port), .. } => format!("ssh={destination}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_argument_of_its_own() {
        let check = |text: &str, expected: &[&str]| {
            let command = Step::ssh(text).unwrap().command("00ff");
            let at = command.iter().position(|part| part == "--").unwrap();
            assert_eq!(&command[8..=at + 1], expected, "{text}");
            assert!(command[at + 2].ends_with("' sh 00ff") && command.len() == at + 3);
        };
        check("host", &["--", "host"]);
        check("me@host:2222", &["-p", "2222", "--", "me@host"]);
        check("[::1]:22", &["-p", "22", "--", "::1"]);
        check("me@fe80::1", &["--", "me@fe80::1"]);
        check("a@b@c", &["--", "a@b@c"]);
    }

    #[test]
    fn what_ssh_could_take_for_an_option_is_refused() {
        for text in
            ["-oProxyCommand=x", "me@-host", "-u@host", "", "me@", "@host", "a b", "host:x", "[::1", "[::1]x", "a\nb"]
        {
            assert!(Step::ssh(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        let check = |line: &str, expected: &[&str]| {
            assert_eq!(Step::exec(line).unwrap().command(""), expected, "{line}");
        };
        check("docker run -i 'an image'", &["docker", "run", "-i", "an image"]);
        check(r#"sh -c "a; b \"c\"""#, &["sh", "-c", r#"a; b "c""#]);
        check("a $HOME `b` ; c", &["a", "$HOME", "`b`", ";", "c"]);
        for line in ["", "  ", "'a", "''"] {
            assert!(Step::exec(line).is_err(), "{line}");
        }
    }

    #[test]
    fn arguments_of_a_launcher_are_not_shown() {
        assert_eq!(Step::exec("kubectl --token=secret exec").unwrap().name(), "exec=kubectl");
    }
}
