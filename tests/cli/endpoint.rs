//! Metrics over HTTP: they are there while a run goes on, and clients of any kind do not harm it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use rustix::process::Signal;
use sandgate_tests::{Running, Watched, eventually, guest, start, worker};

use crate::{LIMIT, numbers, sandgate};

/// A run of a task that sleeps, with an endpoint; what it tells goes into a file.
fn begin(stderr: &Path) -> Running {
    let command = format!(
        "exec {} map --no-summary --metrics-listen 0 --json --task slowly --jobs 2 --unordered {} 2> {}",
        worker().display(),
        guest("pooled").display(),
        stderr.display()
    );
    let cache = sandgate_tests::cache_dir().into_os_string();
    start("/bin/sh", &["-c", &command], &[(sandgate::CACHE_VARIABLE, &cache)])
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody who listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    stream
}

fn get(address: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").expect("a request that is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_run_can_be_watched_and_is_not_held_up_by_who_watches() {
    let dir = tempfile::tempdir().unwrap();
    let stderr = dir.path().join("stderr");
    let mut running = begin(&stderr);
    let mut told = String::new();
    eventually(LIMIT, "the address", || {
        told = fs::read_to_string(&stderr).unwrap_or_default();
        told.ends_with('\n')
    });
    let address =
        told.strip_prefix("sandgate: metrics are at http://").and_then(|rest| rest.strip_suffix("/metrics\n"));
    let address = address.unwrap_or_else(|| panic!("{told}")).to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    // Silent ones, and such that say nothing that makes sense.
    let mut crowd: Vec<TcpStream> = (0..200).map(|_| connect(&address)).collect();
    for (at, stream) in crowd.iter_mut().enumerate().filter(|(at, _)| at % 2 == 0) {
        // Those before may have been told to go.
        let _ = stream.write_all(if at % 4 == 0 { b"\xff\0\xff garbage" } else { b"GET /metr" });
    }
    for number in 1..=20_u64 {
        running.write(format!("[{number}, 0]\n").as_bytes());
        assert_eq!(running.line(LIMIT), (number * 2).to_string());
    }
    running.write(b"[1, 600000]\n");
    eventually(LIMIT, "the metrics of the twenty", || {
        let answer = get(&address);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        answer.contains("sandgate_inputs_total{result=\"done\"} 20\n")
            && answer.contains("sandgate_tasks_unfinished 1\n")
    });
    Watched::new(running.pid()).signal(Signal::INT);
    let (status, _) = running.wait(LIMIT);
    assert_eq!(status.code(), Some(130));
    drop(crowd);
    assert!(TcpStream::connect(&address).is_err(), "nobody listens any more");
}

#[test]
fn a_port_that_is_in_use_is_told_before_anything_runs() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (journal, report) = (path("journal"), path("report"));
    let words = ["map", "--metrics-listen", &port, "--journal", &journal, "--report", &report, "@wasi_filter"];
    let came = sandgate(&words, &numbers(3));
    let expected =
        format!("sandgate: metrics cannot be served at `127.0.0.1:{port}`: Address already in use (os error 98)\n");
    assert_eq!((came.code, &*came.stdout, came.stderr), (Some(3), "", expected));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was begun");
    let wrong = sandgate(&["map", "--metrics-listen", "here", "@wasi_filter"], b"");
    assert!(wrong.code == Some(2) && wrong.stderr.contains("is neither a port nor HOST:PORT"), "{wrong:?}");
}
