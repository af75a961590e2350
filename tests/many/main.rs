//! What a host needs for 256 gateways: a bounded number of threads, no processor while they are idle, one deadline for their
//! end.
//!
//! Such counts are of the whole process, so this binary has one test.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in test functions alone, and what they call is test code too"
)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use sandgate::{Channel, Ending};
use sandgate_tests::{Census, LIMIT, Watched, builder, eventually, module, popen, within};

const GATEWAYS: usize = 256;
/// Beside those that read and write: those that start workers, notice their ends, watch wall times, and some that run jobs.
const OTHER_THREADS: usize = 8;
/// How long nothing may happen.
const IDLE: Duration = Duration::from_millis(500);

/// Threads of this process that the tests do not have anyway.
fn threads(before: &Census) -> usize {
    let count = |census: &Census| census.threads.values().sum::<usize>();
    count(&Census::take()) - count(before)
}

/// How often threads of this process but the caller have begun to wait.
fn switches() -> u64 {
    let own = rustix::thread::gettid().as_raw_nonzero().get().to_string();
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>()
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap);
    tasks.filter(|task| task.file_name().to_string_lossy() != own).map(of).sum()
}

#[test]
fn a_host_needs_few_threads_for_many_gateways() {
    let before = Census::take();
    let io = (std::thread::available_parallelism().unwrap().get() / 2).clamp(1, 8);
    let group = Arc::new(builder().build());
    within(LIMIT * 4, "the start of all gateways", {
        let group = Arc::clone(&group);
        move || group.make_gateways(vec![popen(); GATEWAYS]).unwrap()
    });
    let echo = module("echo");
    let channels: Vec<Channel> = group.iter().map(|gateway| gateway.remote_exec(&echo).unwrap()).collect();
    for round in 0..3_u8 {
        for channel in &channels {
            channel.send_bytes([round; 100]).unwrap();
        }
        for channel in &channels {
            assert_eq!(channel.receive_bytes_timeout(LIMIT).unwrap(), [round; 100]);
        }
    }
    // Those that run jobs end when they have had none for a while.
    eventually(LIMIT, "few threads to be left", || threads(&before) <= io + OTHER_THREADS);

    eventually(LIMIT, "everything to be asleep", || {
        let before = switches();
        channels[0].receive_bytes_timeout(IDLE).expect_err("nobody has sent anything");
        switches() - before <= 4
    });

    let workers: Vec<Watched> = group.iter().map(|gateway| Watched::new(gateway.pid().unwrap())).collect();
    let report = within(LIMIT * 4, "the end of all gateways", move || group.terminate(LIMIT));
    assert_eq!(report.gateways.len(), GATEWAYS);
    let unclean: Vec<_> = report.gateways.iter().filter(|gateway| gateway.ending != Ending::Clean).collect();
    assert!(unclean.is_empty(), "{unclean:?}");
    assert!(workers.iter().all(Watched::is_gone));
    assert!(channels.iter().all(|channel| channel.outcome().is_some()));
    drop(channels);
    eventually(LIMIT, "no more threads than before", || threads(&before) <= io + OTHER_THREADS);
}
