//! `sandgate check`.

use std::fmt::Write as _;
use std::fs;

use sandgate_tests::{guest, wat};
use serde_json::{Value, json};

use crate::{Place, text};

/// What `sandgate check --json` says, and its exit code.
#[track_caller]
fn check(place: &Place, arguments: &[&str]) -> (Option<i32>, Value) {
    let said = place.sandgate(&[&["check", "--json"], arguments].concat());
    match serde_json::from_str(&said.stdout) {
        Ok(value) => (said.code, value),
        Err(error) => panic!("{arguments:?}: {error}: {said:?}"),
    }
}

/// The column of a list of objects.
fn column<'v>(list: &'v Value, name: &str) -> Vec<&'v str> {
    let items = list.as_array().expect("a list").iter();
    items.map(|item| item[name].as_str().expect("a text")).collect()
}

#[test]
fn a_module_of_the_sdk_is_described() {
    let place = Place::new();
    let module = guest("typed");
    let (code, said) = check(&place, &[text(&module)]);
    assert_eq!((code, &said["accepted"], &said["problems"]), (Some(0), &json!(true), &json!([])), "{said}");
    assert_eq!(said["bytes"], json!(fs::metadata(&module).unwrap().len()));
    let description = &said["description"];
    assert_eq!(column(&description["tasks"], "name"), ["age", "echo", "number", "repeat", "undescribed"]);
    let repeat = &description["tasks"][3];
    assert_eq!(repeat["signature"], json!("repeat(name: string, count: u32) -> u64"));
    assert_eq!(repeat["parameters"][1], json!({"name": "count", "type": "u32"}));
    assert_eq!((&repeat["takes_channel"], &repeat["result"]), (&json!(true), &json!("u64")));
    let needs = column(&description["needs"], "what");
    assert!(needs.contains(&"channels") && !needs.contains(&"sockets"), "{needs:?}");
    assert!(column(&description["exports"], "name").contains(&"sandgate_task:repeat"));
    assert!(column(&description["imports"], "module").contains(&"sandgate_v1"));
    assert_eq!(description["limits"].as_array().unwrap().len(), 9);

    let said = place.sandgate(&["check", text(&module)]);
    assert_eq!(said.code, Some(0));
    for part in [
        "typed.wasm: accepted\n",
        "\n  repeat(name: string, count: u32) -> u64, and talks on its channel\n",
        "\n      Gives the zoo back.\n\n      With all its animals.\n",
        "\n      struct Zoo { ",
        "\n      cannot be called with JSON: an argument has no schema\n",
        "\n  from sandgate_v1\n",
        "200000  functions=\n",
    ] {
        assert!(said.stdout.contains(part), "no `{part}` in {}", said.stdout);
    }
}

