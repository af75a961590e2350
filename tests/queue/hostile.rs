//! What others put into streams and the object store: it is bounded, told, and harms nothing else.

use sandgate_tests::{comes_true, eventually};
use serde_json::{Value, json};

use crate::client::{Client, unbase64};
use crate::commands::LIMIT;
use crate::server::Server;

#[test]
fn what_is_no_task_is_a_dead_letter_and_work_goes_on() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let _ = server.submit(&["--job", "good", "@wasi_filter"], "a\n").well();
    let garbage: [(&str, &[u8]); 8] = [
        ("good", b""),
        ("good", b"garbage"),
        ("good", b"sgT1"),
        ("good", b"sgT1\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        // A list of a quarter of a million arguments, in so many bytes.
        ("good", b"sgT1\x05\x01\x00\x01\x90\xa1\x0f\x00\x00"),
        // Of a job that had this id before.
        ("good", b"sgT1\x05\x01\x00\x00\x01x"),
        ("no-such-job", b"sgT1\x05\x01\x00\x00\x01x"),
        ("$odd~name", b"sgT1\x05\x01\x00\x00\x01x"),
    ];
    for (job, payload) in garbage {
        let ack: Value = serde_json::from_slice(&client.ask(&format!("sandgate.task.{job}"), payload)).unwrap();
        assert_eq!(ack["stream"], "sandgate_tasks", "{ack}");
    }
    let _ = server.submit(&["--job", "later", "@wasi_filter"], "b\n").well();
    let _worker = server.work(&["--jobs", "1"]);
    assert_eq!(server.collect(&["good"]).well(), "A\n");
    assert_eq!(server.collect(&["later"]).well(), "B\n");
    eventually(LIMIT, "eight dead letters", || client.messages("sandgate_dead") == 8);
    eventually(LIMIT, "no task left", || client.messages("sandgate_tasks") == 0);
}

#[test]
fn what_is_no_result_is_left_out_and_the_first_of_two_counts() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let _ = server.submit(&["--job", "forged", "@wasi_filter"], "a\nb\n").well();
    let worker = server.work(&["--jobs", "1", "--stop-when-idle", "1s"]);
    let (status, said) = { worker }.wait(LIMIT);
    assert!(status.success(), "{said}");
    let found = client.call("STREAM.MSG.GET.sandgate_results", &json!({ "seq": 1 }));
    let first = unbase64(found["message"]["data"].as_str().unwrap());
    // The same again without its id, as beyond the server's window; and inputs that there are not.
    let mut beyond = first.clone();
    let at = 4 + beyond[4..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
    beyond[at] = 77;
    for payload in [&first[..], b"garbage", b"sgR1\x00", &beyond, &first] {
        let ack: Value = serde_json::from_slice(&client.ask("sandgate.result.forged", payload)).unwrap();
        assert_eq!(ack["duplicate"], Value::Null, "{ack}");
    }
    assert_eq!(client.messages("sandgate_results"), 7);
    assert_eq!(server.collect(&["forged"]).well(), "A\nB\n");
    let unordered = server.collect(&["--unordered", "forged"]).well();
    assert_eq!(unordered.len(), 4, "{unordered:?}");
}

#[test]
fn a_module_that_is_not_what_it_should_be_is_never_run() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let _ = server.submit(&["--job", "changed", "@wasi_filter"], "a\n").well();
    let stream = "OBJ_sandgate_modules";
    let last = client.call(&format!("STREAM.INFO.{stream}"), &json!({}))["state"]["last_seq"].as_u64().unwrap();
    let found = client.call(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": last }));
    let meta: Value = serde_json::from_slice(&unbase64(found["message"]["data"].as_str().unwrap())).unwrap();
    let chunks = format!("$O.sandgate_modules.C.{}", meta["nuid"].as_str().unwrap());
    let purged = client.call(&format!("STREAM.PURGE.{stream}"), &json!({ "filter": chunks }));
    assert_eq!(purged["success"], true, "{purged}");
    let other = vec![b'x'; 1000];
    let _ = client.ask(&chunks, &other);
    let mut worker = server.work(&["--jobs", "1"]);
    let came = server.collect(&["changed"]);
    assert_eq!((came.code, came.stdout.as_str()), (Some(1), ""), "{came:?}");
    assert!(came.stderr.contains("object store has something else in the place of module"), "{came:?}");
    assert_eq!(client.messages("sandgate_dead"), 1);
    // Who has the module puts it right, and the worker that has seen the other one goes on with it.
    let _ = server.submit(&["--job", "mended", "@wasi_filter"], "b\n").well();
    assert_eq!(server.collect(&["mended"]).well(), "B\n");
    worker.kill();
}

#[test]
fn a_record_that_is_none_is_told() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    let _ = server.submit(&["--job", "fine", "@wasi_filter"], "a\n").well();
    for record in [&b"garbage"[..], b"{\"version\":9}", b"{}"] {
        let _ = client.ask("sandgate.job.fine", record);
        let came = server.collect(&["fine"]);
        assert_eq!((came.code, came.stdout.as_str()), (Some(3), ""));
        assert!(came.stderr.contains("record of job `fine` cannot be read"), "{came:?}");
    }
    let worker = server.work(&["--jobs", "1"]);
    assert!(comes_true(LIMIT, || client.messages("sandgate_dead") == 1), "its tasks are dead letters");
    drop(worker);
}
