//! [`Spec`]: what a gateway is to be, as a string or built.
//!
//! ```text
//!  spec  = part { "//" part }
//!  part  = key [ "=" value ]            a "/" or "\" inside a value may be written "\/" or "\\",
//!                                       which is how a value holds "//"
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sandgate_wire::Limits;
use sandgate_wire::message::HELLO_DEADLINE;

use crate::error::SpecError;

/// Executions that one worker runs at once, unless the spec says otherwise; more wait in its queue.
pub const DEFAULT_EXECUTIONS: u32 = 64;
/// Time that an interrupted execution has before its worker is killed, unless the spec says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(1);

const KNOWN: &str = "`popen`, `id=`, `nice=`, `env:NAME=`, `chdir=`, `worker=`, `executions=`, `grace=`, `hello=`, \
                     `memory=`, `table=`, `message=`, `channels=`, `output=`, `timeout=`";

/// How to make a gateway.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `popen` | a process of this machine | required |
/// | `id=NAME` | the gateway's id | `gw0`, `gw1`, … |
/// | `nice=N` | added to the worker's nice value | 0 |
/// | `env:NAME=VALUE` | an environment variable that guests see | none |
/// | `chdir=PATH` | the worker process's directory, which must exist; guests see no directory | the host's |
/// | `worker=PATH` | the executable that becomes the worker | see [`LaunchError`](crate::LaunchError) |
/// | `executions=N` | executions at once; more wait, first come first served | 64 |
/// | `grace=TIME` | time that an interrupted execution has before its worker is killed | 1s |
/// | `hello=TIME` | time that a worker has to start | 10s |
/// | `memory=`, `table=`, `message=`, `channels=`, `output=`, `timeout=` | see [`Limits`] | see there |
///
/// Sizes are bytes, or take `K`, `M` or `G`; times are as in `1s 500ms`.
///
/// ```
/// use sandgate::Spec;
///
/// let parsed: Spec = "popen//id=worker1//memory=256M//env:MODE=fast".parse()?;
/// let built = Spec::popen().id("worker1").memory(256 << 20).env("MODE", "fast");
/// assert_eq!(parsed, built);
/// # Ok::<(), sandgate::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    id: Option<String>,
    nice: i32,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    worker: Option<PathBuf>,
    executions: u32,
    grace: Duration,
    hello: Duration,
    limits: Limits,
}

impl Default for Spec {
    fn default() -> Self {
        Spec::popen()
    }
}

impl Spec {
    /// A process of this machine.
    pub fn popen() -> Spec {
        Spec {
            id: None,
            nice: 0,
            environment: Vec::new(),
            directory: None,
            worker: None,
            executions: DEFAULT_EXECUTIONS,
            grace: DEFAULT_GRACE,
            hello: HELLO_DEADLINE,
            limits: Limits::default(),
        }
    }

