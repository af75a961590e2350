//! `sandgate cache`.

use std::fs;

use sandgate_tests::wat;
use serde_json::{Value, json};

use crate::Place;

#[test]
fn what_was_compiled_is_listed_and_pruned() {
    let place = Place::new();
    let list = || {
        let said = place.sandgate(&["cache", "list", "--json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        serde_json::from_str::<Value>(&said.stdout).unwrap()
    };
    assert_eq!(list()["entries"], json!([]), "a directory that does not exist has none");
    for name in ["one", "two"] {
        let module = wat(&format!(r#"(module (func (export "_start")) (func (export "{name}")))"#));
        let file = place.write(name, module.bytes());
        assert_eq!(place.sandgate(&["check", &file]).code, Some(0));
    }
    let listed = list();
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{listed}");
    assert!(entries[0]["last_use"].as_u64() <= entries[1]["last_use"].as_u64(), "{listed}");
    let sum: u64 = entries.iter().map(|entry| entry["bytes"].as_u64().unwrap()).sum();
    assert_eq!(listed["bytes"], json!(sum));

    let said = place.sandgate(&["cache", "list"]);
    assert!(said.stdout.contains("just now") && said.stdout.contains("2 compiled modules, "), "{said:?}");

    let cache = place.path("cache");
    fs::write(cache.join("mine.artefact"), "not the cache's").unwrap();
    let one = entries[1]["bytes"].as_u64().unwrap().max(4096).to_string();
    let said = place.sandgate(&["cache", "prune", "--to", &one, "--json"]);
    let pruned: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&pruned["removed"]["entries"], &pruned["left"]["entries"]), (&json!(1), &json!(1)), "{pruned}");
    assert_eq!(list()["entries"][0]["key"], entries[1]["key"], "the least recently used goes first");

    let said = place.sandgate(&["cache", "prune"]);
    assert!(said.stdout.starts_with("removed 0 compiled modules, 0 bytes; 1 compiled module, "), "{said:?}");
    let dir = cache.to_str().unwrap();
    let said = place.sandgate(&["cache", "prune", "--all", "--dir", dir]);
    assert!(said.stdout.starts_with("removed 1 compiled module, "), "{said:?}");
    assert_eq!(list()["entries"], json!([]));
    assert!(cache.join("mine.artefact").exists());
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = Place::new();
    let file = place.write("file", b"");
    let check = |arguments: &[&str], code, expected: &str| {
        let said = place.sandgate(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(expected), "{arguments:?}: {said:?}");
    };
    check(&["cache", "list", "--dir", &file], 3, "cannot read the cache");
    check(&["cache", "prune", "--dir", &file], 3, "cannot prune the cache");
    check(&["cache", "prune", "--to", "much"], 2, "no size such as");
    check(&["cache", "prune", "--to", "1M", "--all"], 2, "cannot be used with");
    check(&["cache"], 2, "Usage:");
    let nowhere = place.run("env", &["-i", sandgate_tests::worker().to_str().unwrap(), "cache", "list"]);
    assert_eq!(nowhere.code, Some(3), "{nowhere:?}");
    assert!(nowhere.stderr.contains("use `--dir`"), "{nowhere:?}");
}