#[test]
fn init_functions_are_shown_with_what_they_take() {
    let place = Place::new();
    let module = guest("warm");
    let (code, said) = check(&place, &[text(&module)]);
    assert_eq!(code, Some(0), "{said}");
    let description = &said["description"];
    assert_eq!(column(&description["inits"], "name"), ["by_chance", "ends", "load"]);
    assert_eq!(description["inits"][2]["parameters"][1], json!({"name": "least", "type": "u32"}));
    assert!(!column(&description["tasks"], "name").contains(&"load"));
    let said = place.sandgate(&["check", text(&module)]);
    for part in [
        "\nInit functions (`--init NAME=INPUT`)\n  by_chance()\n",
        "\n  load(text: string, least: u32)\n      Loads the words of a text.\n\n      They are sorted.\n",
        "\n      enum InitEnd { ",
    ] {
        assert!(said.stdout.contains(part), "no `{part}` in {}", said.stdout);
    }
    let bare = wat(r#"(module (func (export "sandgate_init:go")) (func (export "_start")))"#);
    let said = place.sandgate(&["check", &place.write("m.wasm", bare.bytes())]);
    assert!(said.stdout.contains("\n  go: an init function without a description\n"), "{}", said.stdout);
}

#[test]
fn all_that_a_setting_would_change_is_told_with_it() {
    let place = Place::new();
    let locals = " (local i32)".repeat(20);
    let module = wat(&format!(
        r#"(module
            (func (export "_start") {locals} (drop (v128.const i32x4 0 0 0 0)) (return_call 1))
            (func))"#
    ));
    let file = place.write("m.wasm", module.bytes());
    let (code, said) = check(&place, &["--set", "locals=19", "--set", "functions=1", &file]);
    assert_eq!((code, &said["accepted"]), (Some(1), &json!(false)), "{said}");
    assert_eq!(column(&said["problems"], "kind"), ["limit", "limit", "feature"], "{said}");
    let remedies = column(&said["problems"], "remedy");
    assert_eq!(remedies, ["`functions=2`", "`locals=20`", "`profile=simd,tail-call`"], "{said}");
    assert_eq!(said["description"]["features"], json!(["simd", "tail-call"]));
    assert_eq!(said["description"]["has_main"], json!(true));

    // What it says helps.
    let (code, said) =
        check(&place, &["--set", "locals=20", "--set", "functions=2", "--profile", "simd,tail-call", &file]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(&place, &["--profile", "tail-call", &file]);
    assert_eq!((code, column(&said["problems"], "remedy")), (Some(1), vec!["`profile=tail-call,simd`"]), "{said}");
    let (code, said) = check(&place, &["--set", "module=10", "--profile", "simd,tail-call", &file]);
    assert_eq!((code, column(&said["problems"], "kind")), (Some(1), vec!["limit"]), "{said}");
    let remedy = said["problems"][0]["remedy"].as_str().unwrap().trim_matches('`').to_owned();
    let (code, said) = check(&place, &["--set", &remedy, "--profile", "simd,tail-call", &file]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_is_no_acceptable_module_is_refused_with_the_reason() {
    let place = Place::new();
    let typed = fs::read(guest("typed")).unwrap();
    let import =
        |module: &str, name: &str| wat(&format!(r#"(module (import "{module}" "{name}" (func)))"#)).bytes().to_vec();
    for (name, bytes, kind, message) in [
        ("empty", vec![], "invalid-module", "this is an empty file"),
        ("truncated", typed[..typed.len() / 2].to_vec(), "invalid-module", "unexpected end"),
        ("header", typed[..6].to_vec(), "invalid-module", "unknown version"),
        ("text", b"hello".to_vec(), "invalid-module", "this is no WebAssembly"),
        ("wat", b" (module)".to_vec(), "invalid-module", "translate it to binary first"),
        ("elf", b"\x7fELF\x02".to_vec(), "invalid-module", "this is an ELF file"),
        ("component", b"\0asm\x0d\0\x01\0".to_vec(), "feature", "`component-model`"),
        ("env", import("env", "puts"), "unknown-import", "`env::puts`: a function of a native library"),
        ("preview0", import("wasi_unstable", "fd_write"), "unknown-import", "build for `wasm32-wasip1`"),
        ("abi", import("sandgate_v0", "send"), "abi-version", "rebuild it"),
        ("threads", wat("(module (memory 1 1 shared))").bytes().to_vec(), "feature", "which no profile has"),
    ] {
        let file = place.write(name, &bytes);
        let (code, said) = check(&place, &[&file]);
        assert_eq!(code, Some(1), "{name}: {said}");
        assert_eq!(column(&said["problems"], "kind"), [kind], "{name}: {said}");
        let found = said["problems"][0]["message"].as_str().unwrap();
        assert!(found.contains(message), "{name}: {found}");
        let said = place.sandgate(&["check", &file]);
        assert!(said.code == Some(1) && said.stdout.contains(message), "{name}: {said:?}");
        assert!(said.stdout.contains(": refused\n") && said.stderr.is_empty(), "{name}: {said:?}");
    }
}

#[test]
fn a_file_that_is_far_too_large_is_not_read() {
    let place = Place::new();
    let file = place.write("m.wasm", b"\0asm\x01\0\0\0");
    fs::File::options().write(true).open(&file).unwrap().set_len(300 << 30).unwrap();
    let (code, said) = check(&place, &[&file]);
    assert_eq!((code, column(&said["problems"], "kind")), (Some(1), vec!["limit"]), "{said}");
    let facts = (&said["bytes"], &said["problems_are_partial"], &said["description"]);
    assert_eq!(facts, (&json!(300_u64 << 30), &json!(true), &Value::Null), "{said}");
}

#[test]
fn a_module_that_begins_with_more_than_it_may_is_refused() {
    let place = Place::new();
    let file = place.write(
        "m.wasm",
        wat("(module (memory (export \"memory\") 32) (table 7 funcref) (func (export \"_start\")))").bytes(),
    );
    let (code, said) = check(&place, &[&file, "--set", "memory=2097152", "--set", "table=7"]);
    assert_eq!((code, &said["problems"]), (Some(0), &json!([])), "{said}");
    let (code, said) = check(&place, &[&file, "--set", "memory=2097151", "--set", "table=6"]);
    assert_eq!((code, column(&said["problems"], "kind")), (Some(1), vec!["limit", "limit"]), "{said}");
    assert_eq!(column(&said["problems"], "remedy"), ["`memory=2097152`", "`table=7`"], "{said}");
}

#[test]
fn what_cannot_be_checked_is_no_answer() {
    let place = Place::new();
    let file = place.write("m.wasm", wat("(module)").bytes());
    let check = |arguments: &[&str], code, expected: &str| {
        let said = place.sandgate(&[&["check"], arguments].concat());
        assert_eq!((said.code, &said.stdout[..]), (Some(code), ""), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(expected), "{arguments:?}: {said:?}");
    };
    check(&["/nonexistent/module"], 3, "sandgate: cannot check `/nonexistent/module`: No such file");
    check(&["."], 3, "it is a directory");
    check(&[], 2, "<MODULE>");
    check(&[&file, "--profile", "gc"], 2, "`gc` is no profile");
    check(&[&file, "--set", "output=1M"], 2, "no such setting here");
    check(&[&file, "--set", "functions=many"], 2, "has value `many`");
    check(&[&file, "--set", "functions=1", "--set", "functions=2"], 3, "stands twice");
}

#[test]
fn names_of_a_module_do_nothing_to_a_terminal() {
    let place = Place::new();
    let mut functions = String::new();
    for number in 0..300 {
        write!(functions, r#"(func (export "\1b[2J\c2\9b\e2\80\aeevil\0a{number}"))"#).unwrap();
    }
    let module =
        wat(&format!(r#"(module {functions} (func (export "sandgate_task:\1b\0atask")) (memory (export "m") 1))"#));
    let file = place.write("m.wasm", module.bytes());
    let said = place.sandgate(&["check", &file]);
    let json = place.sandgate(&["check", "--json", &file]);
    for text in [&said.stdout, &json.stdout] {
        assert!(!text.chars().any(sandgate::text::is_active), "{text}");
    }
    assert!(said.stdout.contains(r"\u{1b}[2J\u{9b}\u{202e}evil\n7"), "{said:?}");
    assert!(said.stdout.contains(r"  \u{1b}\ntask: a task without a description"), "{said:?}");
    assert!(said.stdout.contains("and 102 more"), "{said:?}");
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["description"]["exports"][7]["name"], json!("\u{1b}[2J\u{9b}\u{202e}evil\n7"));
    assert_eq!(json["description"]["undescribed_tasks"], json!(["\u{1b}\ntask"]));
}
