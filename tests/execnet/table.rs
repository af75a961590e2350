//! Keeps `tests/EXECNET.md` true: what it names exists, what exists it names, and its counts are right.

use std::collections::BTreeSet;
use std::fs;

use sandgate_tests::repository;

/// The tests of each file of execnet 2.1.2, methods included, parametrised ones once.
const ORIGINALS: &[(&str, usize)] = &[
    ("test_channel.py", 30),
    ("test_gateway.py", 41),
    ("test_multi.py", 17),
    ("test_termination.py", 5),
    ("test_basics.py", 31),
    ("test_xspec.py", 25),
];

/// The modules of this binary that hold ported tests.
const MODULES: &[&str] = &["channel", "gateway", "multi", "termination", "basics", "xspec"];

/// What became of an original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ported,
    Covered,
    Meaningless,
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    original: String,
    fate: Fate,
    text: String,
}

/// The rows, which are all lines like `` | `test_file.py::test` | ported | .. | ``.
fn rows() -> Vec<Row> {
    let cells = |line: &str| -> Option<Row> {
        // A file alone is a row of counts.
        let row = line.strip_prefix("| `test_").filter(|row| row.contains(".py::"))?;
        let cells: Vec<&str> = row.strip_suffix(" |")?.split(" | ").collect();
        let [original, fate, text] = cells[..] else { panic!("a row has three cells: {line}") };
        let fate = match fate {
            "ported" => Fate::Ported,
            "covered" => Fate::Covered,
            "no meaning" => Fate::Meaningless,
            _ => panic!("`{fate}` is nothing that can become of a test: {line}"),
        };
        Some(Row { original: format!("test_{}", original.trim_end_matches('`')), fate, text: text.to_owned() })
    };
    table().lines().filter_map(cells).collect()
}

fn table() -> String {
    fs::read_to_string(repository().join("tests/EXECNET.md")).expect("the table")
}

/// The tests that a row names: `module::test` of this binary, or `path/file.rs::test` of any other.
fn named(row: &Row) -> Vec<String> {
    let is_test = |text: &&str| {
        text.rsplit_once("::").is_some_and(|(place, _)| place.ends_with(".rs") || MODULES.contains(&place))
    };
    row.text.split('`').skip(1).step_by(2).filter(is_test).map(str::to_owned).collect()
}

/// The names of the tests in a source file.
fn tests_of(path: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            names.insert(rest.split('(').next().expect("a name").to_owned());
        }
        is_test = line == "#[test]" || (is_test && line.starts_with("#["));
    }
    names
}

#[test]
fn every_original_has_a_row() {
    let rows = rows();
    let originals: BTreeSet<&str> = rows.iter().map(|row| &row.original[..]).collect();
    assert_eq!(originals.len(), rows.len(), "an original stands twice");
    for (file, count) in ORIGINALS {
        let found = originals.iter().filter(|original| original.starts_with(&format!("{file}::"))).count();
        assert_eq!(found, *count, "{file}");
    }
    assert_eq!(rows.len(), ORIGINALS.iter().map(|(_, count)| count).sum::<usize>());
}

#[test]
fn what_a_row_names_exists() {
    for row in rows() {
        let named = named(&row);
        assert_eq!(named.is_empty(), row.fate == Fate::Meaningless, "{row:?}");
        for test in named {
            let (place, name) = test.rsplit_once("::").expect("a place and a name");
            let path = if place.ends_with(".rs") { place.to_owned() } else { format!("tests/execnet/{place}.rs") };
            assert!(tests_of(&path).contains(name), "`{path}` has no test `{name}`: {row:?}");
        }
    }
}

#[test]
fn every_test_here_has_a_row_of_its_own() {
    let ported: Vec<String> = rows().iter().filter(|row| row.fate == Fate::Ported).flat_map(named).collect();
    for module in MODULES {
        for test in tests_of(&format!("tests/execnet/{module}.rs")) {
            let path = format!("{module}::{test}");
            assert!(ported.contains(&path), "`{path}` is in no row as ported");
        }
    }
}

#[test]
fn the_counts_at_the_top_are_right() {
    let rows = rows();
    let table = table();
    let check = |file: &str| {
        let of_file: Vec<&Row> = rows.iter().filter(|row| row.original.starts_with(file)).collect();
        let count = |fate| of_file.iter().filter(|row| row.fate == fate).count();
        let name = if file.is_empty() { "**all**".to_owned() } else { format!("`{file}`") };
        let (ported, covered, meaningless) = (count(Fate::Ported), count(Fate::Covered), count(Fate::Meaningless));
        let line = format!("| {name} | {} | {ported} | {covered} | {meaningless} |", of_file.len());
        assert!(table.contains(&line), "the table of counts lacks the line\n{line}");
    };
    ORIGINALS.iter().for_each(|(file, _)| check(file));
    check("");
}
