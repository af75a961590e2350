//! A server's consumer that gives out only what is gone, as after the end of a server that had no time to write what it knew; and
//! what becomes of tasks while it is made anew.

use std::fs;

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, eventually};
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::{LIMIT, begin, lines};
use crate::secrets::documented_roles;
use crate::server::Server;

/// Tasks that are gone: more than a server tries in the time after which it begins with the first again.
const GONE: u64 = 3000;
const CONSUMER: &str = "CONSUMER.INFO.sandgate_tasks.workers";

fn submit(server: &Server, job: &str, input: &str) {
    let _ = server.submit(&["--job", job, "--json", "--task", "slowly", "@pooled"], input).well();
}

/// A worker that may do what the documentation says, and no more.
fn work(server: &Server) -> Running {
    let url = format!("nats://work:secret-WORK@127.0.0.1:{}", server.port);
    begin(&["work", "--nats", &url, "--inbox", "work", "--jobs", "2"])
}

/// Makes the consumer, with the shortest ack wait.
fn prepare(server: &Server, client: &mut Client) {
    let mut worker = server.work(&["--jobs", "1", "--ack-wait", "1s"]);
    eventually(LIMIT, "the consumer", || client.call(CONSUMER, &json!({}))["error"].is_null());
    worker.kill();
}

#[test]
fn a_consumer_that_gives_out_only_what_is_gone_is_made_anew() {
    let config = format!("{}\nno_auth_user: admin", documented_roles());
    let Some(mut server) = Server::start(&config) else { return };
    let mut client = Client::to(&server);
    prepare(&server, &mut client);
    // The first stays, with whoever takes it: the server forgets what is gone before the first that is there.
    submit(&server, "stays", "[1, 100000]\n");
    submit(&server, "gone", &lines(GONE, |number| format!("[{number}, 1]")));
    client.take_tasks(GONE + 1);
    assert_eq!(client.pending(), GONE + 1, "all of them are with somebody");
    server.stop();
    let state = server.file("store/jetstream/$G/streams/sandgate_tasks/obs/workers/o.dat");
    let before = fs::read(&state).unwrap();
    assert!(server.start_again(), "it starts again");
    let mut client = Client::to(&server);
    let purged = client.call("STREAM.PURGE.sandgate_tasks", &json!({ "filter": "sandgate.task.gone" }));
    assert_eq!(purged["purged"], GONE, "{purged}");
    server.stop();
    fs::write(&state, before).unwrap();
    assert!(server.start_again(), "it starts again");
    let mut client = Client::to(&server);
    assert_eq!((client.pending(), client.messages("sandgate_tasks")), (GONE + 1, 1), "the consumer knows too much");

    let mut workers = [work(&server), work(&server)];
    let mut info = Value::Null;
    eventually(LIMIT, "attempts to give out what is gone", || {
        info = client.call(CONSUMER, &json!({}));
        info["num_redelivered"].as_u64().unwrap() > 1
    });
    submit(&server, "after", &lines(20, |number| format!("[{number}, 1]")));
    let came = server.collect(&["after"]);
    assert_eq!(came.well(), lines(20, |number| (number * 2).to_string()));
    let after = client.call(CONSUMER, &json!({}));
    assert_ne!(info["created"], after["created"], "it is another one");
    assert_eq!(info["config"], after["config"]);
    eventually(LIMIT, "the first alone", || client.pending() == 1 && client.messages("sandgate_tasks") == 1);
    let said = workers.each_mut().map(|worker| {
        Watched::new(worker.pid()).signal(Signal::KILL);
        worker.wait(LIMIT).1
    });
    assert!(said.iter().any(|said| said.contains("consumer was made anew")), "{said:?}");
}

#[test]
fn a_task_that_runs_while_the_consumer_is_made_anew_has_one_result() {
    let Some(server) = Server::start("") else { return };
    let mut client = Client::to(&server);
    prepare(&server, &mut client);
    submit(&server, "runs", "[21, 2000]\n");
    let _first = server.work(&["--jobs", "1"]);
    eventually(LIMIT, "a task with a worker", || client.pending() == 1);
    let config = client.call(CONSUMER, &json!({}))["config"].clone();
    let _second = server.work(&["--jobs", "1"]);
    client.call("CONSUMER.DELETE.sandgate_tasks.workers", &json!({}));
    let asked = json!({ "stream_name": "sandgate_tasks", "config": config });
    let made = client.call("CONSUMER.CREATE.sandgate_tasks.workers", &asked);
    assert!(made["error"].is_null(), "{made}");
    assert_eq!(server.collect(&["runs"]).well(), "42\n");
    eventually(LIMIT, "no task that is left", || client.messages("sandgate_tasks") == 0 && client.pending() == 0);
    assert_eq!((client.messages("sandgate_results"), client.messages("sandgate_dead")), (1, 0));
}
