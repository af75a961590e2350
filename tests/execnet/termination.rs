//! `testing/test_termination.py`: what is left of workers when somebody ends.

use std::time::Duration;

use rustix::process::Signal;
use sandgate::{Event, LossCause, MultiChannel, Outcome};
use sandgate_tests::{Host, LIMIT, Watched, group, run, start_host, within};

/// Starts a host process whose group has a gateway for each guest; see `tests/host_process`.
fn host(mode: &str, guests: &[&str]) -> Host {
    start_host(env!("CARGO_BIN_EXE_host-process"), mode, guests)
}

#[test]
fn exit_blocked_worker_execution_gateway() {
    let group = group(&["popen"]);
    let gateway = group[0].clone();
    let channel = run(&gateway, "sleeper");
    assert_eq!(channel.receive_timeout::<String>(LIMIT).unwrap(), "asleep");
    // Returns, though the worker cannot exit as long as its guest sleeps.
    within(LIMIT, "the exit of a gateway with a guest that sleeps", move || gateway.exit());
    assert!(group.is_empty());
    let report = group.terminate(Duration::from_millis(200));
    assert_eq!(report.gateways.len(), 1, "execnet forgets a gateway that was told to exit");
    assert!(channel.outcome().is_some());
}

#[test]
fn endmarker_delivery_on_remote_killterm() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "sleeper");
    assert_eq!(channel.receive_timeout::<String>(LIMIT).unwrap(), "asleep");
    Watched::new(group[0].pid().unwrap()).signal(Signal::TERM);
    let queue = MultiChannel::new([channel]).make_receive_queue::<String>().unwrap();
    let (_, event) = queue.get_timeout(LIMIT).unwrap();
    let Event::End(Outcome::WorkerLost { loss }) = &event else { panic!("{event:?}") };
    assert_eq!(loss.cause, LossCause::Signaled { signal: 15 });
    assert_eq!(Some(loss.pid), Some(group[0].pid()));
}

#[test]
fn termination_on_remote_channel_receive() {
    let group = group(&["popen"]);
    let process = Watched::new(group[0].pid().unwrap());
    run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
    let _channel = run(&group[0], "silent");
    let report = group.terminate(LIMIT);
    assert!(report.is_clean(), "{report:?}");
    assert!(process.is_gone());
}

#[test]
fn close_initiating_remote_no_error() {
    let mut host = host("terminate", &["silent", "silent"]);
    let (status, stderr) = host.process.wait(LIMIT);
    assert!(status.success(), "{status}: {stderr}");
    assert_eq!(stderr, "", "a termination says nothing");
    assert!(host.workers.iter().all(Watched::is_gone));
}

#[test]
fn terminate_implicit_does_trykill() {
    let mut host = host("leave", &["sleeper"]);
    let (status, stderr) = host.process.wait(LIMIT);
    assert!(status.success(), "{status}: {stderr}");
    assert_eq!(stderr, "");
    assert!(host.workers.iter().all(Watched::is_gone), "dropping the group ends its workers");
}
