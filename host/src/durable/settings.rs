//! How to reach a server: addresses, credentials, TLS. Credentials are taken out of addresses at once, so that an address can
//! be shown wherever it is, and they are shown nowhere.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::ServerAddr;

use super::error::{Cause, DurableError};
use super::name::Prefix;

/// How long a server may be away, unless settings say otherwise.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(300);

/// How often it is told again that something goes on.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// By what a server knows who connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Login {
    #[default]
    Nobody,
    User(Secret, Secret),
    Token(Secret),
    /// A file with a JWT and a seed, as `nsc` makes them.
    Credentials(PathBuf),
    /// A file with a seed.
    Nkey(PathBuf),
}

/// Something that happens to a connection or queue that a person may want to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The first connection could not be made yet; it is tried again.
    NotReached,
    /// The connection is lost; it is made again.
    Lost,
    /// It is there again.
    Back,
    /// The stream has no room; what is to be stored waits until it has.
    Full,
    /// JetStream does not answer; it is asked again.
    Silent,
    /// The consumer of a queue gave nothing out although tasks were there: it was made anew.
    Renewed,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Notice::NotReached => "NATS server cannot be reached; trying again",
            Notice::Lost => "connection to NATS is lost; making it again",
            Notice::Back => "connection to NATS is there again",
            Notice::Full => "queue is full; waiting for room",
            Notice::Silent => "JetStream does not answer; trying again",
            Notice::Renewed => "the server gave no tasks out although it has some; the workers' consumer was made anew",
        })
    }
}

/// Who is told of notices; called on the connection's thread, which waits for it.
pub(super) type Listener = Arc<dyn Fn(Notice) + Send + Sync>;

/// How to reach a queue.
///
/// ```
/// use sandgate::durable::Settings;
///
/// let settings = Settings::new("nats://alice:secret@queue.example:4222").unwrap();
/// assert_eq!(settings.servers(), "nats://queue.example:4222");
/// assert!(!format!("{settings:?}").contains("secret"));
/// ```
#[derive(Clone)]
pub struct Settings {
    pub(super) addresses: Vec<ServerAddr>,
    /// The same as text.
    pub(super) servers: Vec<String>,
    pub(super) login: Login,
    pub(super) roots: Vec<PathBuf>,
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
    pub(super) tls: bool,
    pub(super) tls_first: bool,
    pub(super) prefix: Prefix,
    pub(super) inbox: Option<Prefix>,
    pub(super) patience: Duration,
    pub(super) replicas: usize,
    pub(super) listener: Option<Listener>,
    /// Set once the connection is being closed here: nobody needs to be told that it is lost.
    pub(super) is_closing: Arc<AtomicBool>,
    /// What was told of what goes on, and when.
    pub(super) told: Arc<Mutex<Vec<(Notice, Instant)>>>,
}

impl Settings {
    /// The addresses of a server, or of several of one cluster with commas between: `nats://host:4222`, `tls://host`, with
    /// `USER:PASSWORD@` or `TOKEN@` before the host if need be, in which `%40` and the like stand for single characters.
    ///
    /// # Errors
    /// [`DurableError::Address`]. Nothing is looked up, and nothing is connected.
    pub fn new(text: &str) -> Result<Settings, DurableError> {
        let (mut addresses, mut servers, mut login) = (Vec::new(), Vec::new(), Login::Nobody);
        for address in text.split(',').map(str::trim) {
            let wrong = |problem| DurableError::Address { address: without_secrets(address), problem };
            let (server, found) = without_login(address).map_err(wrong)?;
            addresses.push(server.parse().map_err(|_| wrong("it has no host, or one that is none"))?);
            servers.push(server);
            match found {
                Some(found) if login == Login::Nobody => login = found,
                Some(found) if login != found => return Err(wrong("all addresses have to have the same credentials")),
                _ => {}
            }
        }
        Ok(Settings {
            addresses,
            servers,
            login,
            roots: Vec::new(),
            client_certificate: None,
            tls: false,
            tls_first: false,
            prefix: Prefix::default(),
            inbox: None,
            patience: DEFAULT_PATIENCE,
            replicas: 1,
            listener: None,
            is_closing: Arc::default(),
            told: Arc::default(),
        })
    }

    /// The addresses, without credentials.
    pub fn servers(&self) -> String {
        self.servers.join(",")
    }

