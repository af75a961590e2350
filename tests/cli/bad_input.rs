//! What cannot be run or written is told before work is lost, and is neither a hang nor a panic.

use std::fs;

use sandgate_tests::guest;

use crate::{numbers, sandgate};

/// Runs it, and expects this code and a message of one line with this in it.
#[track_caller]
fn check(words: &[&str], code: i32, part: &str) {
    let came = sandgate(words, b"1\n2\n");
    assert_eq!(came.code, Some(code), "{words:?}: {came:?}");
    assert!(came.stderr.contains(part), "{words:?}: {came:?}");
    assert_eq!(came.stdout, "", "{words:?}");
    if code != 2 {
        assert!(came.stderr.starts_with("sandgate: ") && came.stderr.lines().count() == 1, "{words:?}: {came:?}");
    }
}

#[test]
fn what_is_no_module_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let whole = fs::read(guest("noop")).unwrap();
    fs::write(path("empty.wasm"), "").unwrap();
    fs::write(path("text.wasm"), "#!/bin/sh\n").unwrap();
    fs::write(path("cut.wasm"), &whole[..1000]).unwrap();
    fs::write(path("component.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    fs::write(path("nothing.wasm"), b"\0asm\x01\0\0\0").unwrap();
    // Name, what is said, and the codes of `run` and `map`.
    let rows = [
        ("missing.wasm", "cannot read module", 125),
        ("", "is a directory, not a module", 125),
        ("empty.wasm", "module `empty.wasm` is empty", 125),
        ("text.wasm", "is refused: not an acceptable module: this is no WebAssembly", 126),
        ("cut.wasm", "is refused: not an acceptable module: unexpected end-of-file", 126),
        ("component.wasm", "is refused: it is a component", 126),
        ("nothing.wasm", "is no program, for it has no `_start`", 125),
    ];
    for (name, part, code) in rows {
        check(&["run", &path(name)], code, part);
        check(&["map", &path(name)], 3, part);
    }
    // A file without an end is not read to it.
    let part = "module `zero` is refused: it has more than 67108864 bytes (setting `module=`";
    check(&["run", "/dev/zero"], 126, part);
    check(&["map", "/dev/zero"], 3, part);
}

#[test]
fn what_the_module_does_not_have_is_told_with_what_it_has() {
    let part = "module `typed.wasm` has no task `nobody`: it has `age`, `echo`, `number`, `repeat`, `undescribed`";
    check(&["run", "@typed", "--task", "nobody"], 125, part);
    check(&["map", "@typed", "--task", "nobody"], 3, part);
    check(&["map", "@wasi_filter", "--task", "x"], 3, "has no task `x`: it has none");
    check(&["map", "@typed", "--task", "repeat"], 3, "does not take one argument: give it JSON (--json)");
    check(&["map", "@typed", "--task", "undescribed", "--json"], 3, "whose type it does not describe");
}

#[test]
fn a_wrong_command_line_is_told_so() {
    check(&["map", "@wasi_filter", "--json"], 2, "--task");
    check(&["map", "@wasi_filter", "--resume"], 2, "--journal");
    check(&["map", "@wasi_filter", "--jobs", "0"], 2, "is not a number from 1 to 1024");
    check(&["map", "@wasi_filter", "--timeout", "soon"], 2, "'soon'");
    check(&["map", "@wasi_filter", "--memory", "lots"], 2, "'lots'");
    check(&["map", "@wasi_filter", "--env", "A"], 2, "NAME=VALUE");
    check(&["map", "@wasi_filter", "--fail-fast", "--keep-going"], 2, "cannot be used with");
    check(&["map"], 2, "MODULE");
}

#[test]
fn what_cannot_be_written_is_told_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file").to_str().unwrap().to_owned();
    fs::write(&file, "x").unwrap();
    check(&["map", "@wasi_filter", "--output-dir", &format!("{file}/x")], 3, "cannot be written to");
    check(&["map", "@wasi_filter", "--journal", &format!("{file}/x")], 3, "cannot be opened");
    check(&["map", "@wasi_filter", "--journal", &file], 3, "exists already: go on with `--resume`");
    check(&["map", "@wasi_filter", "--journal", &file, "--resume"], 3, "is no journal");
    assert_eq!(fs::read_to_string(&file).unwrap(), "x", "it is left alone");
    check(&["map", "@wasi_filter", "--files", "no/such"], 3, "there is no file `no/such`");
    check(&["map", "@wasi_filter", "--files", "no/such/*"], 3, "no file matches `no/such/*`");
    let journal = ["map", "@wasi_filter", "--journal", &format!("{file}.j"), "--trace", &format!("{file}.j")];
    check(&journal, 3, "journal and trace cannot both be");
    let twice = ["map", "@wasi_filter", "--output-dir", &format!("{file}.d"), "--files", &file, &file];
    check(&twice, 3, "would be the same file");
}

