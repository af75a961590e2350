//! What goes in comes out: every kind of input, once, in order, however often a command is run or ended.

use std::ffi::OsStr;

use sandgate_tests::eventually;
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::{LIMIT, begin, lines, run};
use crate::server::Server;

#[test]
fn what_goes_in_comes_out_in_order() {
    let Some(server) = Server::start("") else { return };
    let input = lines(500, |number| format!("line {number}"));
    assert_eq!(server.submit(&["--job", "upper", "@wasi_filter"], &input).well(), "upper\n");
    let _worker = server.work(&["--jobs", "2"]);
    assert_eq!(server.collect(&["upper"]).well(), input.to_uppercase());
    let mut unordered: Vec<String> =
        server.collect(&["--unordered", "upper"]).well().lines().map(str::to_owned).collect();
    unordered.sort_by_key(|line| line[5..].parse::<u64>().unwrap());
    assert_eq!(unordered.join("\n") + "\n", input.to_uppercase());

    // A typed task, with inputs that it does not take, and results that say who had them.
    let input = "[1, 2]\nnonsense\n[3, 4]\n";
    let _ = server.submit(&["--job", "sums", "--json", "--task", "add", "@pooled"], input).well();
    let came = server.collect(&["--output", "json", "sums"]);
    let rows: Vec<Value> = came.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = rows.iter().map(|row| (&row["index"], &row["outcome"], &row["result"])).collect();
    let expected = [
        (&json!(0), &json!("returned"), &json!(3)),
        (&json!(1), &json!("bad input"), &Value::Null),
        (&json!(2), &json!("returned"), &json!(7)),
    ];
    assert_eq!(said, expected, "{came:?}");
    assert_eq!(came.code, Some(1));
    assert!(rows[0]["gateway"].as_str().unwrap().contains("/gw"), "{rows:?}");

    // Files, each with its name as an argument; results as `map` has them.
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(directory.path().join(name), format!("in {name}")).unwrap();
    }
    let files = directory.path().to_str().unwrap();
    let words = ["--job", "files", "-I", "{}", "@wasi_filter", "--arg", "{}", "--files", files];
    let _ = server.submit(&words, "").well();
    let came = server.collect(&["--output", "json", "files"]).well();
    let rows: Vec<Value> = came.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[1]["result"]), (2, &json!("IN B")));
    assert_eq!(rows[1]["input"], json!(format!("{files}/b")));
    assert!(rows[1]["stderr"].as_str().unwrap().contains(&format!("{files}/b")), "{rows:?}");
    let _ = server.submit(&words, "").well();
    std::fs::write(directory.path().join("b"), "in c").unwrap();
    let other = server.submit(&words, "");
    assert_eq!(other.code, Some(3), "{other:?}");
    assert!(other.stderr.contains("the first 2 are not the same"), "{other:?}");
}

#[test]
fn a_job_is_submitted_once_and_forgotten_once() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let input = lines(50, |number| number.to_string());
    let first = server.submit(&["--job", "once", "@wasi_filter"], &input);
    assert!(first.stderr.contains("has 50 inputs"), "{first:?}");
    let second = server.submit(&["--job", "once", "@wasi_filter"], &input);
    assert!(second.stderr.contains("is there already, with the same 50 inputs"), "{second:?}");
    assert_eq!(second.well(), "once\n");
    for (inputs, expected) in [
        (input.replace("50", "51"), "the first 50 are not the same"),
        (lines(49, |number| number.to_string()), "it has 50, and these are fewer"),
        (lines(51, |number| number.to_string()), "it has 50, and these are more"),
        (String::new(), "it has 50, and these are fewer"),
    ] {
        let other = server.submit(&["--job", "once", "@wasi_filter"], &inputs);
        assert_eq!((other.code, other.stdout.as_str()), (Some(3), ""), "{other:?}");
        let expected =
            format!("job `once` is complete, and was not changed: job `once` was begun with other inputs: {expected}");
        assert!(other.stderr.contains(&expected), "{other:?}");
    }
    assert_eq!(client.messages("sandgate_tasks"), 50);
    let other = server.submit(&["--job", "once", "@echo_last"], &input);
    assert_eq!(other.code, Some(3));
    assert!(other.stderr.contains("there is another job `once`, with a different module"), "{other:?}");
    let other = server.submit(&["--job", "once", "@wasi_filter", "--arg", "x"], &input);
    assert!(other.stderr.contains("with a different setting"), "{other:?}");

    let worker = server.work(&["--stop-when-idle", "1s"]);
    assert_eq!(server.collect(&["once", "--skip", "48"]).well(), "49\n50\n");
    assert_eq!(server.collect(&["once", "--forget"]).well(), input);
    let gone = server.collect(&["once"]);
    assert_eq!((gone.code, gone.stdout.as_str()), (Some(3), ""));
    assert!(gone.stderr.contains("there is no job `once`"), "{gone:?}");
    assert_eq!(client.messages("sandgate_results"), 0);
    let (status, said) = { worker }.wait(LIMIT);
    assert!(status.success() && said.contains("50 tasks done"), "{said}");
    // The same id again, within the time in which the server knows the ids of what is gone.
    let _ = server.submit(&["--job", "once", "@wasi_filter"], "again\n").well();
    let _worker = server.work(&[]);
    assert_eq!(server.collect(&["once"]).well(), "AGAIN\n");
}

