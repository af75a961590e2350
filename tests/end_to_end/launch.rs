//! Workers that do not start are told apart, and leave nothing behind; those that do hold little while they wait.

use std::time::{Duration, Instant};

use sandgate::{GatewayError, LaunchError, LossCause, Spec};
use sandgate_tests::{LIMIT, builder, eventually, popen, resident_bytes_of, run, spec, start};

fn refused(specs: &[Spec]) -> GatewayError {
    let group = builder().build();
    let error = group.make_gateways(specs.iter().cloned()).expect_err("a worker that does not start");
    assert!(group.is_empty());
    error
}

#[test]
fn a_child_that_is_no_worker_is_told_by_its_last_words() {
    let error = refused(&[popen().worker("/bin/cat")]);
    let GatewayError::Handshake { loss } = &error else { panic!("{error:?}") };
    assert_eq!(loss.cause, LossCause::Exited { code: 1 });
    let pid = loss.pid.expect("it had one");
    let text = format!("no handshake: worker of gateway `gw0` (pid {pid}) exited with code 1; its last words: ");
    assert!(error.to_string().starts_with(&text), "{error}");
    assert!(error.to_string().contains("__sandgate-worker"), "{error}");
}

#[test]
fn a_child_that_never_says_hello_is_killed() {
    // `yes` writes to its stdout for ever and looks at nothing else.
    let deadline = Duration::from_millis(200);
    let error = refused(&[popen().worker("/usr/bin/yes").with_hello_deadline(deadline)]);
    let GatewayError::Handshake { loss } = &error else { panic!("{error:?}") };
    assert_eq!(loss.cause, LossCause::Unresponsive { message: "no hello within 200ms".into() });
    let pid = loss.pid.expect("it had one");
    assert_eq!(
        error.to_string(),
        format!("no handshake: worker of gateway `gw0` (pid {pid}) did not answer: no hello within 200ms")
    );
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is killed and reaped");
}

#[test]
fn a_missing_binary_is_named() {
    let error = refused(&[popen().worker("/nonexistent/worker")]);
    assert_eq!(error.to_string(), "worker of gateway `gw0` did not start");
    let GatewayError::Launch { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(source, LaunchError::Spawn { .. }));
    assert_eq!(source.to_string(), "cannot start `/nonexistent/worker`");
}

#[test]
fn without_any_worker_the_error_says_what_to_install() {
    let mut host = start(env!("CARGO_BIN_EXE_host-process"), &["terminate", "noop"], &[]);
    let (status, stderr) = host.wait(LIMIT);
    assert!(!status.success());
    for part in ["no worker executable found", "install the `sandgate` command", "sandgate_worker::run_if_worker()"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn gateways_start_in_parallel() {
    // Each takes as long as its deadline, and so do all of them together.
    let deadline = Duration::from_secs(1);
    let specs = vec![popen().worker("/usr/bin/yes").with_hello_deadline(deadline); 6];
    let start = Instant::now();
    let error = refused(&specs);
    assert!(matches!(error, GatewayError::Handshake { .. }), "{error:?}");
    assert!(start.elapsed() < 3 * deadline, "six deadlines of {deadline:?} took {:?}", start.elapsed());
}

#[test]
fn a_gateway_whose_task_waits_holds_little() {
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen")).unwrap();
    let pid = gateway.pid().unwrap();
    let before = resident_bytes_of(pid);
    let channel = run(&gateway, "add_one");
    eventually(LIMIT, "pages of its start to be given back", || resident_bytes_of(pid) < before / 2);
    channel.send(&1_u32).unwrap();
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 2);
}
