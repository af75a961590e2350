//! Inputs of which one in a hundred is hostile.

use crate::{lines, sandgate};

const TASKS: u64 = 1000;

fn is_hostile(number: u64) -> bool {
    number % 100 == 50
}

#[test]
fn hostile_inputs_harm_themselves_alone() {
    let kinds = ["\"Loop\"", "\"Panic\"", "\"Bomb\"", "\"Recurse\"", "\"Fail\"", "{\"Exit\": 3}"];
    let outcomes = ["timed out", "panicked", "", "trapped", "failed", "exited"];
    let kind = |number: u64| usize::try_from(number / 100).unwrap() % kinds.len();
    let input = lines(TASKS, |number| match is_hostile(number) {
        true => kinds[kind(number)].to_owned(),
        false => format!("{{\"Double\": {number}}}"),
    });
    let words = ["map", "--json", "--task", "hostile", "--timeout", "300ms", "--memory", "256M", "@pooled"];
    let came = sandgate(&words, input.as_bytes());
    assert_eq!(came.code, Some(1), "{}", came.stderr);
    let good: String =
        (1..=TASKS).filter(|number| !is_hostile(*number)).map(|number| format!("{}\n", number * 2)).collect();
    assert_eq!(came.stdout, good);
    assert!(came.stderr.ends_with("sandgate: 10 of 1000 inputs failed\n"), "{}", came.stderr);

    let came = sandgate(&[&words[..], &["--output", "json", "--unordered"]].concat(), input.as_bytes());
    let mut seen = vec![false; usize::try_from(TASKS).unwrap()];
    for row in came.stdout.lines() {
        let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
        let index = row["index"].as_u64().unwrap();
        assert!(!std::mem::replace(&mut seen[usize::try_from(index).unwrap()], true), "{index} came twice");
        let number = index + 1;
        let outcome = row["outcome"].as_str().unwrap();
        match is_hostile(number) {
            // An allocation that fails is a panic, a trap or a limit, as the guest's allocator has it.
            true if outcomes[kind(number)].is_empty() => assert_ne!(outcome, "returned"),
            true => assert_eq!(outcome, outcomes[kind(number)], "{number}"),
            false => assert_eq!(row["result"].as_u64(), Some(number * 2)),
        }
    }
    assert!(seen.iter().all(|seen| *seen), "every input has its result");
}
