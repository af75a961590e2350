//! Every trap in every place that runs a guest's code: it ends the task with its kind, wherever it is.

use crate::house::check;
use crate::row::{Row, row};
use crate::wasm::TRAPS;

/// Where code runs: the name, and the module around the code.
const PLACES: [(&str, &str); 5] = [
    ("start", r#"(module ITEMS (func $f CODE) (func (export "_start")) (start $f))"#),
    ("_initialize", r#"(module ITEMS (func (export "_initialize") CODE) (func (export "_start")))"#),
    ("_start", r#"(module ITEMS (func (export "_start") CODE))"#),
    ("a task", r#"(module ITEMS (func (export "sandgate_task:trap") CODE))"#),
    ("a called function", r#"(module ITEMS (func $f CODE) (func (export "_start") (call $f)))"#),
];

#[test]
fn every_trap_in_every_place_ends_the_task_with_its_kind() {
    check("traps", rows);
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, around) in PLACES {
        for (name, items, code, kind) in TRAPS {
            let row =
                row(format!("{name} in {place}"), around.replace("ITEMS", items).replace("CODE", code)).trap(kind);
            rows.push(if place == "a task" { row.task("trap") } else { row });
        }
    }
    rows
}
