//! How to reach a queue: the options that `submit`, `work` and `collect` share.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use sandgate::durable::{DurableError, JobId, Prefix, Queue, Settings};

use crate::exit::WrongUsage;
use crate::print;

/// The longest password or token in a file.
const MAX_SECRET_BYTES: u64 = 4096;

/// Where the queue is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queue")]
pub(crate) struct Options {
    /// The NATS server, as nats://HOST:4222 or tls://HOST; several of one cluster with commas between
    /// [default: $NATS_URL]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// What begins the names of streams, subjects and buckets [default: sandgate]
    #[arg(long, value_name = "NAME", value_parser = prefix)]
    prefix: Option<Prefix>,
    /// What begins the subjects on which answers come, for a user that may subscribe to `NAME.>` alone [default: _INBOX]
    #[arg(long, value_name = "NAME", value_parser = prefix)]
    inbox: Option<Prefix>,
    /// A file with a user's JWT and seed, as `nsc` makes them [default: $NATS_CREDS]
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// A file with a user's NKey seed [default: $NATS_NKEY]
    #[arg(long, value_name = "FILE", conflicts_with = "creds")]
    nkey: Option<PathBuf>,
    /// A user, whose password is in $NATS_PASSWORD or a file [default: $NATS_USER]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["creds", "nkey"])]
    user: Option<String>,
    /// A file with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A file with a token [default: $NATS_TOKEN]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["creds", "nkey", "user"])]
    token_file: Option<PathBuf>,
    /// Refuse a connection without TLS; the options below imply it
    #[arg(long)]
    tls: bool,
    /// Certificates of who vouches for the server, in PEM, instead of the system's [default: $NATS_CA]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Our certificate, in PEM [default: $NATS_CERT]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of our certificate, in PEM [default: $NATS_KEY]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// TLS before the server's first word, for servers with `handshake_first`
    #[arg(long)]
    tls_first: bool,
    /// How long the server may be away before we give up what needs it: to begin with, and whatever is to be stored or read. A
    /// worker that has nothing to store waits for as long as it takes
    #[arg(long, value_name = "DURATION", value_parser = some_time, default_value = "5m")]
    patience: Duration,
    /// How many servers of a cluster keep what is stored: 1, 3 or 5; for streams that do not exist yet
    #[arg(long, value_name = "COUNT", value_parser = replicas, default_value = "1")]
    replicas: usize,
}

impl Options {
    /// What they come to. What happens to a connection that is made with it is told on standard error.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let wrong = |text: String| anyhow::Error::from(WrongUsage(text));
        let (name, url) = match (&self.nats, variable("NATS_URL")) {
            (Some(url), _) => ("--nats", url.clone()),
            (None, Some(url)) => ("$NATS_URL", url),
            (None, None) => return Err(wrong("no NATS server is named: use `--nats URL` or $NATS_URL".to_owned())),
        };
        let mut settings = Settings::new(&url).map_err(|error| wrong(format!("{name}: {error}")))?;
        if let Some(prefix) = &self.prefix {
            settings = settings.prefix(prefix.clone());
        }
        if let Some(inbox) = &self.inbox {
            settings = settings.inbox(inbox.clone());
        }
        // What the command line says comes before what the environment says.
        let path = |option: &Option<PathBuf>, name| option.clone().or_else(|| variable(name).map(PathBuf::from));
        let has_option =
            self.creds.is_some() || self.nkey.is_some() || self.user.is_some() || self.token_file.is_some();
        let from = |name| if has_option { None } else { variable(name) };
        if let Some(file) = self.creds.clone().or_else(|| from("NATS_CREDS").map(PathBuf::from)) {
            settings = settings.credentials(file);
        } else if let Some(file) = self.nkey.clone().or_else(|| from("NATS_NKEY").map(PathBuf::from)) {
            settings = settings.nkey(file);
        } else if let Some(user) = self.user.clone().or_else(|| from("NATS_USER")) {
            let password = match &self.password_file {
                Some(file) => secret(file)?,
                None => variable("NATS_PASSWORD").unwrap_or_default(),
            };
            settings = settings.user(user, password);
        } else if let Some(file) = &self.token_file {
            settings = settings.token(secret(file)?);
        } else if let Some(token) = from("NATS_TOKEN") {
            settings = settings.token(token);
        }
        if let Some(file) = path(&self.tls_ca, "NATS_CA") {
            settings = settings.tls_roots(file);
        }
        match (path(&self.tls_cert, "NATS_CERT"), path(&self.tls_key, "NATS_KEY")) {
            (Some(certificate), Some(key)) => settings = settings.tls_certificate(certificate, key),
            (Some(file), None) => {
                return Err(wrong(format!("certificate `{}` has no key: use --tls-key or $NATS_KEY", file.display())));
            }
            (None, Some(file)) => {
                return Err(wrong(format!(
                    "key `{}` has no certificate: use --tls-cert or $NATS_CERT",
                    file.display()
                )));
            }
            (None, None) => {}
        }
        if self.tls {
            settings = settings.require_tls(true);
        }
        let settings = settings.tls_first(self.tls_first).patience(self.patience).replicas(self.replicas);
        Ok(settings.on_notice(|notice| print::complain(&notice.to_string())))
    }
}

