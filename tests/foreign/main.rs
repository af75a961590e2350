//! Programs that others wrote and compiled to `wasm32-wasip1`, mapped over real files by `sandgate map`: each output is, byte
//! for byte, that of the same program natively, or in another engine.
//!
//! | program | work | reference |
//! |---|---|---|
//! | CPython 3.12, 26 MB | `survey.py` | the machine's `python3` |
//! | QuickJS, 1.4 MB | `survey.js` | the machine's `node` |
//! | Flite, a speech synthesiser with its voices, 21 MB | text to sounds and their times | the same module in `node` |
//!
//! The files are the READMEs of this workspace's dependencies. `SANDGATE_FOREIGN_INPUTS` says how many; 10 are the default.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandgate_tests::{cache_dir, feed, foreign, packages, required, worker};

const DEFAULT_INPUTS: usize = 10;
/// Of these there are a hundred, and the speech synthesiser takes less than a second of processor time for each.
const INPUT_BYTES: std::ops::Range<u64> = 200..2_500;
/// For all that is mapped. The first run of all compiles the module.
const LIMIT: Duration = Duration::from_secs(280);

const PYTHON: &str = include_str!("survey.py");
const SCRIPT: &str = include_str!("survey.js");
const FROM_NODE: &str = "const text = require('node:fs').readFileSync(0, 'utf8');";
const FROM_QUICKJS: &str = "const text = std.in.readAsString();";

#[test]
fn cpython_says_what_the_native_one_says() {
    let Some(module) = required("CPYTHON").filter(|_| is_there("python3")) else { return };
    let arguments = ["-I", "-c", PYTHON];
    compare(&module, &arguments, "python3", &arguments);
}

#[test]
fn quickjs_says_what_node_says() {
    let Some(module) = foreign("QUICKJS").filter(|_| is_there("node")) else { return };
    let (ours, theirs) = (format!("{FROM_QUICKJS}{SCRIPT}"), format!("{FROM_NODE}{SCRIPT}"));
    compare(&module, &["--std", "-e", &ours], "node", &["-e", &theirs]);
}

#[test]
fn flite_says_what_it_says_in_another_engine() {
    let Some(module) = foreign("FLITE").filter(|_| is_there("node")) else { return };
    let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign").join("other_engine.mjs");
    let arguments = ["-psdur", "-f", "-", "-o", "none"];
    let words = [&["--no-warnings", text(&engine), text(&module)], &arguments[..]].concat();
    compare(&module, &arguments, "node", &words);
}

/// Maps the module over the inputs, and runs the reference for each of them.
#[track_caller]
fn compare(module: &Path, arguments: &[&str], reference: &str, reference_arguments: &[&str]) {
    let (inputs, directory) = (inputs(), tempfile::tempdir().expect("a directory"));
    let mut words = vec!["map", "--quiet", "--output-dir", text(directory.path())];
    words.extend(arguments.iter().flat_map(|argument| ["--arg", argument]));
    words.extend([text(module), "--files"]);
    words.extend(inputs.iter().map(|path| text(path)));
    let cache = cache_dir();
    let mapped = feed(worker(), &words, b"", &[(sandgate::CACHE_VARIABLE, cache.as_os_str())], LIMIT);
    assert_eq!((mapped.status.code(), &*String::from_utf8_lossy(&mapped.stderr)), (Some(0), ""));

    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").unwrap_or_default();
    let variables: [(&str, &OsStr); 2] = [("PATH", &path), ("HOME", &home)];
    for input in &inputs {
        let expected = feed(reference, reference_arguments, &fs::read(input).expect("an input"), &variables, LIMIT);
        let complaint = String::from_utf8_lossy(&expected.stderr).into_owned();
        assert!(expected.status.success(), "{reference}, {}: {complaint}", input.display());
        let result = directory.path().join(format!("{}.out", text(input).trim_start_matches('/')));
        let found = fs::read(&result).unwrap_or_else(|error| panic!("{}: {error}", result.display()));
        assert!(!found.is_empty(), "{}: no output", input.display());
        if found != expected.stdout {
            let [found, expected] = [found, expected.stdout].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            panic!("{}:\n{found}\n-- but {reference}:\n{expected}", input.display());
        }
    }
}

/// Real files of a size that a test can afford.
fn inputs() -> Vec<PathBuf> {
    let count = match std::env::var("SANDGATE_FOREIGN_INPUTS") {
        Ok(count) => count.parse().expect("SANDGATE_FOREIGN_INPUTS is a number"),
        Err(_) => DEFAULT_INPUTS,
    };
    let readmes = packages().into_iter().map(|(_, directory)| directory.join("README.md"));
    let fits = |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| INPUT_BYTES.contains(&metadata.len()));
    let inputs: Vec<PathBuf> = readmes.filter(fits).take(count).collect();
    assert_eq!(inputs.len(), count, "so few dependencies have a README that fits");
    inputs
}

/// Whether a program is installed; if it is not, the test that needs it is left out.
#[expect(clippy::print_stderr, reason = "who reads a test's output is to see that it ran nothing")]
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !is_there {
        eprintln!("left out: `{program}` is not installed, the reference");
    }
    is_there
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
