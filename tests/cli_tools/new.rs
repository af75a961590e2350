//! `sandgate new`, and what cargo and a worker make of the project.

use std::fs;
use std::time::Duration;

use sandgate::{Call, Module};
use sandgate_tests::{LIMIT, builder, output, repository, worker};
use serde_json::{Value, json};

use crate::{Place, Said, said, text};

const TARGET: &str = "wasm32-wasip1";

/// Whether the toolchain in use can build for the target. If not, that is said.
#[expect(clippy::print_stderr, reason = "who reads a test's output is to see that it ran nothing")]
pub(crate) fn has_target(place: &Place) -> bool {
    let libraries = place.run("rustc", &["--print", "target-libdir", "--target", TARGET]);
    let has = fs::exists(libraries.stdout.trim()).unwrap_or(false);
    if !has {
        eprintln!("left out: the toolchain in use has no standard library for `{TARGET}`: rustup target add {TARGET}");
    }
    has
}

/// Runs cargo in the project, without the network, with what the repository's own lock file says.
fn cargo(place: &Place, arguments: &[&str]) -> Said {
    let target = repository().join("target").join("test-fixtures").join("new");
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [arguments, &["--offline", "--target-dir", text(&target)]].concat();
    said(output(program, &arguments, &place.path("hello-there")))
}

#[test]
fn a_new_project_is_tested_built_checked_and_run() {
    let place = Place::new();
    let made = place.sandgate(&["new", "hello-there"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.starts_with("made hello-there, with the SDK in hello-there/sandgate-sdk\n"), "{made:?}");
    // Without the network, cargo is to choose the versions that are here.
    fs::copy(repository().join("Cargo.lock"), place.path("hello-there/Cargo.lock")).unwrap();

    let tested = cargo(&place, &["test"]);
    assert_eq!(tested.code, Some(0), "{tested:?}");
    assert_eq!(tested.stdout.matches("test result: ok. 1 passed").count(), 2, "{tested:?}");
    assert!(!tested.stderr.contains("warning"), "{tested:?}");

    if !has_target(&place) {
        return;
    }
    let built = cargo(&place, &["build", "--release", "--target", TARGET]);
    assert_eq!(built.code, Some(0), "{built:?}");
    assert!(!built.stderr.contains("warning"), "{built:?}");
    let path = repository().join("target/test-fixtures/new").join(TARGET).join("release/hello-there.wasm");

    let checked = place.sandgate(&["check", "--json", text(&path)]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
    let description = &checked["description"];
    assert_eq!(description["has_main"], json!(true));
    let task = &description["tasks"][0];
    assert_eq!(task["signature"], json!("count(text: string) -> Counts"));
    assert_eq!(task["types"], json!(["struct Counts { lines: u64, words: u64, bytes: u64 }"]));

    let group = builder().build();
    group.make_default_gateway().unwrap();
    let module = Module::from_file(&path).unwrap();
    let call = Call::start().stdin("one two\nthree\n").capture_output();
    let channel = group[0].remote_exec_with(&module, &call).unwrap();
    channel.wait_close_timeout(LIMIT).unwrap();
    assert_eq!(channel.take_output().expect("asked for").stdout, b"2 3 14\n");

    let lines = place.write("lines.txt", b"a b\nc\n");
    let shell = format!(r#"SANDGATE_CACHE=cache "$0" "$1" "$2" < '{lines}'"#);
    for (command, printed) in [("run", "2 3 6\n"), ("map", "1 2 3\n1 1 1\n")] {
        let ran = place.run("sh", &["-c", &shell, text(worker()), command, text(&path)]);
        assert_eq!((ran.code, &ran.stdout[..]), (Some(0), printed), "{command}: {ran:?}");
    }

    let described = group.describe(&module).unwrap();
    let schema = described.task("count").unwrap();
    let channel =
        group[0].remote_exec_with(&module, &Call::task("count").json_args(schema, &json!("a b")).unwrap()).unwrap();
    let bytes = channel.receive_bytes_timeout(LIMIT).unwrap();
    let counts = sandgate::schema::decode_result(schema, &bytes).unwrap();
    assert_eq!(counts, json!({"lines": 1, "words": 2, "bytes": 3}));
    group.terminate(Duration::from_secs(1));
}

#[test]
fn nothing_is_overwritten_and_names_are_checked() {
    let place = Place::new();
    place.write("taken", b"mine");
    let check = |arguments: &[&str], code, expected: &str| {
        let said = place.sandgate(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(expected), "{arguments:?}: {said:?}");
    };
    check(&["new", "taken"], 3, "there is something of this name already");
    check(&["new", "a/b"], 2, "made in the current directory");
    check(&["new", "fn"], 2, "would not build");
    check(&["new"], 2, "<NAME>");
    check(&["new", "hello", "--force"], 2, "--force");
    check(&["new", "hello", "--sdk", "/nonexistent"], 3, "cannot read `/nonexistent/Cargo.toml`");
    assert_eq!(fs::read(place.path("taken")).unwrap(), b"mine");
    let left: Vec<_> = fs::read_dir(place.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["taken"], "of what failed nothing is left");
}