#[test]
fn a_submission_that_was_cut_goes_on_with_the_same_inputs_alone() {
    let Some(server) = Server::start("") else { return };
    let url = server.url();
    let words = ["submit", "--nats", &url, "--job", "cut", "@wasi_filter"];
    let mut first = begin(&words);
    first.write(lines(100, |number| number.to_string()).as_bytes());
    let mut client = None;
    eventually(LIMIT, "a record of 100 inputs", || {
        let client = client.get_or_insert_with(|| Client::to(&server));
        client.job("cut")["stored"] == json!(100)
    });
    first.kill();
    drop(first);
    let all = lines(200, |number| number.to_string());
    let other = run(&words, all.replace("7\n", "8\n").as_bytes(), &[], LIMIT);
    assert_eq!(other.code, Some(3));
    assert!(other.stderr.contains("begun with other inputs: the first 100 are not the same"), "{other:?}");
    let short = run(&words, b"1\n2\n", &[], LIMIT);
    assert_eq!(short.code, Some(3), "{short:?}");
    let _ = run(&words, all.as_bytes(), &[], LIMIT).well();
    assert_eq!(client.unwrap().messages("sandgate_tasks"), 200);
    let _worker = server.work(&[]);
    assert_eq!(server.collect(&["cut"]).well(), all);
}

/// Also if the first one had no time to say how far it came.
#[test]
fn inputs_of_two_submissions_are_not_mixed() {
    let Some(server) = Server::start("") else { return };
    let url = server.url();
    let words = ["submit", "--nats", &url, "--job", "mixed", "@wasi_filter"];
    let mut first = begin(&words);
    let ours = lines(50, |number| number.to_string());
    first.write(ours.as_bytes());
    let mut client = None;
    eventually(LIMIT, "50 tasks", || {
        client.get_or_insert_with(|| Client::to(&server)).messages("sandgate_tasks") == 50
    });
    let theirs = lines(200, |number| format!("other {number}"));
    let beside = run(&words, theirs.as_bytes(), &[], LIMIT);
    assert_eq!(beside.code, Some(3), "{beside:?}");
    first.kill();
    drop(first);
    let after = run(&words, theirs.as_bytes(), &[], LIMIT);
    assert_eq!(after.code, Some(3), "{after:?}");
    assert!(after.stderr.contains("begun with other inputs"), "{after:?}");
    let _ = run(&words, ours.as_bytes(), &[], LIMIT).well();
    let _worker = server.work(&[]);
    assert_eq!(server.collect(&["mixed"]).well(), ours);
}

#[test]
fn collecting_can_be_killed_and_done_again() {
    let Some(server) = Server::start("") else { return };
    let input = lines(300, |number| number.to_string());
    let _ = server.submit(&["--job", "again", "@wasi_filter"], &input).well();
    let url = server.url();
    let mut first = begin(&["collect", "--nats", &url, "again"]);
    let _worker = server.work(&["--jobs", "1"]);
    for number in 1..=20_u64 {
        assert_eq!(first.line(LIMIT), number.to_string());
    }
    first.kill();
    drop(first);
    assert_eq!(server.collect(&["again"]).well(), input);
    assert_eq!(server.collect(&["again"]).well(), input);
}