    /// A user and its password.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>, password: impl Into<String>) -> Settings {
        self.login = Login::User(Secret(user.into()), Secret(password.into()));
        self
    }

    /// A token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Settings {
        self.login = Login::Token(Secret(token.into()));
        self
    }

    /// A file with a user's JWT and seed, as `nsc` makes them.
    #[must_use]
    pub fn credentials(mut self, file: impl Into<PathBuf>) -> Settings {
        self.login = Login::Credentials(file.into());
        self
    }

    /// A file with a user's NKey seed.
    #[must_use]
    pub fn nkey(mut self, file: impl Into<PathBuf>) -> Settings {
        self.login = Login::Nkey(file.into());
        self
    }

    /// Certificates, in PEM, of who vouches for the server, instead of those of the system. TLS is then a must.
    #[must_use]
    pub fn tls_roots(mut self, file: impl Into<PathBuf>) -> Settings {
        self.roots.push(file.into());
        self.tls = true;
        self
    }

    /// A certificate and its key, in PEM, by which the server knows who connects. TLS is then a must.
    #[must_use]
    pub fn tls_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Settings {
        self.client_certificate = Some((certificate.into(), key.into()));
        self.tls = true;
        self
    }

    /// Whether TLS is a must. Otherwise it is as the server says, and whoever is between here and there can say so too.
    #[must_use]
    pub fn require_tls(mut self, required: bool) -> Settings {
        self.tls = required;
        self
    }

    /// Whether TLS begins before the server says anything, as its setting `handshake_first` has it. Implies TLS.
    #[must_use]
    pub fn tls_first(mut self, first: bool) -> Settings {
        (self.tls_first, self.tls) = (first, self.tls || first);
        self
    }

    /// What begins all names of this queue on the server. Default: `sandgate`.
    #[must_use]
    pub fn prefix(mut self, prefix: Prefix) -> Settings {
        self.prefix = prefix;
        self
    }

    /// What begins the subjects on which answers come, so that a server can keep users from reading each other's: the user's
    /// permission to subscribe is then `PREFIX.>`. Default: `_INBOX`.
    #[must_use]
    pub fn inbox(mut self, prefix: Prefix) -> Settings {
        self.inbox = Some(prefix);
        self
    }

    /// How long a server may be away before what needs it fails. Default: 5 minutes. The first connection is tried for 10
    /// seconds of it. A worker that waits for tasks, or for one that runs, needs none.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Settings {
        self.patience = patience;
        self
    }

    /// How many servers of a cluster keep what is stored, for streams that do not exist yet: 1, 3 or 5. Default: 1.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Settings {
        self.replicas = replicas.clamp(1, 5);
        self
    }

    /// Who is told of [`Notice`]s. Called on the connection's thread, so it must not block.
    #[must_use]
    pub fn on_notice(mut self, listener: impl Fn(Notice) + Send + Sync + 'static) -> Settings {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Many things may wait for the same at once, and one of them says it.
    pub(super) fn tell(&self, notice: Notice) {
        if matches!(notice, Notice::Full | Notice::Silent) {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.iter().any(|(known, at)| *known == notice && at.elapsed() < TOLD_EVERY) {
                return;
            }
            told.retain(|(known, _)| *known != notice);
            told.push((notice, Instant::now()));
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| !self.is_closing.load(Ordering::Acquire)) {
            listener(notice);
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Settings {} {:?}>", self.servers(), self.prefix)
    }
}

/// An address as it can be shown: whatever stands before its `@` may be secret, and so may a port that is none, where the `@` was
/// forgotten.
fn without_secrets(address: &str) -> Cause {
    // What stands before a `://` that is within an address is none, and may be a login.
    let scheme =
        address.split_once("://").filter(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let (scheme, rest) = scheme.unwrap_or(("", address));
    let (login, host) = rest.rsplit_once('@').map_or(("", rest), |(_, host)| ("…@", host));
    let host = match host.rsplit_once(':') {
        Some((host, port)) if !port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']') => format!("{host}:…"),
        _ => host.to_owned(),
    };
    Cause::text(&format!("{scheme}{}{login}{host}", if scheme.is_empty() { "" } else { "://" }))
}

/// An address without credentials, and those; or what is wrong with it.
fn without_login(address: &str) -> Result<(String, Option<Login>), &'static str> {
    let no_scheme = "it has to begin with `nats://` or `tls://`";
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    if !matches!(scheme, "nats" | "tls" | "") {
        return Err(no_scheme);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // What looks as if somebody had meant to write one would be taken for a user or a host.
    let is_meant = rest.contains('/') || rest.starts_with("nats:") || rest.starts_with("tls:");
    if scheme.is_empty() && (is_meant || address.contains("://")) {
        return Err(no_scheme);
    }
    let scheme = if scheme.is_empty() { "nats" } else { scheme };
    // The last one: a password may have one, though it should not.
    let (login, host) = rest.rsplit_once('@').map_or((None, rest), |(login, host)| (Some(login), host));
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte);
    // Before the port; an address of IPv6 has brackets around it.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if name.is_empty() || !name.bytes().all(is_of_host) || name.contains(':') && !name.starts_with('[') {
        return Err("it has no host, or one that is none: it has to be as in `nats://HOST:4222`");
    }
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err("its port has to be a number from 1 to 65535");
    }
    let login = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        None | Some(("", "")) => None,
        Some((token, "")) => Some(Login::Token(Secret(decoded(token)?))),
        Some((user, password)) => Some(Login::User(Secret(decoded(user)?), Secret(decoded(password)?))),
    };
    Ok((format!("{scheme}://{host}"), login))
}

