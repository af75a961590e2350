//! F, directories: with one granted, guests reach what is beneath it and nothing else, and change what they may.
//!
//! The canary tree holds a directory `granted` with links of all kinds out of it, beside a secret.

use std::fs;

use sandgate::{Call, Group};
use sandgate_tests::{LIMIT, builder, popen, wat};

use crate::canary::Canary;
use crate::house::alone;
use crate::wasm::program;

/// What a guest tries on the descriptor 3 with a path, and whether it may work when only reading is granted.
const TRIES: &[(&str, &str)] = &[
    // Open to read: no flags, the right to read.
    (
        "open",
        "(call $path_open (i32.const 3) (i32.const 1) PATH (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 1024))",
    ),
    (
        "open a directory",
        "(call $path_open (i32.const 3) (i32.const 1) PATH (i32.const 2) (i64.const 0x4000) (i64.const 2) (i32.const 0) (i32.const 1024))",
    ),
    (
        "create",
        "(call $path_open (i32.const 3) (i32.const 1) PATH (i32.const 1) (i64.const 0x42) (i64.const 0x42) (i32.const 0) (i32.const 1024))",
    ),
    (
        "truncate",
        "(call $path_open (i32.const 3) (i32.const 1) PATH (i32.const 8) (i64.const 0x42) (i64.const 0x42) (i32.const 0) (i32.const 1024))",
    ),
    (
        "write",
        "(call $path_open (i32.const 3) (i32.const 1) PATH (i32.const 0) (i64.const 0x40) (i64.const 0x40) (i32.const 0) (i32.const 1024))",
    ),
    ("unlink", "(call $path_unlink_file (i32.const 3) PATH)"),
    ("remove", "(call $path_remove_directory (i32.const 3) PATH)"),
    ("make a directory", "(call $path_create_directory (i32.const 3) PATH)"),
    ("rename here", "(call $path_rename (i32.const 3) PATH (i32.const 3) (i32.const 512) (i32.const 5))"),
    ("rename over it", "(call $path_rename (i32.const 3) (i32.const 520) (i32.const 12) (i32.const 3) PATH)"),
    ("link here", "(call $path_link (i32.const 3) (i32.const 1) PATH (i32.const 3) (i32.const 512) (i32.const 5))"),
    ("a symbolic link to it", "(call $path_symlink PATH (i32.const 3) (i32.const 512) (i32.const 5))"),
    (
        "change its times",
        "(call $path_filestat_set_times (i32.const 3) (i32.const 1) PATH (i64.const 1) (i64.const 1) (i32.const 5))",
    ),
    ("look", "(call $path_filestat_get (i32.const 3) (i32.const 1) PATH (i32.const 1024))"),
];

/// Ways out of the directory.
const OUTSIDE: &[&str] = &[
    "../secret",
    "..",
    "../",
    "../../",
    "inside/../../secret",
    "./../secret",
    "inside/../..",
    "/etc/passwd",
    "/",
    "//",
    "out",
    "up",
    "out/",
    "root",
    "root/etc/passwd",
    "root/proc/self/environ",
    "inside/../../granted/../secret",
    "../granted",
    "\u{0}",
    "hard/..",
    "/proc/self/fd/3",
];

/// What lies beneath it.
const INSIDE: &[&str] =
    &["inside", "inside/plain", "inside/", "inside/plain/", "hard", "./inside/./plain", ".", "new", "inside/new"];

#[test]
fn what_lies_outside_of_a_granted_directory_cannot_be_reached() {
    let _alone = alone();
    for writable in [false, true] {
        let canary = Canary::plant();
        let mut problems = Vec::new();
        let group = builder().build();
        for path in OUTSIDE {
            for (name, call) in TRIES {
                // The link itself is beneath the directory, and may be looked at, removed and renamed by whoever may write.
                let is_link = ["out", "up", "root"].contains(path);
                if is_link && (writable || *name == "look") {
                    continue;
                }
                // It is made here and says what it likes; whoever follows it is stopped.
                if *name == "a symbolic link to it" && writable {
                    continue;
                }
                if run(&group, &canary, writable, path, call) == Some(0) {
                    problems.push(format!("{name} `{path}` works, writable: {writable}"));
                }
                problems.extend(canary.harm());
            }
        }
        assert!(problems.is_empty(), "{} problems\n  {}", problems.len(), problems.join("\n  "));
    }
}

#[test]
fn nothing_changes_in_a_directory_that_may_only_be_read() {
    let _alone = alone();
    let canary = Canary::plant();
    let group = builder().build();
    let mut worked = Vec::new();
    for path in INSIDE {
        for (name, call) in TRIES {
            if run(&group, &canary, false, path, call) == Some(0) {
                worked.push((*name, *path));
            }
        }
    }
    assert_eq!(canary.harm(), Vec::<String>::new(), "{worked:?}");
    assert!(worked.contains(&("open", "inside/plain")), "reading works: {worked:?}");
    let harmless = ["open", "open a directory", "look"];
    let harmful: Vec<_> = worked.iter().filter(|(name, _)| !harmless.contains(name)).collect();
    assert!(harmful.is_empty(), "{harmful:?} worked");
}

#[test]
fn a_directory_that_may_be_changed_is_changed() {
    let _alone = alone();
    let canary = Canary::plant();
    let group = builder().build();
    let create = TRIES.iter().find(|(name, _)| *name == "create").expect("a try").1;
    assert_eq!(run(&group, &canary, true, "new", create), Some(0));
    assert!(fs::exists(canary.path().join("granted/new")).expect("a look"));
}

/// The status of a call on a path; nothing if the task ended otherwise.
fn run(group: &Group, canary: &Canary, writable: bool, path: &str, call: &str) -> Option<i32> {
    let granted = canary.path().join("granted");
    // The same gateway for all, made when it is first asked for.
    let id = if writable { "writes" } else { "reads" };
    let gateway = match group.get(id) {
        Some(gateway) => gateway.clone(),
        None => {
            let spec = popen().id(id);
            let spec = if writable { spec.dir_rw("/data", granted) } else { spec.dir("/data", granted) };
            group.make_gateway(spec).expect("a gateway with a directory")
        }
    };
    // The path is the argument: one byte of length, and the path behind it.
    let items = r#"(data (i32.const 512) "mine!") (data (i32.const 520) "inside/plain")"#;
    let call = call.replace("PATH", "(i32.const 1) (i32.load8_u (i32.const 0))");
    let body = format!(
        "(drop (call $call_args (i32.const 0) (i32.const 100) (i32.const 0) (i32.const 0) (i32.const 2048)))
         (call $proc_exit (i32.add (i32.const 1000) {call}))"
    );
    let arguments = Call::start().args(path).expect("a path");
    let channel = gateway.remote_exec_with(&wat(&program(items, &body)), &arguments).expect("a task");
    let _ = channel.wait_close_timeout(LIMIT);
    match channel.outcome() {
        Some(sandgate::Outcome::Exited { code }) => Some(code - 1000),
        Some(sandgate::Outcome::Trapped { .. }) => None,
        other => panic!("`{path}`: {other:?}"),
    }
}
