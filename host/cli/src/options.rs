//! What `run` and `map` have in common: the module, and what the sandbox around it gives and takes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use sandgate::schema::{DescribeError, ModuleDescription};
use sandgate::{
    ExecError, Gateway, Group, GroupBuilder, Init, InitError, Module, ModuleError, Rejection, Spec, SpecError,
};
use serde_json::Value;

/// What a guest gets, and how much of it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct Sandbox {
    /// Memory that it may take, as in 256M; [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = setting("memory"))]
    memory: Option<String>,
    /// Processor time that it may take, as in 10s; [default: 24 hours]
    #[arg(long, value_name = "DURATION", value_parser = setting("cpu"))]
    cpu: Option<String>,
    /// Instructions that it may take, in the engine's units of fuel; the same on every machine
    #[arg(long, value_name = "UNITS", value_parser = setting("fuel"))]
    fuel: Option<String>,
    /// An environment variable for it, NAME=VALUE; it sees no others
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A directory that it may read: GUEST=HOST, or one path for both
    #[arg(long, value_name = "GUEST=HOST", value_parser = directory)]
    dir: Vec<Granted>,
    /// A directory that it may read and change
    #[arg(long, value_name = "GUEST=HOST", value_parser = directory)]
    dir_rw: Vec<Granted>,
    /// WebAssembly that is taken, such as `simd`; see the documentation of `profile=`
    #[arg(long, value_name = "PROFILE", value_parser = setting("profile"))]
    profile: Option<String>,
    /// The same output for the same input: a clock that stands still, random numbers from this seed
    #[arg(long, value_name = "SEED")]
    deterministic: Option<u64>,
    /// Run this init function of the module once, and begin everything in what it has left; INPUT is JSON, as a task's
    /// arguments are
    #[arg(long, value_name = "NAME[=INPUT]", value_parser = initial)]
    init: Option<Initial>,
    /// Another setting of a gateway, as in `nesting=2000` or `sandbox=require`; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = part_of_spec(&OTHER_KEYS))]
    set: Vec<String>,
}

/// The limits that a spec can set and that a module can be over before it runs, those of modules first.
pub(crate) const CHECKED_KEYS: [&str; 11] = [
    "module",
    "functions",
    "function",
    "locals",
    "nesting",
    "jumps",
    "items",
    "compile-time",
    "compile-memory",
    "memory",
    "table",
];

/// What no option sets, and the command has no opinion on.
const OTHER_KEYS: [&str; 15] = [
    "module",
    "functions",
    "function",
    "locals",
    "nesting",
    "jumps",
    "items",
    "compile-time",
    "compile-memory",
    "stack",
    "table",
    "clock",
    "nice",
    "sandbox",
    "sandbox:LAYER",
];

/// An init function and its input.
#[derive(Debug, Clone)]
struct Initial {
    name: String,
    input: Option<Value>,
}

/// A directory, by the guest's name and ours.
#[derive(Debug, Clone)]
struct Granted {
    guest: String,
    host: PathBuf,
}

impl Sandbox {
    /// The gateway that this asks for, with these settings more.
    pub(crate) fn spec(&self, more: &[(&str, Option<&str>)]) -> Result<Spec> {
        let ours = [("memory", &self.memory), ("cpu", &self.cpu), ("fuel", &self.fuel), ("profile", &self.profile)];
        let ours = ours.into_iter().map(|(key, value)| (key, value.as_deref()));
        let mut text = "popen".to_owned();
        for (key, value) in ours.chain(more.iter().copied()) {
            if let Some(value) = value {
                text = format!("{text}//{}", part(key, value));
            }
        }
        for part in &self.set {
            text = format!("{text}//{part}");
        }
        let mut spec: Spec = text.parse()?;
        for (name, value) in &self.env {
            spec = spec.env(name, value);
        }
        for (granted, writable) in self.dir.iter().map(|it| (it, false)).chain(self.dir_rw.iter().map(|it| (it, true)))
        {
            let host = granted.host.canonicalize();
            let host = host.with_context(|| format!("directory `{}` cannot be given", granted.host.display()))?;
            if !host.is_dir() {
                bail!("`{}` is no directory, so it cannot be given", granted.host.display());
            }
            spec = if writable { spec.dir_rw(&granted.guest, host) } else { spec.dir(&granted.guest, host) };
        }
        Ok(match self.deterministic {
            Some(seed) => spec.deterministic(seed),
            None => spec,
        })
    }

