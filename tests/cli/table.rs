//! Command lines with what they print and exit with.

use std::fs;

use crate::{Came, sandgate};

struct Row {
    words: &'static [&'static str],
    input: &'static str,
    code: i32,
    stdout: &'static str,
    stderr: &'static str,
}

const TABLE: &[Row] = &[
    Row { words: &["run", "@wasi_filter"], input: "abc", code: 0, stdout: "ABC", stderr: "[] []" },
    Row {
        words: &["run", "@wasi_filter", "--env", "A=b=c", "--", "x", "--y"],
        input: "",
        code: 0,
        stdout: "",
        stderr: "[\"x\", \"--y\"] [\"A=b=c\"]",
    },
    Row {
        words: &["run", "@wasi_filter", "--", "exit", "7"],
        input: "a",
        code: 7,
        stdout: "A",
        stderr: "[\"exit\", \"7\"] []",
    },
    Row {
        words: &["run", "@wasi_filter", "--", "exit", "300"],
        input: "",
        code: 255,
        stdout: "",
        stderr: "[\"exit\", \"300\"] []",
    },
    Row {
        words: &["run", "@wasi_filter", "--", "abort"],
        input: "a",
        code: 134,
        stdout: "A",
        stderr: "[\"abort\"] []sandgate: `wasi_filter.wasm`: task trapped: unreachable code was executed in `abort`\n",
    },
    Row {
        words: &["run", "@spin", "--timeout", "200ms"],
        input: "",
        code: 124,
        stdout: "",
        stderr: "sandgate: `spin.wasm`: task reached its deadline of 200ms (setting `timeout=`)\n",
    },
    Row {
        words: &["run", "@spin", "--fuel", "1000"],
        input: "",
        code: 137,
        stdout: "",
        stderr: "sandgate: `spin.wasm`: task exceeded its limit of 1000 for fuel (setting `fuel=`)\n",
    },
    Row { words: &["run", "@pooled", "--task", "add", "--", "[1, 2]"], input: "", code: 0, stdout: "3\n", stderr: "" },
    Row { words: &["run", "@pooled", "--task", "add", "--", "3", "4"], input: "", code: 0, stdout: "7\n", stderr: "" },
    Row {
        words: &["run", "@pooled", "--task", "chatty", "--", "5000"],
        input: "",
        code: 0,
        stdout: "10000\n",
        stderr: "",
    },
    Row {
        words: &["run", "@typed", "--task", "number", "--", "\"x\""],
        input: "",
        code: 1,
        stdout: "",
        stderr: "sandgate: `typed.wasm`: task failed: invalid digit found in string\n",
    },
    Row {
        words: &["run", "@warm", "--init", "ends={\"Keep\": 5}", "--task", "kept"],
        input: "",
        code: 0,
        stdout: "5\n",
        stderr: "",
    },
    Row {
        words: &["run", "@warm", "--init", "load=[\"one two\", 3]", "--task", "has", "--", "\"two\""],
        input: "",
        code: 125,
        stdout: "",
        stderr: "[load #0 stdout] 2 words are loaded\nsandgate: init function `load` of module `warm.wasm` did not return: \
                 task failed: 2 words are too few\n",
    },
    Row {
        words: &["run", "@warm", "--init", "lod", "--task", "has", "--", "\"two\""],
        input: "",
        code: 126,
        stdout: "",
        stderr: "sandgate: module `warm.wasm` is refused: no init function `lod`; the module has `by_chance`, `ends`, `load`\n",
    },
    Row {
        words: &["run", "@warm", "--init", "load=1", "--task", "has", "--", "\"two\""],
        input: "",
        code: 125,
        stdout: "",
        stderr: "sandgate: expected an array or an object of 2 arguments, found 1\n",
    },
    Row {
        words: &["map", "@warm", "--init", "by_chance", "--task", "runs", "--json"],
        input: "[]\n[]\n",
        code: 0,
        stdout: "1\n1\n",
        stderr: "",
    },
    Row { words: &["map", "@wasi_filter"], input: "a\nb\r\n\nc", code: 0, stdout: "A\nB\nC\n", stderr: "" },
    Row { words: &["map", "@wasi_filter"], input: "", code: 0, stdout: "", stderr: "" },
    Row { words: &["map", "--nul", "@wasi_filter"], input: "a\nb\0c\0", code: 0, stdout: "A\nB\nC\n", stderr: "" },
    Row {
        words: &["map", "--arg", "exit", "--arg", "3", "@wasi_filter"],
        input: "a\n",
        code: 1,
        stdout: "",
        stderr: "sandgate: input 0: task exited with code 3\n    [\"exit\", \"3\"] []\nsandgate: 1 of 1 inputs failed\n",
    },
    Row {
        words: &["map", "--max-output", "3", "@wasi_filter"],
        input: "abcd\n",
        code: 1,
        stdout: "",
        stderr: "sandgate: input 0: program printed more than its limit (setting `output=`, here `--max-output`)\n    [] \n\
                 sandgate: 1 of 1 inputs failed\n",
    },
    Row {
        words: &["map", "--max-input", "3", "@wasi_filter", "--jobs", "1"],
        input: "abc\nabcd\nx\n",
        code: 1,
        stdout: "ABC\nX\n",
        stderr: "sandgate: input 1: it is larger than 3 bytes (setting `--max-input`)\nsandgate: 1 of 3 inputs failed\n",
    },
    Row { words: &["map", "--task", "number", "@typed"], input: "1\n-2\n", code: 0, stdout: "1\n-2\n", stderr: "" },
    Row {
        words: &["map", "--task", "number", "@typed"],
        input: "1\nx\n3",
        code: 1,
        stdout: "1\n3\n",
        stderr: "sandgate: input 1: task failed: invalid digit found in string\nsandgate: 1 of 3 inputs failed\n",
    },
    Row { words: &["map", "--task", "size", "@pooled"], input: "abc\n\n", code: 0, stdout: "3\n0\n", stderr: "" },
    Row {
        words: &["map", "--task", "nothing", "--json", "@pooled"],
        input: "1\n",
        code: 0,
        stdout: "null\n",
        stderr: "",
    },
    Row {
        words: &["map", "--task", "age", "--json", "@typed"],
        input: "{\"Pair\": [1, 70]}\n\"None\"\n{\"Pear\": 1}\n{\n",
        code: 1,
        stdout: "70\nnull\n",
        stderr: "sandgate: input 2: argument 1 (`animal`): expected Animal, one of \"None\", \"Named\", \"Pair\", \"Group\", found \"Pear\"\n\
                 sandgate: input 3: it is not JSON: EOF while parsing an object at line 1 column 1\n\
                 sandgate: 2 of 4 inputs failed\n",
    },
    Row {
        words: &["map", "--task", "repeat", "--json", "@typed"],
        input: "[\"ab\", 3]\n{\"count\": 2, \"name\": \"abc\"}\n",
        code: 0,
        stdout: "6\n6\n",
        stderr: "",
    },
    Row {
        words: &["map", "--task", "double", "@pooled"],
        input: "1\n",
        code: 3,
        stdout: "",
        stderr: "sandgate: task `double` takes u64, neither a string nor bytes: give it JSON (--json)\n",
    },
    Row {
        words: &["map", "--task", "double", "--json", "--jobs", "1", "--fail-fast", "@pooled"],
        input: "1\nx\n2\n",
        code: 1,
        stdout: "2\n4\n",
        stderr: "",
    },
];

