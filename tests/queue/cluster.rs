//! A cluster of three servers that keep everything three times, of which one after the other fails and comes back. What is waited
//! for is what the servers say of themselves, at the port where they are looked after.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use sandgate_tests::{eventually, lines};
use serde_json::Value;

use crate::commands::{LIMIT, begin, run};
use crate::server::Server;

const TASKS: u64 = 400;

struct Cluster {
    servers: Vec<Server>,
    /// Where each of them is looked after.
    ports: Vec<u16>,
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Cluster {
    fn start() -> Option<Cluster> {
        let (routes, ports) = (free_ports(3), free_ports(3));
        let all: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let config = |at: usize| {
            format!(
                "server_name: n{at}\nhttp: 127.0.0.1:{}\ncluster {{ name: C, listen: 127.0.0.1:{}, no_advertise: true, routes: [{}] }}",
                ports[at],
                routes[at],
                all.join(", ")
            )
        };
        let servers: Option<Vec<Server>> = (0..3).map(|at| Server::start(&config(at))).collect();
        let cluster = Cluster { servers: servers?, ports };
        cluster.settled();
        Some(cluster)
    }

    fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// What a server says of itself, if it answers.
    fn look(&self, at: usize, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[at])).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits until all of them are there, and have all that the others have.
    fn settled(&self) {
        eventually(LIMIT, "a cluster that has a leader and is up to date", || {
            (0..3).all(|at| self.look(at, "/healthz").is_some_and(|health| health["status"] == "ok"))
                && self.look(0, "/jsz").is_some_and(|state| state["meta_cluster"]["leader"].is_string())
                && self.replicas_are_current()
        });
    }

    /// Whether each stream's leader says that the others have what it has.
    fn replicas_are_current(&self) -> bool {
        let Some(state) = self.look(0, "/jsz?accounts=true&streams=true") else { return false };
        let streams = state["account_details"][0]["stream_detail"].as_array().cloned().unwrap_or_default();
        let names: Vec<String> =
            streams.iter().filter_map(|stream| stream["name"].as_str().map(str::to_owned)).collect();
        names.iter().all(|name| {
            (0..3).any(|at| {
                let Some(stream) = self.stream(at, name) else { return false };
                let replicas = stream["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
                let is_current = |replica: &Value| replica["current"] == true && replica["offline"] != true;
                replicas.len() == 2 && replicas.iter().all(is_current)
            })
        })
    }

    fn stream(&self, at: usize, name: &str) -> Option<Value> {
        let state = self.look(at, "/jsz?accounts=true&streams=true")?;
        let streams = state["account_details"][0]["stream_detail"].as_array()?;
        streams.iter().find(|stream| stream["name"] == name).cloned()
    }

    /// The server that leads a stream, as one of the others says.
    fn leader(&self, stream: &str) -> Option<usize> {
        (0..3).find_map(|at| {
            let name = self.stream(at, stream)?["cluster"]["leader"].as_str()?.to_owned();
            name.strip_prefix('n')?.parse().ok()
        })
    }
}

#[test]
fn servers_of_a_cluster_may_fail_one_after_the_other() {
    let Some(mut cluster) = Cluster::start() else { return };
    let url = cluster.url();
    let three = ["--nats", &url, "--replicas", "3"];
    let input = lines(TASKS, |number| format!("[{number}, 20]"));
    let expected = lines(TASKS, |number| (number * 2).to_string());
    let words = [&["submit", "--job", "cluster", "--json", "--task", "slowly", "@pooled"], &three[..]].concat();
    let _ = run(&words, input.as_bytes(), &[], LIMIT).well();
    let mut worker = begin(&[&["work", "--jobs", "2", "--ack-wait", "3s"], &three[..]].concat());
    let mut collect = begin(&["collect", "--nats", &url, "cluster"]);
    let mut more: Option<sandgate_tests::Running> = None;
    let leader = cluster.leader("sandgate_tasks").expect("a stream has a leader");
    let mut victims = vec![leader, (leader + 1) % 3, (leader + 2) % 3].into_iter();
    for (at, expected) in expected.lines().enumerate() {
        if [20, 120, 220].contains(&at) {
            let victim = victims.next().unwrap();
            cluster.settled();
            // The leader fails; the others are restarted as whoever looks after them would.
            if victim == leader {
                cluster.servers[victim].kill()
            } else {
                cluster.servers[victim].stop()
            }
            if more.is_none() {
                // While there are two, the others go on, also with one that submits.
                let mut submit = begin(&[&["submit", "--job", "beside", "@wasi_filter"], &three[..]].concat());
                submit.send(lines(300, |number| number.to_string()).into_bytes());
                more = Some(submit);
            }
            assert_eq!(collect.line(LIMIT), expected, "result {at}");
            assert!(cluster.servers[victim].start_again(), "it starts again");
            continue;
        }
        assert_eq!(collect.line(LIMIT), expected, "result {at}");
    }
    let (status, said) = collect.wait(LIMIT);
    assert!(status.success(), "{said}");
    let (status, said) = more.unwrap().wait(LIMIT);
    assert!(status.success(), "{said}");
    let beside = run(&["collect", "--nats", &url, "beside"], b"", &[], LIMIT).well();
    assert_eq!(beside, lines(300, |number| number.to_string()));
    worker.kill();
}