/// Connects. Files that cannot be used are wrong with the command line, or with the variables that name them.
pub(super) fn connect(settings: Settings) -> Result<Queue> {
    Queue::connect(settings).map_err(|error| match error {
        DurableError::Credentials { .. } => wrong_file(&error.into()),
        error => error.into(),
    })
}

/// What is wrong with a file that was named is wrong with the command line.
pub(super) fn wrong_file(error: &anyhow::Error) -> anyhow::Error {
    WrongUsage(format!("{error:#}")).into()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first line of a file.
fn secret(path: &Path) -> Result<String> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_SECRET_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error: std::io::Error| {
        anyhow::Error::from(WrongUsage(format!("`{}` cannot be read: {error}", path.display())))
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map_err(|error: sandgate::durable::BadName| error.to_string())
}

pub(super) fn job_id(text: &str) -> Result<JobId, String> {
    text.parse().map_err(|error: sandgate::durable::BadName| error.to_string())
}

/// A time as settings of gateways have it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let spec: sandgate::Spec = format!("popen//timeout={}", text.replace('/', "\\/"))
        .parse()
        .map_err(|_| "is not a time, as in 30s or 5m".to_owned())?;
    spec.limits().wall_time.ok_or_else(|| "has to end".to_owned())
}

/// A time that is not over at once.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("has to be longer than nothing".to_owned()),
        time => Ok(time),
    }
}

/// How long a task may go without a sign of life: there has to be time for one, and servers count in nanoseconds.
pub(super) fn ack_wait(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err("is not a time from 1s to 365d".to_owned()) }
}

fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("is neither 1, 3 nor 5".to_owned()),
    }
}

/// Ends as a wrong command line does, and repeats no address with credentials from it.
pub(crate) fn exit_without_secrets(error: &clap::Error) -> ! {
    let text = error.to_string();
    let shown = without_secrets(&text);
    if shown == text {
        error.exit();
    }
    print::complain(&shown);
    std::process::exit(error.exit_code());
}

/// A text in which addresses have nothing before their `@`.
fn without_secrets(text: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || c == '\'' || c == '`').unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(host) => {
                shown.push_str("…@");
                rest = &after[host + 1..];
            }
            None => rest = after,
        }
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_credentials() {
        let check = |text: &str, expected: &str| assert_eq!(without_secrets(text), expected);
        check("no address", "no address");
        check("unexpected argument 'nats://a:secret@host' found", "unexpected argument 'nats://…@host' found");
        // A password may have anything in it, so rather too much is hidden than too little.
        check("nats://h,nats://t@i://x", "nats://…@i://x");
        check("see https://host/a@b now", "see https://…@b now");
    }

    #[test]
    fn times_are_those_of_settings() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err() && duration("off").is_err() && duration("1s//memory=1M").is_err());
        assert!(some_time("0s").is_err() && some_time("1ms").is_ok());
        assert!(ack_wait("999ms").is_err() && ack_wait("1s").is_ok() && ack_wait("366d").is_err());
    }
}