#[test]
fn a_command_line_prints_and_exits_as_it_says() {
    for Row { words, input, code, stdout, stderr } in TABLE {
        let came = sandgate(words, input.as_bytes());
        if words.contains(&"--fail-fast") {
            // How far it comes before it stops is not said, and what runs then is cancelled.
            assert_eq!(came.code, Some(*code), "{words:?}: {came:?}");
            assert!(stdout.starts_with(&*came.stdout), "{words:?}: {came:?}");
            continue;
        }
        let expected = Came { code: Some(*code), stdout: (*stdout).to_owned(), stderr: (*stderr).to_owned() };
        assert_eq!(came, expected, "{words:?}");
    }
}

#[test]
fn a_result_is_an_object_of_json_if_it_is_asked_for() {
    let came = sandgate(&["map", "--task", "number", "--output", "json", "@typed"], b"17\nx\n\xff\n");
    assert_eq!(came.code, Some(1));
    let rows: Vec<serde_json::Value> =
        came.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let part = |key: &str| rows.iter().map(|row| row[key].to_string()).collect::<Vec<_>>();
    assert_eq!(part("index"), ["0", "1", "2"]);
    assert_eq!(part("outcome"), ["\"returned\"", "\"failed\"", "\"bad input\""]);
    assert_eq!(part("result"), ["17", "null", "null"]);
    assert_eq!(part("attempts"), ["1", "1", "0"]);
    assert_eq!(part("error")[1], "\"task failed: invalid digit found in string\"");
    assert!(rows[0]["milliseconds"].as_f64().unwrap() > 0.0 && rows[0]["gateway"].is_string());
    let came = sandgate(&["map", "--output", "json", "@wasi_filter"], b"a\n\xff\n");
    assert_eq!(came.code, Some(0));
    let rows: Vec<serde_json::Value> =
        came.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((rows[0]["result"].as_str(), rows[0]["stderr"].as_str()), (Some("A"), Some("[] []")));
    assert_eq!(rows[1]["result_base64"].as_str(), Some("/w=="));
}