    /// Names the gateway.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Spec {
        self.id = Some(id.into());
        self
    }

    /// Added to the worker's nice value; a negative one needs privilege.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Spec {
        self.nice = nice;
        self
    }

    /// Sets an environment variable for guests. The host's own variables are never passed on.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Spec {
        let (name, value) = (name.into(), value.into());
        self.environment.retain(|(other, _)| *other != name);
        self.environment.push((name, value));
        self
    }

    /// The directory that the worker process runs in.
    #[must_use]
    pub fn chdir(mut self, directory: impl Into<PathBuf>) -> Spec {
        self.directory = Some(directory.into());
        self
    }

    /// The executable that becomes the worker.
    #[must_use]
    pub fn worker(mut self, worker: impl Into<PathBuf>) -> Spec {
        self.worker = Some(worker.into());
        self
    }

    /// Most executions at once. At least 1.
    #[must_use]
    pub fn executions(mut self, executions: u32) -> Spec {
        self.executions = executions.max(1);
        self
    }

    /// Time that an interrupted execution has before its worker is killed.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Spec {
        self.grace = grace;
        self
    }

    /// Time that a worker has from its start to its hello.
    #[must_use]
    pub fn with_hello_deadline(mut self, deadline: Duration) -> Spec {
        self.hello = deadline;
        self
    }

    /// Bytes of linear memory; see [`Limits::memory_bytes`].
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Spec {
        self.limits.memory_bytes = bytes;
        self
    }

    /// Time that an execution has; see [`Limits::wall_time`].
    #[must_use]
    pub fn timeout(mut self, wall_time: Duration) -> Spec {
        self.limits.wall_time = Some(wall_time);
        self
    }

    /// All limits at once.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Spec {
        self.limits = limits;
        self
    }

    /// The id, if one was given.
    pub fn given_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The limits of executions on this gateway.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Most executions at once.
    pub fn max_executions(&self) -> u32 {
        self.executions
    }

    /// Time that an interrupted execution has before its worker is killed.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// The environment that guests see.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    pub(crate) fn hello_deadline(&self) -> Duration {
        self.hello
    }

    pub(crate) fn nice_value(&self) -> i32 {
        self.nice
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    pub(crate) fn worker_path(&self) -> Option<&Path> {
        self.worker.as_deref()
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), Problem> {
        if let Some(name) = key.strip_prefix("env:") {
            if name.is_empty() || name.contains('\0') {
                return Err(Problem::value("needs a variable's name after `env:`"));
            }
            self.environment.push((name.to_owned(), text(value)?.to_owned()));
            return Ok(());
        }
        match key {
            "popen" if value.is_none() => {}
            "popen" => return Err(Problem::value("takes no value")),
            "id" => self.id = Some(text(value)?.to_owned()),
            "nice" => self.nice = number(value)?,
            "chdir" => self.directory = Some(text(value)?.into()),
            "worker" => self.worker = Some(text(value)?.into()),
            "executions" => match number(value)? {
                0 => return Err(Problem::value("must be at least 1")),
                executions => self.executions = executions,
            },
            "grace" => self.grace = duration(value)?,
            "hello" => self.hello = duration(value)?,
            "memory" => self.limits.memory_bytes = size(value)?,
            "table" => self.limits.table_elements = number(value)?,
            "message" => self.limits.message_bytes = size(value)?,
            "channels" => self.limits.channels = number(value)?,
            "output" => self.limits.output_bytes = size(value)?,
            "timeout" => self.limits.wall_time = Some(duration(value)?),
            _ => return Err(Problem::UnknownKey),
        }
        Ok(())
    }
}

enum Problem {
    UnknownKey,
    Value(String),
}

impl Problem {
    fn value(text: impl fmt::Display) -> Problem {
        Problem::Value(text.to_string())
    }
}

fn text(value: Option<&str>) -> Result<&str, Problem> {
    match value {
        Some("") | None => Err(Problem::value("needs a value")),
        Some(value) => Ok(value),
    }
}

fn number<T: FromStr<Err: fmt::Display>>(value: Option<&str>) -> Result<T, Problem> {
    let value = text(value)?;
    value.parse().map_err(|error| Problem::value(format!("has value `{value}`: {error}")))
}

fn size(value: Option<&str>) -> Result<u64, Problem> {
    let value = text(value)?;
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K') => (&value[..value.len() - 1], 10),
        Some(b'M') => (&value[..value.len() - 1], 20),
        Some(b'G') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| Problem::value(format!("has value `{value}`, which is no size such as `65536` or `64M`")))
}

fn duration(value: Option<&str>) -> Result<Duration, Problem> {
    let value = text(value)?;
    humantime::parse_duration(value).map_err(|error| Problem::value(format!("has value `{value}`: {error}")))
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Spec, SpecError> {
        let mut parsed = Spec::popen();
        let mut seen = BTreeMap::new();
        for part in parts(spec) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (part.as_str(), None),
            };
            let (key, spec) = (key.to_owned(), spec.to_owned());
            if seen.insert(key.clone(), ()).is_some() {
                return Err(SpecError::DuplicateKey { key, spec });
            }
            match parsed.set(&key, value) {
                Ok(()) => {}
                Err(Problem::UnknownKey) => return Err(SpecError::UnknownKey { key, spec, known: KNOWN }),
                Err(Problem::Value(problem)) => return Err(SpecError::Value { key, spec, problem }),
            }
        }
        if !seen.contains_key("popen") {
            return Err(SpecError::NoKind { spec: spec.to_owned() });
        }
        Ok(parsed)
    }
}

