//! `sandgate new`: a guest project that builds, runs and has tests.
//!
//! It is made aside and appears under its name whole or not at all; what is there already is never touched.

mod sdk;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::exit::Exit;
use crate::print;

/// Make a project for a guest: a program for the sandbox, with a typed task and tests
///
/// The project builds with nothing but crates.io: the SDK's sources are copied into it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandgate new hello
  cd hello
  cargo test
  cargo build --release --target wasm32-wasip1
  echo 'one two' | sandgate run target/wasm32-wasip1/release/hello.wasm

  sandgate new hello --sdk ~/src/sandgate/guest-sdk    uses the SDK there instead of a copy

What exists already is never changed. The README in the project has more.

Exit codes: 0 if it is made, 2 for a wrong command line, 3 if it could not be made; nothing of it is left then.")]
pub(crate) struct Arguments {
    /// The project's name, and that of the directory that is made
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// Depend on the SDK in this directory instead of a copy
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

const TEMPLATE: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("template/manifest.toml")),
    ("src/main.rs", include_str!("template/main.rs")),
    ("tests/program.rs", include_str!("template/program.rs")),
    ("README.md", include_str!("template/README.md")),
    (".gitignore", include_str!("template/ignored.txt")),
];

const MAX_NAME_BYTES: usize = 64;

/// Names that a crate cannot have, or that would be another's.
const TAKEN: &[&str] = &[
    // Words of the language.
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    // Crates that are always there.
    "alloc",
    "core",
    "proc-macro",
    "std",
    "test",
    // What cargo calls directories of its own.
    "build",
    "deps",
    "examples",
    "incremental",
    // Crates that the project depends on.
    "cobs",
    "postcard",
    "proc-macro2",
    "quote",
    "serde",
    "syn",
];

fn name(name: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let problem = if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "it has to begin with a letter, a to z"
    } else if !name.chars().all(is_word) {
        "it may have letters, digits, `-` and `_`; the project is made in the current directory"
    } else if name.len() > MAX_NAME_BYTES {
        "it is longer than 64 letters"
    } else if TAKEN.contains(&&name.replace('_', "-").to_ascii_lowercase()[..]) || name.starts_with("sandgate") {
        "a crate of this name would not build: it is a word of Rust's or another crate"
    } else {
        return Ok(name.to_owned());
    };
    Err(problem.to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let name = &arguments.name;
    make(Path::new(name), name, arguments.sdk.as_deref()).with_context(|| format!("cannot make `{name}`"))?;
    let sdk =
        if arguments.sdk.is_some() { String::new() } else { format!(", with the SDK in {name}/{}", sdk::DIRECTORY) };
    print::result(&format!(
        "made {name}{sdk}\n\n  cd {name}\n  cargo test\n  cargo build --release --target wasm32-wasip1\n  \
         echo 'one two' | sandgate run target/wasm32-wasip1/release/{name}.wasm\n"
    ))?;
    Ok(Exit::Success)
}

/// Makes the project `name` at `target`, where nothing may be.
fn make(target: &Path, name: &str, sdk: Option<&Path>) -> Result<()> {
    if fs::symlink_metadata(target).is_ok() {
        bail!("there is something of this name already, which is left as it is");
    }
    let sdk_path = match sdk {
        None => format!("{}/guest-sdk", sdk::DIRECTORY),
        Some(directory) => sdk_at(directory)?,
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new().prefix(".sandgate-new-").tempdir_in(parent)?;
    // A directory of the temporary one, for that can be read by nobody else.
    let project = aside.path().join("project");
    for (path, text) in TEMPLATE {
        write(&project, path, &text.replace("{{name}}", name).replace("{{sdk}}", &quoted(&sdk_path)))?;
    }
    if sdk.is_none() {
        let directory = project.join(sdk::DIRECTORY);
        write(&directory, "Cargo.toml", &sdk::manifest())?;
        for (path, text) in sdk::FILES {
            write(&directory, path, text)?;
        }
    }
    move_to(&project, target)?;
    Ok(())
}

/// Moves the project to its place, where nothing may have appeared meanwhile.
fn move_to(project: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, project, CWD, target, RenameFlags::NOREPLACE) {
        // Not on every file system. An ordinary one replaces nothing but an empty directory.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(project, target),
        result => Ok(result?),
    }
}

fn write(directory: &Path, path: &str, text: &str) -> Result<()> {
    let file = directory.join(path);
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&file, text).with_context(|| format!("cannot write `{path}`"))
}

/// The absolute path of an SDK's directory, if it is one.
fn sdk_at(directory: &Path) -> Result<String> {
    let manifest = directory.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read `{}`", manifest.display()))?;
    if !text.lines().any(|line| line == "name = \"sandgate-guest\"") {
        bail!("`{}` is not the SDK's: it is the directory `guest-sdk` of sandgate's sources", manifest.display());
    }
    let path = fs::canonicalize(directory)?;
    Ok(path.to_str().context("the SDK's path is not text, and cannot stand in a manifest")?.to_owned())
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates() {
        for good in ["hello", "a", "my-app", "my_app2", "Tool"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        let long = "a".repeat(65);
        for bad in
            ["", "-a", "1a", "a b", "a/b", "../a", "a.b", "ä", "fn", "std", "proc_macro", "serde", "sandgate-x", &long]
        {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_project_is_made_whole_and_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("hello");
        make(&target, "hello", None).unwrap();
        let manifest = fs::read_to_string(target.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"hello\"") && manifest.contains("\"sandgate-sdk/guest-sdk\""), "{manifest}");
        assert!(target.join("sandgate-sdk/guest-sdk/src/lib.rs").is_file());
        for (path, _) in TEMPLATE {
            assert!(!fs::read_to_string(target.join(path)).unwrap().contains("{{"), "{path}");
        }
        let left = || fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left(), 1, "what was made aside is gone");
        fs::write(target.join("src/main.rs"), "mine").unwrap();
        let error = make(&target, "hello", None).unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
        assert_eq!(fs::read_to_string(target.join("src/main.rs")).unwrap(), "mine");

        let empty = directory.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(make(&empty, "empty", None).is_err());
        let aside = directory.path().join("aside");
        fs::create_dir(&aside).unwrap();
        assert!(move_to(&aside, &empty).is_err(), "not even an empty directory that has just appeared");
        assert!(make(&directory.path().join("no/such"), "such", None).is_err());
        assert_eq!(left(), 3);
    }

    #[test]
    fn an_sdk_elsewhere_is_named_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("hello");
        let sdk = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk"));
        make(&target, "hello", Some(sdk)).unwrap();
        let path = fs::canonicalize(sdk).unwrap();
        let manifest = fs::read_to_string(target.join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("path = {:?}", path.to_str().unwrap())), "{manifest}");
        assert!(!target.join("sandgate-sdk").exists());
        let error = make(&directory.path().join("x"), "x", Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
        let error = make(&directory.path().join("x"), "x", Some(&target)).unwrap_err();
        assert!(error.to_string().contains("is not the SDK's"), "{error}");
        assert_eq!(quoted("a\"\\\n"), r#""a\"\\\u000A""#);
    }
}