#[test]
fn files_have_files_as_results() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(path("in/sub")).unwrap();
    for name in ["in/b.txt", "in/a.txt", "in/sub/c.txt", "in/d.md"] {
        fs::write(path(name), name).unwrap();
    }
    let out = path("out");
    let came =
        sandgate(&["map", "@wasi_filter", "--files", &path("in/*.txt"), &path("in/sub"), "--output-dir", &out], b"");
    assert_eq!((came.code, &*came.stdout, &*came.stderr), (Some(0), "", ""));
    for name in ["in/b.txt", "in/a.txt", "in/sub/c.txt"] {
        let result = format!("{out}/{}.out", path(name).trim_start_matches('/'));
        assert_eq!(fs::read_to_string(&result).unwrap(), name.to_uppercase(), "{result}");
    }
    let came = sandgate(&["map", "@wasi_filter", "--files", &path("in")], b"");
    assert_eq!(came.stdout, "IN/A.TXT\nIN/B.TXT\nIN/D.MD\nIN/SUB/C.TXT\n", "{came:?}");
    let came = sandgate(&["map", "@wasi_filter", "--output-dir", &path("lines")], b"x\ny\n");
    assert_eq!(came.code, Some(0));
    assert_eq!(fs::read_to_string(path("lines/1.out")).unwrap(), "Y");
    assert_eq!(fs::read_dir(path("lines")).unwrap().count(), 2, "and nothing else");
}

