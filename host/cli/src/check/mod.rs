//! `sandgate check`: what a module is, what it needs, and whether a gateway would take it.
//!
//! 1. The file is read, within bounds.
//! 2. It is compiled as its first execution would have it, in a process of its own: this one never looks into it.
//! 3. One that is refused for its size or its features is compiled again without these limits, so that all of its reasons
//!    can be told and not only the first.
//! 4. All of it is printed, as text or as JSON ([`report`]), and the exit code is the answer.

mod needs;
mod problem;
mod report;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use sandgate::schema::{DescribeError, ModuleDescription};
use sandgate::{
    ExecError, Feature, Group, Module, ModuleLimitName, ModuleLimits, OutputSink, Profile, Rejection, Spec,
};

use crate::exit::Exit;
use crate::{options, print};
use problem::{AllLimits, Problem};
use report::Report;

/// Bytes of a file that are read in any case, so that one that is refused for its size can be looked at.
const READ_BYTES: u64 = 256 << 20;
/// How long the second look at a module may take that is refused anyway.
const SECOND_LOOK: Duration = Duration::from_secs(20);

/// Tell what a module is made of and needs, and whether it would be accepted
///
/// Prints its tasks with their types, what it imports and exports, the features and grants it needs and its size against
/// each limit. A module that would be refused is told why, with the setting that would change it. None of its code is run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate check hello.wasm
  sandgate check hello.wasm --json | jq -r '.description.tasks[].signature'
  sandgate check --profile simd,tail-call hello.wasm
  sandgate check --set functions=500000 --set module=128M large.wasm

Profiles: `minimal` is what rustc emits for `wasm32-wasip1`; `simd`, `relaxed-simd`, `tail-call` and `wide-arithmetic` \
come on top, with commas between them.

`--set` takes these limits of a gateway's spec: `module=`, `functions=`, `function=`, `locals=`, `nesting=`, `jumps=`, \
`items=`, `compile-time=`, `compile-memory=`; `memory=` and `table=`, against what an instance begins with.

What only a run can tell is not checked: what the module does, and what it takes for that.

Exit codes: 0 if it would be accepted, 1 if it is refused (also a file that is empty, cut off or no WebAssembly), 2 for \
a wrong command line, 3 if it could not be checked: no such file, no worker.")]
pub(crate) struct Arguments {
    /// The module, a `.wasm` file
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The features that are taken
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Profile>,
    /// A limit, as in a gateway's spec; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = options::part_of_spec(&options::CHECKED_KEYS))]
    set: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let path = &arguments.module;
    let spec = spec(arguments)?;
    let cannot = || format!("cannot check `{}`", path.display());
    let mut report = Report {
        path: path.clone(),
        bytes: 0,
        id: None,
        profile: spec.taken_profile(),
        limits: AllLimits { module: spec.module_limits().clone(), instance: spec.limits().clone() },
        description: None,
        problems: Vec::new(),
        is_partial: false,
    };
    match read(path, spec.module_limits().module_bytes.max(READ_BYTES)).with_context(cannot)? {
        Contents::TooLarge(found) => {
            let (limit, value) = (ModuleLimitName::ModuleBytes, spec.module_limits().module_bytes);
            let reason = Rejection::ModuleLimit { limit, found, value, item: String::new() };
            report.bytes = found;
            report.is_partial = true;
            report.problems.push(Problem::from(&reason));
        }
        Contents::Whole(bytes) if bytes.is_empty() => {
            report.problems.push(Problem::from(&Rejection::InvalidModule { message: "this is an empty file".into() }));
        }
        Contents::Whole(bytes) => {
            report.bytes = bytes.len() as u64;
            let module = Module::from_bytes(bytes)?;
            report.id = Some(module.id());
            examine(&module, spec, &mut report).with_context(cannot)?;
        }
    }
    print::result(&if arguments.json { report.to_json() } else { report.to_string() })?;
    Ok(if report.is_accepted() { Exit::Success } else { Exit::No })
}

fn spec(arguments: &Arguments) -> Result<Spec> {
    let text = arguments.set.iter().fold("popen".to_owned(), |text, part| text + "//" + part);
    let spec: Spec = text.parse()?;
    Ok(match arguments.profile {
        Some(profile) => spec.profile(profile),
        None => spec,
    })
}