    /// The module as it is after its init function, if one is to be run. Blocks until that is done, for all its limits allow.
    pub(crate) fn prepared(&self, module: Module, spec: &Spec) -> Result<Module> {
        let Some(Initial { name, input }) = &self.init else { return Ok(module) };
        let mut init = Init::new(name).spec(spec.clone());
        if let Some(input) = input {
            let described = describe(&module, &Group::builder(), spec)?;
            let known = described.init_names().any(|known| known == name);
            match described.init(name) {
                Some(schema) => init = init.json_input(schema, input)?,
                None if known => {
                    bail!("init function `{name}` does not describe what it takes, so it cannot be given JSON")
                }
                // To be told by who knows all that there are.
                None => {}
            }
        }
        module.preinitialize_with(&init).map_err(|error| match error {
            InitError::Rejected { module, reason } => Refused { module, reason: reason.to_string() }.into(),
            error => error.into(),
        })
    }

    /// What of it decides a result, as text.
    pub(crate) fn fingerprint(&self) -> String {
        let directories = |all: &[Granted]| -> Vec<String> {
            all.iter().map(|granted| format!("{}={}", granted.guest, granted.host.display())).collect()
        };
        let (dir, dir_rw) = (directories(&self.dir), directories(&self.dir_rw));
        let (profile, seed) = (&self.profile, self.deterministic);
        let clock: String =
            self.set.iter().filter(|part| part.starts_with("clock=")).map(|part| format!(" {part}")).collect();
        format!("env={:?} dir={dir:?} dir-rw={dir_rw:?} profile={profile:?} deterministic={seed:?}{clock}", self.env)
    }
}

/// One setting of a spec.
fn part(key: &str, value: &str) -> String {
    format!("{key}={}", value.replace('\\', "\\\\").replace('/', "\\/"))
}

/// Takes what a spec takes for this setting.
pub(crate) fn setting(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |value| match format!("popen//{}", part(key, value)).parse::<Spec>() {
        Ok(_) => Ok(value.to_owned()),
        Err(SpecError::Value { problem, .. }) => Err(problem),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes a part of a spec that has one of these keys.
pub(crate) fn part_of_spec(
    keys: &'static [&'static str],
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |part| {
        let key = part.split_once('=').map_or(part, |(key, _)| key);
        let key = if key.starts_with("sandbox:") { "sandbox:LAYER" } else { key };
        if !keys.contains(&key) || part.contains("//") {
            let known: Vec<String> = keys.iter().map(|key| format!("`{key}=`")).collect();
            return Err(format!("there is no such setting here; there are {}", known.join(", ")));
        }
        format!("popen//{part}").parse::<Spec>().map(|_| part.to_owned()).map_err(|error| error.to_string())
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err("is not of the form NAME=VALUE".to_owned()),
    }
}

fn directory(text: &str) -> Result<Granted, String> {
    let (guest, host) = text.split_once('=').unwrap_or((text, text));
    if guest.is_empty() || host.is_empty() {
        return Err("is not of the form GUEST=HOST".to_owned());
    }
    Ok(Granted { guest: guest.to_owned(), host: host.into() })
}

fn initial(text: &str) -> Result<Initial, String> {
    let (name, input) = text.split_once('=').map_or((text, None), |(name, input)| (name, Some(input)));
    if name.is_empty() {
        return Err("is not of the form NAME or NAME=INPUT".to_owned());
    }
    let input = input
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| format!("has an input that is not JSON: {error}"))?;
    Ok(Initial { name: name.to_owned(), input })
}

