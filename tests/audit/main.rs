//! The demo's own farm on real source code: what the sandbox counts is what this process counts, and a file that ends its
//! task costs nothing but its own result.

#[path = "../../host/cli/examples/audit/farm.rs"]
mod farm;
#[path = "../../host/cli/examples/audit/load.rs"]
mod load;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use audit_core::{Report, audit_bytes};
use rustix::process::{Pid, Signal, kill_process};
use sandgate::{Group, Module, Outcome, Spec};
use sandgate_tests::{cache_dir, feed, guest, packages, within, worker};
use serde_json::Value;

use crate::farm::{FileResult, Pass, Settings};

/// Crates that this workspace always has; their sources are the sample.
const SAMPLE: [&str; 3] = ["proc-macro2", "serde", "syn"];
/// For one pass. The first one of all compiles the module.
const PASS: Duration = Duration::from_secs(180);
/// For one file, of which the slowest takes a fraction of a second.
const FILE: Duration = Duration::from_secs(30);
/// For this process to parse: it must not run out where the sandbox does not.
const STACK_BYTES: usize = 256 << 20;

/// Runs the farm on two gateways, with a deadline.
fn audit(files: &[PathBuf], mut on_result: impl FnMut(usize, &Group) + Send + 'static) -> Pass {
    let files = files.to_vec();
    within(PASS, "the audit", move || {
        let mut told = vec![0; files.len()];
        let tell = |file: usize, group: &Group| {
            told[file] += 1;
            on_result(file, group);
        };
        let pass = farm::run(&module("audit"), &files, settings(FILE), tell).expect("a pass");
        assert_eq!((told, pass.results.len()), (vec![1; files.len()], files.len()), "every file has one result");
        let counted: usize = pass.loads.iter().map(|load| load.files).sum();
        let audited = pass.results.iter().filter(|result| matches!(result, FileResult::Audited(_))).count();
        assert_eq!(counted, audited, "the gateways have counted {:?}", pass.loads);
        let times = [pass.setup, pass.elapsed, pass.host_cpu];
        assert!(times.iter().all(|time| *time < PASS), "{times:?}");
        pass
    })
}

fn settings(file_timeout: Duration) -> Settings {
    Settings { gateways: 2, spec: Spec::popen().worker(worker()), file_timeout }
}

fn module(name: &str) -> Module {
    Module::from_file(guest(name)).expect("a module")
}

/// The gateways, and whether their workers lived to the end.
fn gateways(pass: &Pass) -> Vec<(&str, bool)> {
    pass.loads.iter().map(|load| (load.gateway.as_str(), load.cpu.is_some())).collect()
}

#[test]
fn the_sandbox_counts_what_this_process_counts() {
    let files = sample();
    assert!(files.len() > 50, "the sample has {} files", files.len());
    let pass = audit(&files, |_, _| {});
    assert_eq!((pass.restarts, gateways(&pass)), (0, vec![("gw0", true), ("gw1", true)]));
    assert!(pass.termination.is_clean(), "{:?}", pass.termination);
    let native = std::thread::Builder::new().name("native".to_owned()).stack_size(STACK_BYTES);
    let compare = move || {
        for (file, result) in files.iter().zip(pass.results) {
            let native = audit_bytes(&std::fs::read(file).unwrap());
            assert_eq!(result, FileResult::Audited(native), "{}", file.display());
        }
    };
    native.spawn(compare).unwrap().join().unwrap();
}

#[test]
fn the_command_counts_what_this_process_counts() {
    // The native half is not optimised; one crate is enough of it.
    let directory = sample_directories().swap_remove(0);
    let pattern = format!("{}/**/*.rs", directory.display());
    let module = guest("audit").display().to_string();
    let words = ["map", "--quiet", "--task", "audit", "--timeout", "30s", "--output", "json", &module, "--files"];
    let words: Vec<String> = words.map(str::to_owned).into_iter().chain([pattern]).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let cache = cache_dir();
    let mapped = feed(worker(), &words, b"", &[(sandgate::CACHE_VARIABLE, cache.as_os_str())], PASS);
    assert_eq!((mapped.status.code(), &*String::from_utf8_lossy(&mapped.stderr)), (Some(0), ""));
    let native = std::thread::Builder::new().name("native".to_owned()).stack_size(STACK_BYTES);
    let compare = move || {
        let lines = String::from_utf8(mapped.stdout).unwrap();
        let mut files: Vec<PathBuf> = lines.lines().map(audited_natively).collect();
        files.sort();
        let mut expected = Vec::new();
        collect(&directory, &mut expected);
        expected.sort();
        assert_eq!(files, expected);
    };
    native.spawn(compare).unwrap().join().unwrap();
}