enum Contents {
    Whole(Vec<u8>),
    /// More bytes than are read, and at least this many.
    TooLarge(u64),
}

/// Reads no more than may be of use, whatever the file is.
fn read(path: &Path, most: u64) -> Result<Contents> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        bail!("it is a directory");
    }
    if metadata.len() > most {
        return Ok(Contents::TooLarge(metadata.len()));
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    Ok(if found > most { Contents::TooLarge(found) } else { Contents::Whole(bytes) })
}

fn examine(module: &Module, spec: Spec, report: &mut Report) -> Result<()> {
    let first = Group::builder().output(OutputSink::Discard).build();
    let refusal = match describe(&first, spec.clone(), module)? {
        Ok(description) => {
            // No limit of compilation is broken; those of instances may be.
            report.problems = Problem::of_shape(&description.shape, &report.limits, report.profile);
            report.description = Some(description);
            return Ok(());
        }
        Err(refusal) => refusal,
    };
    report.problems.push(Problem::from(&refusal));
    if !Problem::has_a_setting(&refusal) {
        return Ok(());
    }
    // What is compiled for this answer alone is not kept.
    let second = Group::builder().output(OutputSink::Discard).cache(None).build();
    match describe(&second, without_limits(spec), module) {
        Ok(Ok(description)) => {
            let all = Problem::of_shape(&description.shape, &report.limits, report.profile);
            if !all.is_empty() {
                report.problems = all;
            }
            report.description = Some(description);
        }
        Ok(Err(other)) => {
            let other = Problem::from(&other);
            // That it takes too long or too much memory is a matter of this second look.
            if other.kind != "limit" {
                report.problems.push(other);
            }
            report.is_partial = true;
        }
        // It is refused, whatever the second look would have shown.
        Err(_) => report.is_partial = true,
    }
    Ok(())
}

fn describe(group: &Group, spec: Spec, module: &Module) -> Result<Result<ModuleDescription, Rejection>> {
    let gateway = group.make_gateway(spec)?;
    match gateway.describe(module) {
        Ok(description) => Ok(Ok(description)),
        Err(DescribeError::Exec(ExecError::Rejected { reason, .. })) => Ok(Err(reason)),
        Err(error) => Err(error.into()),
    }
}

/// Takes any module that compiles in a time and memory that are still bounded.
fn without_limits(spec: Spec) -> Spec {
    let limits = ModuleLimits {
        module_bytes: u64::MAX,
        functions: u32::MAX,
        function_bytes: u64::MAX,
        locals: u32::MAX,
        nesting: u32::MAX,
        jump_targets: u64::MAX,
        items: u32::MAX,
        compile_time: spec.module_limits().compile_time.min(SECOND_LOOK),
        ..spec.module_limits().clone()
    };
    spec.with_module_limits(limits).profile(Feature::ALL.into_iter().fold(Profile::MINIMAL, Profile::with))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(set: &[&str]) -> Arguments {
        let set = set.iter().map(|part| (*part).to_owned()).collect();
        Arguments { module: PathBuf::new(), json: false, profile: None, set }
    }

    #[test]
    fn limits_of_modules_can_be_set_and_nothing_else() {
        let spec = spec(&arguments(&["functions=5", "module=1M"])).unwrap();
        assert_eq!((spec.module_limits().functions, spec.module_limits().module_bytes), (5, 1 << 20));
        for (part, text) in [
            ("worker=/bin/sh", "no such setting here"),
            ("functions", "needs a value"),
            ("functions=5//worker=x", "no such setting here"),
            ("functions=-1", "has value `-1`"),
        ] {
            let error = options::part_of_spec(&options::CHECKED_KEYS)(part).unwrap_err();
            assert!(error.contains(text), "{part}: {error}");
        }
    }

    #[test]
    fn no_more_is_read_than_is_of_use() {
        assert!(matches!(read(Path::new("/dev/zero"), 10), Ok(Contents::TooLarge(11))));
        assert!(matches!(read(Path::new("/dev/null"), 10), Ok(Contents::Whole(bytes)) if bytes.is_empty()));
        assert!(read(Path::new("/"), 10).is_err());
    }
}
