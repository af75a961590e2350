//! Specs as text.
//!
//! ```text
//!  spec  = part { "//" part }
//!  part  = key [ "=" value ]            a "/" or "\" inside a value may be written "\/" or "\\",
//!                                       which is how a value holds "//"
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sandgate_wire::Profile;
use sandgate_wire::grants::{Clock, Directory, Random};
use sandgate_wire::isolation::{Demand, Layer};

use super::{COMMON, Settings, Spec};
use crate::error::SpecError;
use crate::recycle::Recycle;
use crate::remote::Step;
use crate::transport::Transport;

const KNOWN: &str = "`popen`, `exec=`, `ssh=`, `ssh_config=`, `agent=`, `via=`, `heartbeat=`, `id=`, `nice=`, `chdir=`, `worker=`, `executions=`, `grace=`, `hello=`, `memory=`, `table=`, \
                     `stack=`, `message=`, `channels=`, `window=`, `window-messages=`, `output=`, `timeout=`, `cpu=`, \
                     `fuel=`, `module=`, `functions=`, `function=`, `locals=`, `nesting=`, `jumps=`, `items=`, \
                     `compile-time=`, `compile-memory=`, `cache=`, `profile=`, `epochs=`, `env:NAME=`, `dir:GUEST=`, \
                     `dir-rw:GUEST=`, `clock=`, `random=`, `deterministic=`, `sandbox=`, `sandbox:LAYER=`, `modules=`, \
                     `recycle=`, `transport=`";

/// Less than this is no sign that anything is lost.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);

/// Sets what `key` says and returns the name under which it counts as given.
fn set(spec: &mut Spec, key: &str, value: Option<&str>) -> Result<&'static str, Problem> {
    if let Some((family, name)) = key.split_once(':') {
        return set_named(&mut spec.settings, family, name, value);
    }
    let Some((known, _)) = COMMON.into_iter().find(|(known, _)| *known == key) else { return Err(Problem::UnknownKey) };
    if matches!(key, "env" | "dir") {
        return Err(Problem::UnknownKey);
    }
    if set_limit(&mut spec.settings, key, value)? {
        return Ok(known);
    }
    let settings = &mut spec.settings;
    match key {
        "popen" if value.is_none() => {}
        "popen" => return Err(Problem::value("takes no value")),
        "exec" => settings.step = Some(Step::exec(text(value)?).map_err(Problem::value)?),
        "ssh" => settings.step = Some(Step::ssh(text(value)?).map_err(Problem::value)?),
        "ssh_config" => settings.ssh_config = Some(text(value)?.into()),
        "agent" => settings.agent = Some(text(value)?.into()),
        "via" => settings.via = Some(text(value)?.to_owned()),
        "heartbeat" => match duration(value)? {
            heartbeat if heartbeat < MIN_HEARTBEAT => {
                return Err(Problem::value(format!("must be at least {MIN_HEARTBEAT:?}")));
            }
            heartbeat => settings.heartbeat = heartbeat,
        },
        "id" => settings.id = Some(text(value)?.to_owned()),
        "nice" => settings.nice = number(value)?,
        "chdir" => settings.directory = Some(text(value)?.into()),
        "worker" => settings.worker = Some(text(value)?.into()),
        "executions" => match number(value)? {
            0 => return Err(Problem::value("must be at least 1")),
            executions => settings.executions = executions,
        },
        "grace" => settings.grace = duration(value)?,
        "hello" => settings.hello = duration(value)?,
        "profile" => settings.profile = text(value)?.parse::<Profile>().map_err(Problem::value)?,
        "epochs" => settings.epochs = one_of(value, [("on", true), ("off", false)])?,
        "modules" => settings.one_module = one_of(value, [("one", true), ("many", false)])?,
        "clock" => settings.grants.execution.clock = off_or(value, Clock::Off, |it| duration(it).map(Clock::Coarse))?,
        "random" => settings.grants.execution.random = off_or(value, Random::Off, |it| number(it).map(Random::Seeded))?,
        "deterministic" => *spec = spec.clone().deterministic(number(value)?),
        "sandbox" => {
            // Layers that were named before keep what was said of them.
            let demand = demand(value)?;
            let policy = settings.policy.clone();
            for layer in Layer::ALL {
                if policy.demand(layer) == Demand::default() {
                    settings.policy = settings.policy.clone().with(layer, demand);
                }
            }
        }
        "recycle" => settings.recycle = recycle(text(value)?)?,
        "transport" => settings.transport = Some(one_of(value, Transport::ALL.map(|it| (it.name(), it)))?),
        _ => return Err(Problem::UnknownKey),
    }
    Ok(known)
}

