//! `sandgate doctor`: what it prints has the shape that SECURITY.md shows, and its JSON says the same.

use std::fs;

use sandgate::isolation::Layer;
use sandgate_tests::repository;
use serde_json::Value;

use crate::Place;

/// Of each line what is the same on every machine: the steps, the layers and the self-tests, in their order.
fn skeleton(printed: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in printed.lines().skip(1) {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let words: Vec<&str> = text.split_whitespace().collect();
        match (&words[..], indent) {
            (["to", "have", "it:", ..] | ["problem:", ..] | ["The", ..] | [], _) => {}
            // A mark, a name, and what came of it.
            (["ok" | "-" | "FAIL", ..], 12) => {
                let (_, rest) = text.split_once(' ').expect("a name");
                lines.push(format!("test {}", rest.trim_start().split(": ").next().expect("a name")));
            }
            (["ok" | "FAIL", ..], 0) => {
                let (_, rest) = text.split_once(' ').expect("a name");
                lines.push(format!("step {}", rest.trim_start().split("  ").next().expect("a name")));
            }
            (["ENFORCED" | "PARTIAL" | "MISSING" | "OFF", layer, ..], 0) => lines.push(format!("layer {layer}")),
            other => panic!("what is this? {other:?}"),
        }
    }
    lines
}

#[test]
fn the_doctor_prints_what_security_shows() {
    let page = fs::read_to_string(repository().join("SECURITY.md")).expect("SECURITY.md");
    let (_, shown) = page.split_once("$ sandgate doctor\n").expect("a session of the doctor");
    let (shown, _) = shown.split_once("```").expect("its end");
    let said = Place::new().sandgate(&["doctor"]);
    assert_eq!((said.code, &*said.stderr), (Some(0), ""), "{}", said.stdout);
    assert_eq!(skeleton(shown), skeleton(&said.stdout), "{}", said.stdout);
    assert!(said.stdout.starts_with(concat!("sandgate ", env!("CARGO_PKG_VERSION"), " on ")), "{}", said.stdout);
    assert!(said.stdout.contains("\nThe policy holds"), "{}", said.stdout);
    let layers = |text: &str| skeleton(text).into_iter().filter(|line| line.starts_with("layer ")).count();
    assert_eq!(layers(shown), Layer::ALL.len());
}

#[test]
fn its_json_says_the_same() {
    let place = Place::new();
    let said = place.sandgate(&["doctor", "--json"]);
    assert_eq!((said.code, &*said.stderr), (Some(0), ""), "{}", said.stdout);
    let found: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!((&found["holds"], &found["problems"]), (&Value::Bool(true), &Value::Array(Vec::new())), "{found:#}");
    for key in ["system", "release", "architecture", "processors", "memory_bytes", "user", "group"] {
        assert!(!found["machine"][key].is_null(), "{key}: {found:#}");
    }
    let steps = found["worker"].as_array().expect("steps");
    assert!(steps.len() == 4 && steps.iter().all(|step| step["passed"] == true), "{steps:?}");
    let layers = found["layers"].as_array().expect("layers");
    let names: Vec<&str> = layers.iter().filter_map(|layer| layer["layer"].as_str()).collect();
    assert_eq!(names, Layer::ALL.map(Layer::name));
    for layer in layers {
        let is_enforced = layer["state"] == "enforced";
        assert_eq!(layer["advice"].is_null(), is_enforced, "what is not in force can be had: {layer:#}");
        let tests = layer["tests"].as_array().expect("self-tests");
        assert!(!tests.is_empty(), "{layer:#}");
        let went_well = |test: &Value| test["verdict"] == "passed" || !is_enforced && test["verdict"] == "not in force";
        assert!(tests.iter().all(went_well), "{layer:#}");
    }
    // A policy that demands all of it holds where all of it is in force, and nowhere else.
    let has_all = layers.iter().all(|layer| layer["state"] == "enforced");
    let required = place.sandgate(&["doctor", "--require", "all", "--json"]);
    let found: Value = serde_json::from_str(&required.stdout).expect("JSON");
    assert_eq!((required.code == Some(0), found["holds"] == true), (has_all, has_all), "{found:#}");
    assert_eq!(place.sandgate(&["doctor", "--require", "walls"]).code, Some(2));
}