#[test]
fn a_program_can_be_told_the_name_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a {} b").to_str().unwrap().to_owned();
    fs::write(&path, "x").unwrap();
    let words =
        ["map", "-I", "{}", "--arg", "--name={}:{}", "--arg", "exit", "--output", "json", "@wasi_filter", "--files"];
    let came = sandgate(&[&words[..], &[&path]].concat(), b"");
    let row: serde_json::Value = serde_json::from_str(&came.stdout).expect("one line of JSON");
    let told = format!("[\"--name={path}:{path}\", \"exit\"] []");
    assert_eq!((row["result"].as_str(), row["stderr"].as_str()), (Some("X"), Some(&*told)), "{came:?}");
    let came = sandgate(&["map", "--arg", "{}", "@wasi_filter", "--output", "json", "--files", &path], b"");
    assert!(came.stdout.contains("[\\\"{}\\\"] []"), "nothing is replaced that nobody asked for: {came:?}");
    assert_eq!(sandgate(&["map", "-I", "{}", "--arg", "{}", "@wasi_filter"], b"x").code, Some(2), "lines have no name");
    let nothing = ["map", "-I", "", "--arg", "x", "@wasi_filter", "--files", &path];
    assert_eq!(sandgate(&nothing, b"").code, Some(2), "nothing is at every place");
}

#[test]
fn a_program_has_the_directories_that_it_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let came = sandgate(&["run", "@wasi_filter", "--dir", "/data=/no/such/place"], b"");
    assert_eq!(came.code, Some(125));
    assert_eq!(
        came.stderr,
        "sandgate: directory `/no/such/place` cannot be given: No such file or directory (os error 2)\n"
    );
    assert_eq!(sandgate(&["run", "@wasi_filter", "--dir", &format!("/data={path}")], b"x").stdout, "X");
    assert_eq!(sandgate(&["run", "@wasi_filter", "--dir-rw", path], b"x").stdout, "X");
}

#[test]
fn results_come_as_they_are_there_if_their_order_does_not_matter() {
    let words = ["map", "--json", "--task", "slowly", "--jobs", "2", "--unordered", "@pooled"];
    let came = sandgate(&words, b"[1, 3000]\n[2, 0]\n");
    assert_eq!((came.code, &*came.stdout), (Some(0), "4\n2\n"));
    let came =
        sandgate(&["map", "--json", "--task", "slowly", "--jobs", "2", "@pooled"], b"[1, 500]\n[2, 0]\n[3, 0]\n");
    assert_eq!((came.code, &*came.stdout), (Some(0), "2\n4\n6\n"));
}

#[test]
fn real_files_are_audited_as_natively() {
    let sources = sandgate_tests::repository().join("host");
    let came = sandgate(&["map", "--task", "audit", "@audit", "--files", sources.to_str().unwrap()], b"");
    assert_eq!((came.code, &*came.stderr), (Some(0), ""));
    let mut files = Vec::new();
    collect(&sources, &mut files);
    files.sort();
    let results: Vec<audit_core::Report> =
        came.stdout.lines().map(|line| serde_json::from_str(line).expect("a report")).collect();
    assert_eq!(results.len(), files.len());
    for (file, result) in files.iter().zip(results) {
        assert_eq!(result, audit_core::audit_bytes(&fs::read(file).unwrap()), "{}", file.display());
    }
}

/// All files beneath a directory, in any order.
fn collect(directory: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[test]
fn what_happened_is_told_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (report, trace, metrics) = (path("report.html"), path("trace.json"), path("metrics.txt"));
    let words = ["map", "--task", "number", "@typed", "--report", &report, "--trace", &trace, "--metrics", &metrics];
    let came = sandgate(&words, b"1\nx\n3\n");
    assert_eq!((came.code, &*came.stdout), (Some(1), "1\n3\n"), "{came:?}");
    assert!(came.stderr.contains("invalid digit found in string"), "{came:?}");
    assert!(came.stderr.ends_with("sandgate: 1 of 3 inputs failed\n"), "{came:?}");
    assert!(fs::read_to_string(&report).unwrap().contains("<html"));
    assert!(fs::read_to_string(&trace).unwrap().starts_with('['));
    assert!(fs::read_to_string(&metrics).unwrap().contains("sandgate_tasks_total{outcome=\"returned\"} 2"));
    let came = sandgate(&["map", "--task", "number", "@typed", "--report", "/dev/null/x"], b"1\n");
    assert_eq!((came.code, &*came.stdout), (Some(3), ""), "{came:?}");
}
