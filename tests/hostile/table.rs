//! Keeps `tests/HOSTILE.md` true: each file and row that it names exists, and no section is missing.

use std::collections::BTreeSet;
use std::fs;

use sandgate_tests::repository;

#[test]
fn what_the_table_names_exists() {
    let table = fs::read_to_string(repository().join("tests/HOSTILE.md")).expect("the table");
    // The first table; what comes after it speaks of numbers.
    let (table, _) = table.split_once("\n## ").expect("a part about numbers");
    let mut sections = BTreeSet::new();
    let mut missing = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| section")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [section, _, file, rows] = cells[..] else { panic!("a row has four cells: {line}") };
        sections.insert(section.to_owned());
        let file = format!("tests/hostile/{}.rs", file.trim_matches('`'));
        let Ok(source) = fs::read_to_string(repository().join(&file)) else {
            missing.push(format!("there is no file {file}"));
            continue;
        };
        // Names that are put together stand in the source without what is put in.
        let rows: Vec<&str> = rows.split('`').skip(1).step_by(2).collect();
        assert!(!rows.is_empty(), "a row names nothing: {line}");
        missing
            .extend(rows.iter().filter(|row| !source.contains(**row)).map(|row| format!("{file} has no row `{row}`")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    let all = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "all"].map(str::to_owned);
    assert_eq!(sections, BTreeSet::from(all));
}