/// The module of a file, of which no more is read than a gateway with this spec takes.
pub(crate) fn module(path: &Path, spec: &Spec) -> Result<Module> {
    if path.is_dir() {
        bail!("`{}` is a directory, not a module", path.display());
    }
    Module::from_file_up_to(path, spec.module_limits().module_bytes).map_err(|error| match error {
        ModuleError::TooLarge { name, maximum } => {
            let reason = format!("it has more than {maximum} bytes (setting `module=`, here `--set module=SIZE`)");
            Refused { module: name, reason }.into()
        }
        error => error.into(),
    })
}

/// What the module says of itself, from a gateway that is gone afterwards. A module that will not run is an error here.
pub(crate) fn describe(module: &Module, group: &GroupBuilder, spec: &Spec) -> Result<ModuleDescription> {
    let group: Group = group.clone().build();
    let gateway = group.make_gateway(spec.clone())?;
    let described = describe_on(&gateway, module);
    // It runs nothing, so nothing of it needs time to end.
    gateway.kill();
    described
}

/// As [`describe`], on a gateway that there is.
pub(crate) fn describe_on(gateway: &Gateway, module: &Module) -> Result<ModuleDescription> {
    gateway.describe(module).map_err(plainly)
}

/// An error about a module, without the words around it.
fn plainly(error: DescribeError) -> anyhow::Error {
    match error {
        DescribeError::Exec(ExecError::Rejected { module, reason }) => {
            let reason = match &reason {
                Rejection::Feature { feature, .. } if feature == "component-model" => {
                    "it is a component; build it as a core module, for wasm32-wasip1".to_owned()
                }
                reason => reason.to_string(),
            };
            Refused { module, reason }.into()
        }
        DescribeError::Exec(error) => error.into(),
        error => error.into(),
    }
}

/// The module is none that runs here.
#[derive(Debug, thiserror::Error)]
#[error("module `{module}` is refused: {reason}")]
pub(crate) struct Refused {
    module: String,
    reason: String,
}

/// What is to be run of a module.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// Its `_start`, as a program like any other.
    Program,
    /// A task of its own.
    Task(String),
}

/// Finds out what to run, or says why that cannot be.
pub(crate) fn entry(module: &Module, described: &ModuleDescription, task: Option<&str>) -> Result<Entry> {
    let mut names: Vec<&str> = described.task_names().collect();
    names.sort_unstable();
    let name = module.name();
    let has_start = described.is_cut || described.exports.iter().any(|export| export.name == "_start");
    let tasks = match names.is_empty() {
        true => "it has none".to_owned(),
        false => format!("it has `{}`", names.join("`, `")),
    };
    match task {
        Some(task) if described.is_cut || names.contains(&task) => Ok(Entry::Task(task.to_owned())),
        Some(task) => bail!("module `{name}` has no task `{task}`: {tasks}"),
        None if has_start => Ok(Entry::Program),
        None => bail!("module `{name}` is no program, for it has no `_start`; name a task with `--task`: {tasks}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_specs() {
        assert_eq!(setting("memory")("256M"), Ok("256M".to_owned()));
        assert!(setting("memory")("much").is_err());
        assert!(setting("timeout")("1//fuel=3").is_err(), "one setting is one setting");
        let other = part_of_spec(&OTHER_KEYS);
        assert_eq!(other("sandbox:seccomp=require"), Ok("sandbox:seccomp=require".to_owned()));
        assert!(other("sandbox:walls=require").is_err() && other("nesting=x").is_err());
        assert!(other("worker=x").is_err() && other("nice=1//worker=x").is_err() && other("memory=1G").is_err());
        assert!(OTHER_KEYS.starts_with(&CHECKED_KEYS[..9]));
        assert!(variable("=x").is_err() && variable("x").is_err());
        assert_eq!(variable("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(initial("=1").is_err() && initial("load=no json").is_err());
        assert_eq!(initial("load=[1, \"a=b\"]").unwrap().input, Some(serde_json::json!([1, "a=b"])));
        assert_eq!(initial("load").unwrap().input, None);
        let same = directory("/data").unwrap();
        assert_eq!((&*same.guest, same.host), ("/data", PathBuf::from("/data")));
    }
}