#[test]
fn a_queue_that_is_full_is_waited_for() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let config = json!({
        "name": "sandgate_tasks", "subjects": ["sandgate.task.*"], "retention": "workqueue", "storage": "file",
        "discard": "new", "max_msgs": 40, "num_replicas": 1,
    });
    assert_eq!(client.call("STREAM.CREATE.sandgate_tasks", &config)["error"], Value::Null);
    let input = lines(300, |number| number.to_string());
    let url = server.url();
    let mut submit = begin(&["submit", "--nats", &url, "--job", "full", "@wasi_filter"]);
    submit.send(input.clone().into_bytes());
    eventually(LIMIT, "a full queue", || client.messages("sandgate_tasks") == 40);
    let _worker = server.work(&[]);
    let (status, said) = submit.wait(LIMIT);
    assert!(status.success() && said.contains("queue is full; waiting for room"), "{said}");
    assert_eq!(server.collect(&["full"]).well(), input);
}

#[test]
fn inputs_and_results_that_no_message_can_hold_fail_alone() {
    let Some(server) = Server::start("max_payload: 65536") else { return };
    let input = format!("a\n{}\nb\n", "x".repeat(60_000));
    let came = server.submit(&["--job", "large", "@wasi_filter"], &input);
    assert_eq!(came.code, Some(0), "{came:?}");
    let problem = "input 1: it has 60000 bytes, and the NATS server takes 49152: its setting `max_payload`, less 16 KiB; raise that, \
                   or make the input smaller";
    assert!(came.stderr.contains(&format!("{problem}; its result will say so")), "{came:?}");
    let _worker = server.work(&[]);
    let came = server.collect(&["large"]);
    assert_eq!((came.code, came.stdout.as_str()), (Some(1), "A\nB\n"), "{came:?}");
    assert!(came.stderr.contains(problem), "{came:?}");
    let _ = server.submit(&["--job", "swollen", "--json", "--task", "swell", "@pooled"], "60000\n3\n").well();
    let came = server.collect(&["swollen"]);
    assert_eq!((came.code, came.stdout.as_str()), (Some(1), "[7,7,7]\n"), "{came:?}");
    assert!(came.stderr.contains("larger than the NATS server takes"), "{came:?}");
}

#[test]
fn what_is_missing_is_told_and_help_is_there() {
    let check = |words: &[&str], more: &[(&str, &OsStr)], expected: &str| {
        let came = run(words, b"", more, LIMIT);
        assert_eq!((came.code, came.stdout.as_str()), (Some(2), ""), "{came:?}");
        assert!(came.stderr.contains(expected), "{words:?}: {came:?}");
    };
    check(&["collect", "x"], &[], "no NATS server is named: use `--nats URL` or $NATS_URL");
    let port = "nats://x:port";
    check(&["collect", "x"], &[("NATS_URL", OsStr::new(port))], "$NATS_URL: `nats://x:…` cannot be used");
    // There is nobody at this address: it is not tried.
    let nobody = [("NATS_URL", OsStr::new("nats://127.0.0.1:1"))];
    check(&["collect", "a.b"], &nobody, "1 to 64 letters, digits");
    let option = |command: &[&str], option: &str, value: &str, expected: &str| {
        check(&[command, &[option, value]].concat(), &nobody, &format!("'{value}' for '{option} <"));
        check(&[command, &[option, value]].concat(), &nobody, expected);
    };
    let (submit, work, collect) = (&["submit", "@wasi_filter"][..], &["work"][..], &["collect", "x"][..]);
    for count in ["--max-deliveries", "--in-flight", "--max-pending"] {
        option(work, count, "0", "is not a number from 1 to 10000000");
    }
    option(work, "--jobs", "0", "is not a number from 1 to 1024");
    option(work, "--ack-wait", "500ms", "is not a time from 1s to 365d");
    option(work, "--timeout", "0s", "has to be longer than nothing");
    option(work, "--grace", "off", "has to end");
    option(submit, "--timeout", "0s", "has to be longer than nothing");
    option(submit, "--retries", "101", "is not a number from 0 to 100");
    for command in [submit, work, collect] {
        option(command, "--patience", "0s", "has to be longer than nothing");
        option(command, "--patience", "soon", "is not a time, as in 30s or 5m");
        option(command, "--replicas", "2", "is neither 1, 3 nor 5");
        option(command, "--prefix", "a.b", "1 to 64 letters, digits");
    }
    for command in ["submit", "work", "collect"] {
        let help = run(&[command, "--help"], b"", &[], LIMIT).well();
        assert!(help.contains("Exit codes:") && help.contains("--nats <URL>"), "{help}");
    }
}