/// A text with `%40` for `@` and so on.
fn decoded(text: &str) -> Result<String, &'static str> {
    let wrong = || "a `%` has to be followed by two hexadecimal digits";
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().ok_or_else(wrong)?, rest.next().ok_or_else(wrong)?];
        let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex).ok_or_else(wrong)?);
    }
    String::from_utf8(bytes).map_err(|_| "its credentials have to be UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_addresses_at_once() {
        let check = |address: &str, servers: &str, login: &str| {
            let settings = Settings::new(address).unwrap();
            assert_eq!(settings.servers(), servers, "{address}");
            let found = match &settings.login {
                Login::Nobody => String::new(),
                Login::User(user, password) => format!("{}:{}", user.0, password.0),
                Login::Token(token) => token.0.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, login, "{address}");
            assert!(login.is_empty() || !format!("{settings:?} {:?}", settings.login).contains(login));
        };
        check("host", "nats://host", "");
        check("nats://a:b@host:4222/", "nats://host:4222", "a:b");
        check("tls://t0ken@host", "tls://host", "t0ken");
        check("nats://a:p%40ss%3a@one,two:1", "nats://one,nats://two:1", "a:p@ss:");
        check("nats://a:p@ss@[::1]:4222", "nats://[::1]:4222", "a:p@ss");
    }

    #[test]
    fn what_is_no_address_is_told_without_being_repeated() {
        let check = |address: &str, shown: &str, problem: &str| {
            let text = Settings::new(address).unwrap_err().to_string();
            let expected = format!("`{shown}` cannot be used as the address of a NATS server: ");
            assert!(text.starts_with(&expected) && text.contains(problem) && !text.contains("secret"), "{text}");
        };
        check("", "", "no host");
        check("http://a:secret@b", "http://…@b", "has to begin with `nats://` or `tls://`");
        check("a:secret@http://b", "…@http:…", "has to begin with");
        check("nats:/a:secret@h", "…@h", "has to begin with `nats://` or `tls://`");
        check("nats:a:secret@h", "…@h", "has to begin with");
        check("tls:/h", "tls:…", "has to begin with");
        check("/h", "/h", "has to begin with");
        check("://a:secret@h", "…@h", "has to begin with");
        check("nats://", "nats://", "no host");
        check("nats://a:secret@", "nats://…@", "no host");
        check("nats://a:secret%4@b", "nats://…@b", "hexadecimal digits");
        check("nats://x y", "nats://x y", "no host");
        check("nats://a:secret", "nats://a:…", "number from 1 to 65535");
        check("nats://a:0", "nats://a:0", "number from 1 to 65535");
        check("nats://a:65536", "nats://a:65536", "number from 1 to 65535");
        check("nats://[::1", "nats://[::1", "no host");
        check("nats://1::2:3", "nats://1::2:3", "no host");
        check("nats://s\x1b[1m", "nats://s\\u{1b}[1m", "no host");
        check("nats://a:secret@one,nats://b:secret@two", "nats://…@two", "the same credentials");
        check("one,,two", "", "no host");
    }
}
