//! No worker outlives its host, whatever it is doing and however the host ends.

use std::time::{Duration, Instant};

use sandgate_tests::{Host, LIMIT, LOOP_IN_START, Watched, start_host};

/// What is promised.
const BOUND: Duration = Duration::from_millis(100);
/// The system may have other things to do for longer than that. It does not every time.
const TRIES: usize = 3;

fn host(mode: &str, guests: &[&str]) -> Host {
    start_host(env!("CARGO_BIN_EXE_host-process"), mode, guests)
}

#[test]
fn with_signal_9_all_workers_are_gone_within_100_ms() {
    let directory = tempfile::tempdir().unwrap();
    let in_start = directory.path().join("in_start.wasm");
    std::fs::write(&in_start, wat::parse_str(LOOP_IN_START).unwrap()).unwrap();
    let in_start = in_start.to_str().unwrap();
    let guests = ["spin", "sleeper", "silent", "receives_forever", "flood", "tiny_flood", in_start];

    let mut slowest = Vec::new();
    for _ in 0..TRIES {
        let mut host = host("terminate", &guests);
        assert_eq!(host.workers.len(), guests.len());
        assert!(!host.workers.iter().any(Watched::is_gone));
        host.process.kill();
        let killed = Instant::now();
        for (guest, worker) in guests.iter().zip(&host.workers) {
            assert!(worker.is_gone_by(killed + LIMIT), "the worker of `{guest}` outlives its host");
        }
        slowest.push(killed.elapsed());
        if killed.elapsed() <= BOUND {
            return;
        }
    }
    panic!("the last worker was gone after {slowest:?}");
}

#[test]
fn that_exits_without_a_word() {
    let mut host = host("exit", &["sleeper", "spin"]);
    let (status, stderr) = host.process.wait(LIMIT);
    assert!(status.success(), "{status}: {stderr}");
    host.workers.iter().for_each(|worker| worker.wait(LIMIT));
}
