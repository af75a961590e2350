//! Networks that are slow, and networks that go away: a relay that holds back every byte for a while, and a network namespace
//! whose cable is pulled.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use sandgate::{LinkProblem, LossCause, Outcome, WaitError};
use sandgate_tests::{LIMIT, State, output, repository, run, within};

use crate::agents::task_processors;
use crate::places::{HEARTBEAT, agent_of, all_go, assert_echoes, exec, family, group};
use crate::server::{Server, skip};

const DELAY: Duration = Duration::from_millis(20);

/// Passes on what it gets to another address, in both directions, each byte after a delay.
fn relay(to: (String, u16)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread("relay", move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect((to.0.as_str(), to.1)) else { continue };
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            pass_on(client.try_clone().unwrap(), server.try_clone().unwrap());
            pass_on(server, client);
        }
    });
    port
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let (sender, receiver): (Sender<(Instant, Vec<u8>)>, Receiver<_>) = channel();
    thread("relay in", move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer)
            && sender.send((Instant::now() + DELAY, buffer[..count].to_vec())).is_ok()
        {}
    });
    thread("relay out", move || {
        // Nothing is ever sent on it: a wait on it is a wait for time.
        let (_keep, never) = channel::<()>();
        for (due, bytes) in receiver {
            let left = due.saturating_duration_since(Instant::now());
            assert_eq!(never.recv_timeout(left), Err(RecvTimeoutError::Timeout));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap();
}

#[test]
fn a_slow_network_changes_nothing_but_the_time() {
    let Some(server) = Server::start("") else { return };
    let port = relay(server.address());
    let spec = server.spec_to(&format!("127.0.0.1:{port}"), "any_host").with_heartbeat(HEARTBEAT);
    task_processors(vec![exec(), spec.clone(), spec.clone()]);
    within(LIMIT * 2, "large messages", move || {
        let group = group([spec]);
        let channel = run(&group[0], "echo");
        let bytes = vec![7; 8 << 20];
        channel.send_bytes(bytes.clone()).unwrap();
        assert!(channel.receive_bytes_timeout(LIMIT).unwrap() == bytes);
    });
}

/// A network with one address, at the other end of a cable.
struct Namespace {
    name: String,
    cable: String,
    subnet: u8,
}

impl Namespace {
    /// `None`, and a word about it, where this process may not make one.
    fn make() -> Option<Namespace> {
        let id = std::process::id();
        let subnet = u8::try_from(id % 250).unwrap();
        let namespace = Namespace { name: format!("sandgate-{id}"), cable: format!("sg{id}"), subnet };
        let Namespace { name, cable, .. } = &namespace;
        let (ours, theirs) = (format!("10.213.{subnet}.1/24"), format!("10.213.{subnet}.2/24"));
        let steps = [
            format!("netns add {name}"),
            format!("link add {cable} type veth peer name inner netns {name}"),
            format!("addr add {ours} dev {cable}"),
            format!("link set {cable} up"),
            format!("-n {name} addr add {theirs} dev inner"),
            format!("-n {name} link set inner up"),
        ];
        match steps.iter().all(|step| ip(step)) {
            true => Some(namespace),
            false => {
                skip("no network namespace can be made here; it needs root and iproute2");
                None
            }
        }
    }

    fn address(&self) -> String {
        format!("10.213.{}.2", self.subnet)
    }

    fn pull_the_cable(&self) {
        assert!(ip(&format!("link set {} down", self.cable)));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.cable));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> bool {
    if !std::path::Path::new("/usr/sbin/ip").exists() && !std::path::Path::new("/sbin/ip").exists() {
        return false;
    }
    let arguments: Vec<&str> = arguments.split(' ').collect();
    output("ip", &arguments, repository()).status.success()
}

#[test]
fn a_cable_that_is_pulled_is_noticed_at_both_ends() {
    let Some(namespace) = Namespace::make() else { return };
    let Some(server) = Server::start_in(&namespace.name, &namespace.address()) else { return };
    within(LIMIT * 2, "both ends to notice", move || {
        let group = group([exec(), server.spec().with_heartbeat(HEARTBEAT)]);
        let channel = State::Computes.enter(&group[1]);
        let family = family(&agent_of(&group[1]));
        let pulled = Instant::now();
        namespace.pull_the_cable();
        match channel.wait_close_timeout(LIMIT) {
            Err(WaitError::Ended(Outcome::WorkerLost { loss })) => match loss.cause {
                LossCause::Link { problem, .. } => assert_eq!(problem, LinkProblem::Silent { after: HEARTBEAT }),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        assert!(pulled.elapsed() < HEARTBEAT * 5, "{:?}", pulled.elapsed());
        all_go(&family);
        assert_echoes(&group[0]);
    });
}