fn set_limit(settings: &mut Settings, key: &str, value: Option<&str>) -> Result<bool, Problem> {
    let (limits, modules) = (&mut settings.limits, &mut settings.module_limits);
    match key {
        "memory" => limits.memory_bytes = size(value)?,
        "table" => limits.table_elements = number(value)?,
        "stack" => limits.stack_bytes = size(value)?,
        "message" => limits.message_bytes = size(value)?,
        "channels" => limits.channels = number(value)?,
        "window" => limits.window_bytes = size(value)?,
        "window-messages" => limits.window_messages = number(value)?,
        "output" => limits.output_bytes = size(value)?,
        "timeout" => limits.wall_time = off_or(value, None, |it| duration(it).map(Some))?,
        "cpu" => limits.cpu_time = off_or(value, None, |it| duration(it).map(Some))?,
        "fuel" => limits.fuel = off_or(value, None, |it| number(it).map(Some))?,
        "module" => modules.module_bytes = size(value)?,
        "functions" => modules.functions = number(value)?,
        "function" => modules.function_bytes = size(value)?,
        "locals" => modules.locals = number(value)?,
        "nesting" => modules.nesting = number(value)?,
        "jumps" => modules.jump_targets = number(value)?,
        "items" => modules.items = number(value)?,
        "compile-time" => modules.compile_time = duration(value)?,
        "compile-memory" => modules.compile_memory_bytes = size(value)?,
        "cache" => modules.cache_bytes = size(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Keys that have a name in them, as in `env:NAME=VALUE`.
fn set_named(settings: &mut Settings, family: &str, name: &str, value: Option<&str>) -> Result<&'static str, Problem> {
    match family {
        "env" => {
            if name.is_empty() || name.contains('\0') {
                return Err(Problem::value("needs a variable's name after `env:`"));
            }
            settings.grants.environment.push((name.to_owned(), text(value)?.to_owned()));
            Ok("env")
        }
        "dir" | "dir-rw" => {
            if name.is_empty() || name.contains('\0') {
                return Err(Problem::value(format!("needs what guests call the directory after `{family}:`")));
            }
            let (guest, host) = (name.to_owned(), text(value)?.into());
            settings.grants.directories.retain(|other| other.guest != guest);
            settings.grants.directories.push(Directory { host, guest, writable: family == "dir-rw" });
            Ok("dir")
        }
        "sandbox" => {
            let layers = || Layer::ALL.map(|layer| format!("`{layer}`")).join(", ");
            let layer = name.parse().map_err(|_| Problem::value(format!("names no layer; there are {}", layers())))?;
            settings.policy = settings.policy.clone().with(layer, demand(value)?);
            Ok("sandbox")
        }
        _ => Err(Problem::UnknownKey),
    }
}

fn demand(value: Option<&str>) -> Result<Demand, Problem> {
    one_of(value, [Demand::Require, Demand::Prefer, Demand::Off].map(|demand| (demand.name(), demand)))
}

fn recycle(value: &str) -> Result<Recycle, Problem> {
    let mut recycle = Recycle::default();
    for part in value.split(',') {
        match part.split_once(':') {
            None if part == "off" => {}
            None if part == "loss" => recycle.after_loss = true,
            Some(("executions", count)) => recycle.executions = Some(number(Some(count))?),
            Some(("memory", bytes)) => recycle.memory_bytes = Some(size(Some(bytes))?),
            _ => {
                let problem =
                    format!("has value `{part}`, which is not `off`, `loss`, `executions:N` or `memory:SIZE`");
                return Err(Problem::Value(problem));
            }
        }
    }
    Ok(recycle)
}

fn one_of<T, const N: usize>(value: Option<&str>, known: [(&str, T); N]) -> Result<T, Problem> {
    let value = text(value)?;
    let names = known.each_ref().map(|(name, _)| format!("`{name}`")).join(" or ");
    let found = known.into_iter().find(|(name, _)| *name == value);
    found.map(|(_, value)| value).ok_or_else(|| Problem::value(format!("has value `{value}`, which is not {names}")))
}

fn off_or<T>(
    value: Option<&str>,
    off: T,
    parse: impl FnOnce(Option<&str>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    if value == Some("off") { Ok(off) } else { parse(value) }
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
        let mut seen = BTreeSet::new();
        for part in parts(spec) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (part.as_str(), None),
            };
            let spec = shown(spec);
            let key = if is_plain(name) { name.to_owned() } else { "…".to_owned() };
            if !seen.insert(name.to_owned()) {
                return Err(SpecError::DuplicateKey { key, spec });
            }
            match set(&mut parsed, name, value) {
                Ok(given) => {
                    parsed.given.insert(given);
                }
                Err(Problem::UnknownKey) => return Err(SpecError::UnknownKey { key, spec, known: KNOWN }),
                Err(Problem::Value(problem)) => return Err(SpecError::Value { key, spec, problem }),
            }
        }
        match ["popen", "exec", "ssh"].into_iter().filter(|kind| seen.contains(*kind)).count() {
            0 => return Err(SpecError::NoKind { spec: shown(spec) }),
            1 => {}
            _ => return Err(SpecError::TwoKinds { spec: shown(spec) }),
        }
        Ok(parsed)
    }
}

