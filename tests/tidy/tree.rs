//! The files of the repository, as git knows them, and cargo's view of its crates.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use sandgate_tests::{output, repository};
use serde_json::Value;

/// A text file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// The lines with their numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The lines without comments and without what stands in strings.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, String)> {
        self.lines().map(|(number, line)| (number, code(line)))
    }
}

/// What of `line` is code. Good enough for single lines: a string over several is taken for code.
fn code(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let token = if in_string && c == '\\' {
            rest.get(..2).unwrap_or(rest)
        } else if !in_string && rest.starts_with("'\"'") {
            "'\"'"
        } else {
            &rest[..c.len_utf8()]
        };
        if !in_string && rest.starts_with("//") {
            break;
        }
        if token == "\"" {
            in_string = !in_string;
        } else if !in_string {
            code.push_str(token);
        }
        rest = &rest[token.len()..];
    }
    code
}

/// The paths of all files that git tracks or would, relative to the root.
pub(crate) fn paths() -> Vec<String> {
    let listed = output("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"], repository());
    assert!(listed.status.success(), "git does not list the files: {}", String::from_utf8_lossy(&listed.stderr));
    let mut paths: Vec<String> = String::from_utf8(listed.stdout)
        .expect("paths are text")
        .split_terminator('\0')
        // One that is deleted and not yet committed as such is listed still.
        .filter(|path| repository().join(path).is_file())
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// All files that are text.
pub(crate) fn sources() -> Vec<Source> {
    paths()
        .into_iter()
        .filter_map(|path| {
            let text = String::from_utf8(fs::read(repository().join(&path)).expect("a file that git lists")).ok()?;
            Some(Source { path, text })
        })
        .collect()
}

/// What `cargo metadata` says about the workspace in the directory `dir` of the repository.
pub(crate) fn metadata(dir: &str) -> Value {
    let dir: PathBuf = repository().join(dir);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    // Without the filter, cargo downloads what only other platforms need.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let said = output(cargo, &["metadata", "--format-version=1", "--filter-platform", &platform], &dir);
    assert!(said.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).expect("cargo writes JSON")
}

/// Fails with all of `offences` at once.
#[track_caller]
pub(crate) fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

#[test]
fn code_is_what_is_left_without_comments_and_strings() {
    let check = |line, expected| assert_eq!(code(line), expected, "{line}");
    check("let a = 1; // why", "let a = 1; ");
    check(r#"say("a // \" b", c) // d"#, "say(, c) ");
    check(r#"split('"').find("x")"#, r#"split('"').find()"#);
    check(r#""open \"#, "");
}