/// The file of a result of `sandgate map`, which is the native one.
fn audited_natively(line: &str) -> PathBuf {
    let mut line: Value = serde_json::from_str(line).expect("JSON");
    let path = PathBuf::from(line["input"].as_str().expect("text"));
    let report: Report = serde_json::from_value(line["result"].take()).expect("a report");
    assert_eq!(report, audit_bytes(&std::fs::read(&path).expect("a file")), "{}", path.display());
    path
}

#[test]
fn a_bad_file_costs_its_own_result_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let nested = |name, open: &str, close: &str| {
        write(name, format!("fn f() {{ {}1{} }}", open.repeat(100_000), close.repeat(100_000)).as_bytes())
    };
    let mut files = sample();
    files.truncate(30);
    // In front, in the middle, two in a row, and at the end.
    files.insert(0, nested("parentheses.rs", "(", ")"));
    files.insert(10, nested("blocks.rs", "{", "}"));
    files.insert(11, nested("arrays.rs", "[", "]"));
    files.insert(20, write("not_text.rs", b"fn f() {} // \xff\n"));
    files.insert(21, directory.path().join("missing.rs"));
    files.push(nested("references.rs", "&", ""));

    let pass = audit(&files, |_, _| {});
    assert!(pass.termination.is_clean(), "{:?}", pass.termination);
    let results: HashMap<&Path, &FileResult> = files.iter().map(PathBuf::as_path).zip(&pass.results).collect();
    let mut traps = 0;
    for (path, result) in results {
        let name = path.file_name().unwrap().to_str().unwrap();
        match (name, result) {
            ("parentheses.rs" | "blocks.rs" | "arrays.rs" | "references.rs", FileResult::Ended(outcome)) => {
                assert!(matches!(outcome, Outcome::Trapped { .. }), "{name}: {outcome}");
                traps += 1;
            }
            ("not_text.rs", FileResult::Audited(report)) => {
                assert_eq!(report.parse_error.as_deref(), Some("not UTF-8 after byte `13`"));
            }
            ("missing.rs", FileResult::Unsent(error)) => assert!(error.contains("No such file"), "{error}"),
            (_, FileResult::Audited(report)) if path.starts_with(directory.path()) => panic!("{name}: {report:?}"),
            (_, FileResult::Audited(report)) => assert_eq!(report, &audit_bytes(&std::fs::read(path).unwrap())),
            (_, result) => panic!("{name}: {result:?}"),
        }
    }
    assert_eq!((traps, pass.restarts), (4, 4), "one restart for each file that traps");
}

#[test]
fn a_worker_that_dies_is_replaced_and_no_file_is_lost() {
    let files = sample();
    let mut done = 0;
    let pass = audit(&files, move |_, group| {
        done += 1;
        if done == 20 {
            let pid = group["gw0"].pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("a process");
            kill_process(pid, Signal::KILL).expect("it is ours");
        }
    });
    assert!(pass.results.iter().all(|result| matches!(result, FileResult::Audited(_))));
    assert_eq!((pass.restarts, gateways(&pass)), (1, vec![("gw0", false), ("gw2", true), ("gw1", true)]));
}

#[test]
fn a_module_that_cannot_do_it_is_an_error() {
    let check = |guest: &'static str, reason: &str| {
        let files = sample();
        let run = move || farm::run(&module(guest), &files, settings(Duration::from_millis(300)), |_, _| {});
        let error = within(PASS, guest, run).unwrap_err().to_string();
        assert!(error.starts_with("task processor of gw") && error.ends_with(reason), "{guest}: {error}");
    };
    check("noop", "cannot work: task returned");
    check("spin", "cannot work: task was killed");
}

/// Real source files, always the same ones for the same lock file.
fn sample() -> Vec<PathBuf> {
    let mut files = Vec::new();
    sample_directories().iter().for_each(|directory| collect(directory, &mut files));
    files.sort();
    files
}

fn sample_directories() -> Vec<PathBuf> {
    let packages = packages().into_iter().filter(|(name, _)| SAMPLE.contains(&name.as_str()));
    packages.map(|(_, directory)| directory.join("src")).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