/// A spec as it can be told: arguments of launchers and values of variables may be secret, and so may be whatever stands after a
/// key that is none.
fn shown(spec: &str) -> String {
    let part = |part: String| match part.split_once('=') {
        Some(("ssh" | "id" | "via", _)) => part,
        Some((key, _)) if is_plain(key) => format!("{key}=…"),
        None if is_plain(&part) => part,
        _ => "…".to_owned(),
    };
    parts(spec).into_iter().map(part).collect::<Vec<_>>().join("//")
}

/// Whether a key can be told: what stands behind a `//` in a launcher's address is none.
fn is_plain(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte))
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

#[cfg(test)]
mod tests {
    use sandgate_wire::grants::ExecutionGrants;
    use sandgate_wire::profile::Feature;
    use sandgate_wire::{Limits, ModuleLimits};

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
            stack_bytes: 128 << 10,
            message_bytes: 2 << 10,
            channels: 7,
            window_bytes: 4096,
            window_messages: 8,
            output_bytes: 0,
            wall_time: None,
            cpu_time: Some(Duration::from_secs(9)),
            fuel: Some(10),
        };
        let text = "popen//memory=1M//table=5//stack=128K//message=2K//channels=7//window=4K//window-messages=8//output=0\
                    //cpu=9s//fuel=10";
        check(text, Spec::popen().with_limits(limits));
        let limits = Limits { cpu_time: None, ..Limits::default() };
        check("popen//cpu=off//timeout=off//fuel=off", Spec::popen().with_limits(limits));
        let limits = ModuleLimits {
            module_bytes: 1 << 20,
            functions: 1,
            function_bytes: 2 << 10,
            locals: 3,
            nesting: 4,
            jump_targets: 5,
            items: 6,
            compile_time: Duration::from_secs(7),
            compile_memory_bytes: 8 << 30,
            cache_bytes: 9 << 20,
        };
        let text = "popen//module=1M//functions=1//function=2K//locals=3//nesting=4//jumps=5//items=6//compile-time=7s\
                    //compile-memory=8G//cache=9M";
        check(text, Spec::popen().with_module_limits(limits));
        let profile = Profile::MINIMAL.with(Feature::Simd).with(Feature::TailCall);
        check("popen//profile=simd,tail-call", Spec::popen().profile(profile));
        check("popen//epochs=off//modules=one", Spec::popen().epochs(false).one_module());
        check("popen//dir:/a=/x//dir-rw:/b=/y", Spec::popen().dir("/a", "/x").dir_rw("/b", "/y"));
        check(
            "popen//clock=1ms//random=7",
            Spec::popen().clock(Clock::Coarse(Duration::from_millis(1))).random(Random::Seeded(7)),
        );
        check("popen//clock=off//random=off", Spec::popen().clock(Clock::Off).random(Random::Off));
        check("popen//deterministic=3", Spec::popen().deterministic(3));
        let sandbox = Spec::popen().sandbox(Demand::Require).sandbox_layer(Layer::Seccomp, Demand::Off);
        check("popen//sandbox=require//sandbox:seccomp=off", sandbox.clone());
        check("popen//sandbox:seccomp=off//sandbox=require", sandbox);
        let recycle = Recycle { after_loss: true, executions: Some(5), memory_bytes: Some(1 << 20) };
        check("popen//recycle=loss,executions:5,memory:1M", Spec::popen().recycle(recycle));
        check("popen//recycle=off", Spec::popen());
        check("exec=run -i 'an image'", Spec::exec(["run", "-i", "an image"]).unwrap());
        check(r"exec=\/a\/b", Spec::exec(["/a/b"]).unwrap());
        let ssh = Spec::ssh("me@host:22").unwrap().ssh_config("/c").agent("/a").via("gw0");
        check(
            "ssh=me@host:22//ssh_config=/c//agent=/a//via=gw0//heartbeat=2s",
            ssh.with_heartbeat(Duration::from_secs(2)),
        );
        check("popen//transport=ring", Spec::popen().transport(Transport::Ring));
        check("popen//transport=socket", Spec::popen().transport(Transport::Socket));
    }

    #[test]
    fn what_a_gateway_does_not_say_its_group_says() {
        let group: Spec = "popen//memory=1M//deterministic=3//dir:/a=/x".parse().unwrap();
        let own: Spec = "popen//id=x//memory=2M".parse().unwrap();
        let both = own.or(&group);
        assert_eq!((both.given_id(), both.limits().memory_bytes), (Some("x"), 2 << 20));
        assert_eq!(both.grants().execution, ExecutionGrants::deterministic(3));
        assert_eq!(both.grants().directories.len(), 1);
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
            ("id=x", "names no kind of gateway; start it with `popen`, `exec=` or `ssh=`"),
            ("popen//", "unknown key ``"),
            ("popen//memroy=1", "unknown key `memroy`"),
            ("popen//ssh=host", "names two kinds of gateway"),
            ("exec=a//ssh=host", "names two kinds of gateway"),
            ("ssh=-oProxyCommand=x", "names no host"),
            ("ssh=host:port", "has a port that is none"),
            ("exec='a", "nothing ends"),
            ("exec= ", "needs a program"),
            ("ssh=host//heartbeat=1ms", "must be at least 100ms"),
            ("ssh=host//via", "needs a value"),
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
            ("popen//env=x", "unknown key `env`"),
            ("popen//profile=gc", "`gc` is no profile"),
            ("popen//epochs=maybe", "has value `maybe`, which is not `on` or `off`"),
            ("popen//sandbox:seccmop=off", "names no layer; there are `descriptors`"),
            ("popen//sandbox=must", "which is not `require` or `prefer` or `off`"),
            ("popen//transport=pigeon", "has value `pigeon`, which is not `ring` or `socket`"),
            ("popen//recycle=often", "has value `often`"),
            ("popen//dir:=x", "needs what guests call the directory"),
        ] {
            let error = spec.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(message), "`{spec}` gives: {error}");
        }
    }

    #[test]
    fn what_may_be_secret_is_in_no_error() {
        for more in ["bogus=secret", "heartbeat=zz", "exec=secret", "popen", "env:A=secret//env:A=secret", "id="] {
            let error = format!("exec=env TOKEN=secret agent//env:K=secret//{more}").parse::<Spec>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        let error = "exec=fetch https://me:secret@host/path agent//id=x".parse::<Spec>().unwrap_err().to_string();
        assert!(error.contains("key `…` in spec `exec=…//…//id=x`") && !error.contains("secret"), "{error}");
        let error = "exec=env TOKEN='secret agent".parse::<Spec>().unwrap_err().to_string();
        assert!(error.contains("`exec=…`") && !error.contains("secret"), "{error}");
        let error = "ssh=me@big//id=x//memory=y".parse::<Spec>().unwrap_err().to_string();
        assert!(error.contains("`ssh=me@big//id=x//memory=…`"), "{error}");
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
