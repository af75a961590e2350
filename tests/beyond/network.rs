//! Networks that are slow, and networks that go away: a relay that holds back every byte for a while, which needs nothing of the
//! kernel, and a network namespace whose cable is pulled. What else becomes of packets is in [`packets`](crate::packets).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use sandgate::LinkProblem;
use sandgate_tests::{LIMIT, Namespace, SshServer, State, run, within};

use crate::agents::task_processors;
use crate::places::{HEARTBEAT, agent_of, all_go, assert_echoes, exec, family, group, lost_link};

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
    let Some(server) = SshServer::start("") else { return };
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

#[test]
fn a_cable_that_is_pulled_is_noticed_at_both_ends() {
    let Some(namespace) = Namespace::make(3) else { return };
    let Some(server) = SshServer::start_in(namespace.name(), &namespace.address()) else { return };
    within(LIMIT * 2, "both ends to notice", move || {
        let group = group([exec(), server.spec().with_heartbeat(HEARTBEAT)]);
        let channel = State::Computes.enter(&group[1]);
        let family = family(&agent_of(&group[1]));
        let pulled = Instant::now();
        namespace.pull_the_cable();
        assert_eq!(lost_link(&channel).0, LinkProblem::Silent { after: HEARTBEAT });
        assert!(pulled.elapsed() < HEARTBEAT * 5, "{:?}", pulled.elapsed());
        all_go(&family);
        assert_echoes(&group[0]);
    });
}