#[test]
fn a_disk_that_is_full_ends_the_run_and_keeps_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal").to_str().unwrap().to_owned();
    let shell = format!(
        "{} map --no-summary --journal {journal} {} > /dev/full",
        sandgate_tests::worker().display(),
        guest("wasi_filter").display()
    );
    let cache = sandgate_tests::cache_dir().into_os_string();
    let variables = [(sandgate::CACHE_VARIABLE, &*cache)];
    let full = sandgate_tests::feed("/bin/sh", &["-c", &shell], &numbers(500), &variables, crate::LIMIT);
    assert_eq!(full.status.code(), Some(3));
    assert_eq!(
        String::from_utf8(full.stderr).unwrap(),
        "sandgate: standard output cannot be written to: No space left on device (os error 28)\n"
    );
    let came = sandgate(&["map", "--journal", &journal, "--resume", "@wasi_filter"], &numbers(500));
    assert_eq!((came.code, came.stdout.as_bytes()), (Some(0), &*numbers(500)));
    // A journal that cannot grow: nothing is printed that it does not have.
    let came = sandgate(&["map", "--journal", "/dev/full", "@wasi_filter"], &numbers(5));
    assert_eq!((came.code, &*came.stdout), (Some(3), ""), "{came:?}");
}

#[test]
fn a_file_that_may_not_grow_is_told_and_what_is_in_the_journal_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (journal, results) = (path("journal"), path("results"));
    let large = "b".repeat(5 << 20);
    let input = format!("a\n{large}\nc\n");
    let run = |options: &str| {
        // 4096 blocks are 2 or 4 MiB, as the shell counts them. More than that, and the system stops the write.
        let shell = format!(
            "ulimit -f 4096; exec {} map --no-summary --jobs 1 --max-output 64M {options} {}",
            sandgate_tests::worker().display(),
            guest("wasi_filter").display()
        );
        let cache = sandgate_tests::cache_dir().into_os_string();
        let variables = [(sandgate::CACHE_VARIABLE, &*cache)];
        let came = sandgate_tests::feed("/bin/sh", &["-c", &shell], input.as_bytes(), &variables, crate::LIMIT);
        (came.status.code(), String::from_utf8(came.stderr).unwrap())
    };
    let (code, stderr) = run(&format!("--journal {journal} > /dev/null"));
    assert_eq!(
        (code, stderr),
        (Some(3), format!("sandgate: journal `{journal}` cannot be written: File too large (os error 27)\n"))
    );
    let again =
        sandgate(&["map", "--journal", &journal, "--resume", "--max-output", "64M", "@wasi_filter"], input.as_bytes());
    assert_eq!((again.code, again.stdout == input.to_uppercase()), (Some(0), true));
    // A small one may have overtaken the large one.
    let known = [1, 2].map(|known| format!("sandgate: journal `{journal}` has {known} results already\n"));
    assert!(known.contains(&again.stderr), "{}", again.stderr);
    let (code, stderr) = run(&format!("--output-dir {results}"));
    let place = format!("{results}/1.out");
    assert_eq!(
        (code, stderr),
        (Some(3), format!("sandgate: `{place}` cannot be written: File too large (os error 27)\n"))
    );
    let written: Vec<String> =
        fs::read_dir(&results).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(written.iter().all(|name| name == "0.out" || name == "2.out"), "a file is whole or not there: {written:?}");
}
