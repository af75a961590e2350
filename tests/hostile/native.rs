//! H, native code: what a worker tries that was taken over, behind a real lock-down, under a real host. The kernel stops it,
//! and the host says what it tried.

use std::time::Duration;

use sandgate::isolation::Layer;
use sandgate::{Gateway, GatewayError, LossCause, Outcome, WaitError};
use sandgate_tests::{LIMIT, builder};

use crate::h_taken_over::spec_of;
use crate::house::{House, alone};
use crate::row::HOST_GROWTH;

/// What may come of an attack.
#[derive(Debug, Clone, Copy)]
enum Stopped {
    /// The worker serves on; the kernel has refused, or nothing was tried.
    Refused,
    /// The worker is gone, and the host names one of these calls.
    Killed(&'static [&'static str]),
    /// The worker is gone, and the host says that it tried something forbidden.
    KilledWithoutAName,
}

const ATTACKS: &[(&str, Stopped)] = &[
    ("native-does-nothing", Stopped::Refused),
    ("native-opens-a-file", Stopped::Refused),
    ("native-opens-its-own-memory", Stopped::Refused),
    ("native-lists-a-directory", Stopped::Refused),
    ("native-makes-a-file", Stopped::Refused),
    ("native-connects", Stopped::Killed(&["socket"])),
    ("native-sends-a-datagram", Stopped::Killed(&["socket"])),
    // The C library blocks all signals on its way to a child, so nobody can say what was tried.
    ("native-executes", Stopped::KilledWithoutAName),
    ("native-signals-its-parent", Stopped::Killed(&["getppid", "kill"])),
];

#[test]
fn native_code_is_stopped_by_the_kernel_and_named() {
    let _alone = alone();
    let mut house = House::new();
    let mut failures = Vec::new();
    for (id, stopped) in ATTACKS {
        let problems = house.observe(HOST_GROWTH, |_| attacks(id, *stopped));
        if !problems.is_empty() {
            failures.push(format!("{id}: {}", problems.join("; ")));
        }
    }
    let made = std::fs::exists("/tmp/sandgate-was-here").expect("a look");
    assert!(!made, "a worker has made a file");
    assert!(
        failures.is_empty(),
        "H, native: {} of {} fail\n  {}",
        failures.len(),
        ATTACKS.len(),
        failures.join("\n  ")
    );
}

fn attacks(id: &str, stopped: Stopped) -> Vec<String> {
    let group = builder().build();
    let cause = match group.make_gateway(spec_of(id).with_hello_deadline(Duration::from_secs(10))) {
        Err(GatewayError::Handshake { loss }) => Some(loss.cause),
        Err(error) => return vec![format!("there is no gateway: {error:?}")],
        Ok(gateway) if !gateway.isolation().is_enforced(Layer::Seccomp) => {
            println!("{id}: left out, this machine has no seccomp");
            return Vec::new();
        }
        Ok(gateway) => what_comes_of(&gateway),
    };
    println!("{id}: {cause:?}");
    match (stopped, cause) {
        (Stopped::Refused, None) => Vec::new(),
        (Stopped::Killed(calls), Some(LossCause::PolicyViolation { call: Some(call) }))
            if calls.contains(&&call[..]) =>
        {
            Vec::new()
        }
        (Stopped::KilledWithoutAName, Some(LossCause::PolicyViolation { .. })) => Vec::new(),
        (_, cause) => vec![format!("{stopped:?} was expected, not {cause:?}")],
    }
}

/// How the worker ended; nothing if it goes on.
fn what_comes_of(gateway: &Gateway) -> Option<LossCause> {
    let channel = gateway.new_channel().ok();
    // Between two workers there is a status, but no process.
    if gateway.status().is_ok_and(|status| status.pid.is_some()) {
        return None;
    }
    match channel?.wait_close_timeout(LIMIT) {
        Err(WaitError::Ended(Outcome::WorkerLost { loss })) => Some(loss.cause),
        other => panic!("the channel of a worker that is gone: {other:?}"),
    }
}