/// The parts of a spec with their escapes resolved.
fn parts(spec: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = spec;
    while let Some(c) = rest.chars().next() {
        let last = parts.len() - 1;
        if let Some(after) = rest.strip_prefix("//") {
            parts.push(String::new());
            rest = after;
        } else if let Some(after) = rest.strip_prefix("\\/") {
            parts[last].push('/');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("\\\\") {
            parts[last].push('\\');
            rest = after;
        } else {
            parts[last].push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    parts
}

impl TryFrom<&str> for Spec {
    type Error = SpecError;

    fn try_from(spec: &str) -> Result<Spec, SpecError> {
        spec.parse()
    }
}

impl TryFrom<&String> for Spec {
    type Error = SpecError;

    fn try_from(spec: &String) -> Result<Spec, SpecError> {
        spec.parse()
    }
}

impl TryFrom<String> for Spec {
    type Error = SpecError;

    fn try_from(spec: String) -> Result<Spec, SpecError> {
        spec.parse()
    }
}

impl From<std::convert::Infallible> for SpecError {
    fn from(never: std::convert::Infallible) -> SpecError {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, expected: Spec) {
        assert_eq!(spec.parse::<Spec>().unwrap(), expected, "{spec}");
    }

    #[test]
    fn every_key_is_read() {
        check("popen", Spec::popen());
        check("popen//id=a=b", Spec::popen().id("a=b"));
        check("nice=-3//popen", Spec::popen().nice(-3));
        check("popen//env:A=1//env:B=x y", Spec::popen().env("A", "1").env("B", "x y"));
        check("popen//chdir=/tmp", Spec::popen().chdir("/tmp"));
        check("popen//worker=/bin/w", Spec::popen().worker("/bin/w"));
        check("popen//executions=3", Spec::popen().executions(3));
        check("popen//grace=250ms", Spec::popen().with_grace(Duration::from_millis(250)));
        check("popen//hello=1m", Spec::popen().with_hello_deadline(Duration::from_secs(60)));
        check("popen//timeout=1s 500ms", Spec::popen().timeout(Duration::from_millis(1500)));
        let limits = Limits {
            memory_bytes: 1 << 20,
            table_elements: 5,
            message_bytes: 2 << 10,
            channels: 7,
            output_bytes: 0,
            wall_time: None,
        };
        check("popen//memory=1M//table=5//message=2K//channels=7//output=0", Spec::popen().with_limits(limits));
    }

    #[test]
    fn two_slashes_can_be_escaped() {
        check(r"popen//chdir=\//server/share", Spec::popen().chdir("//server/share"));
        check(r"popen//chdir=/a\//b", Spec::popen().chdir("/a//b"));
        check(r"popen//chdir=\\x\y", Spec::popen().chdir(r"\x\y"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (spec, message) in [
            ("", "unknown key ``"),
            ("id=x", "names no kind of gateway; start it with `popen`"),
            ("popen//", "unknown key ``"),
            ("popen//memroy=1", "unknown key `memroy`"),
            ("popen//ssh=host", "unknown key `ssh`"),
            ("popen=python", "takes no value"),
            ("popen//id", "key `id` in spec `popen//id` needs a value"),
            ("popen//id=", "needs a value"),
            ("popen//id=a//id=b", "key `id` stands twice"),
            ("popen//env:A=1//env:A=2", "key `env:A` stands twice"),
            ("popen//env:=1", "needs a variable's name"),
            ("popen//env:FOO", "needs a value"),
            ("popen//nice=abc", "has value `abc`: invalid digit"),
            ("popen//executions=0", "must be at least 1"),
            ("popen//memory=1X", "is no size such as"),
            ("popen//memory=99999999999G", "is no size such as"),
            ("popen//timeout=soon", "has value `soon`"),
        ] {
            let error = spec.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(message), "`{spec}` gives: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(spec: String) {
            let _ = spec.parse::<Spec>();
        }

        #[test]
        fn any_value_can_be_written(value in "[^=\0]+") {
            let escaped = value.replace('\\', r"\\").replace('/', r"\/");
            let spec: Spec = format!("popen//id={escaped}").parse().unwrap();
            proptest::prop_assert_eq!(spec.given_id(), Some(value.as_str()));
        }
    }
}
