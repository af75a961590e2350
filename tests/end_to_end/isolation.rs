//! What the operating system keeps from a worker, as the host's user sees it; native code inside is tested where the worker
//! is (`host/worker/tests`).

use guest_protocol::Trap;
use rustix::process::Signal;
use sandgate::isolation::{Demand, Layer, State as LayerState};
use sandgate::{Call, ExecError, GatewayError, LossCause, Outcome, Rejection, TrapKind};
use sandgate_tests::{LIMIT, State, Watched, builder, eventually, group, module, popen, run, run_with, spec};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn every_layer_is_reported() {
    let group = group(&["popen", "popen//sandbox=off"]);
    let layers: Vec<Layer> = group[0].isolation().layers.into_iter().map(|(layer, _)| layer).collect();
    assert_eq!(layers, Layer::ALL);
    for (layer, state) in group[0].isolation().layers {
        let may_be_missing = [Layer::Namespaces, Layer::User, Layer::Capabilities].contains(&layer) && !is_root();
        assert!(matches!(state, LayerState::Enforced(_)) || may_be_missing, "{layer}: {state}");
    }
    assert!(group[1].isolation().layers.iter().all(|(_, state)| *state == LayerState::Off));
    // Both are of use.
    for gateway in group.iter() {
        assert_eq!(run_with(gateway, "send_value", &7_u32).receive_timeout::<u32>(LIMIT).unwrap(), 7);
    }
}

/// No layer does something by the way that another one needs.
#[test]
fn a_worker_is_of_use_without_any_one_layer() {
    let group = builder().build();
    for layer in Layer::ALL {
        for spec in [popen(), popen().one_module()] {
            let gateway = group.make_gateway(spec.executions(2).sandbox_layer(layer, Demand::Off)).unwrap();
            for _ in 0..2 {
                let channel = run_with(&gateway, "send_value", &7_u32);
                assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 7, "without {layer}");
                assert_eq!(outcome_of(&channel), Some(Outcome::Returned), "without {layer}");
            }
        }
    }
}

#[test]
fn a_worker_below_the_policy_is_refused() {
    // A worker whose guests have a directory keeps its user.
    let directory = tempfile::tempdir().unwrap();
    let granted = popen().dir("/data", directory.path()).sandbox_layer(Layer::User, Demand::Require);
    let group = builder().build();
    let error = group.make_gateway(granted).unwrap_err();
    let text = error.to_string();
    let GatewayError::Isolation { id, missing } = error else { panic!("{error:?}") };
    assert_eq!((&id[..], missing.0.len(), missing.0[0].0), ("gw0", 1, Layer::User));
    assert!(text.contains("`sandbox:user=prefer` goes on without") && text.contains("directories"), "{text}");
    assert!(group.is_empty());
    let all = popen().sandbox(Demand::Require);
    assert_eq!(group.make_gateway(all).is_ok(), is_root());
}

#[test]
fn a_worker_that_was_stopped_for_a_call_is_told_from_others() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "spin");
    // The kernel's own SIGSYS names the call; one of somebody else does not.
    Watched::new(group[0].pid().unwrap()).signal(Signal::SYS);
    let outcome = channel.wait_close_timeout(LIMIT).unwrap_err();
    assert!(outcome.to_string().contains("a system call that no worker makes"), "{outcome}");
    eventually(LIMIT, "the end of the process", || group[0].exit_cause().is_some());
    assert_eq!(group[0].exit_cause(), Some(LossCause::PolicyViolation { call: None }));
}

/// After its module is loaded, a worker for one module does everything but load another.
#[test]
fn the_second_stage_is_no_hindrance() {
    for state in State::ALL {
        let group = builder().build();
        let gateway = group.make_gateway(popen().one_module().executions(8)).unwrap();
        let channels: Vec<_> = (0..8).map(|_| state.enter(&gateway)).collect();
        for channel in &channels {
            let outcome = channel.kill().unwrap();
            assert!(matches!(outcome, Outcome::Killed { .. }), "{state:?}: {outcome}");
        }
        let again = state.enter(&gateway);
        assert!(matches!(again.kill().unwrap(), Outcome::Killed { .. }), "{state:?}");
        // What is not the worker's module is refused, and harms nobody.
        let other = run(&gateway, "add_one");
        let Some(Outcome::Rejected { reason: Rejection::Instantiation { message } }) = outcome_of(&other) else {
            panic!("{state:?}: {:?}", outcome_of(&other));
        };
        assert!(message.contains("setting `modules=`"), "{message}");
        assert!(gateway.is_alive());
    }
}

#[test]
fn guests_trap_and_grow_in_the_second_stage() {
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen//modules=one//executions=2")).unwrap();
    let traps = [
        (Trap::Unreachable, TrapKind::Unreachable),
        (Trap::DivisionByZero, TrapKind::DivisionByZero),
        (Trap::OutOfBounds, TrapKind::MemoryOutOfBounds),
        (Trap::StackOverflow, TrapKind::StackOverflow),
    ];
    for (trap, expected) in traps.iter().chain(&traps) {
        let channel = run_with(&gateway, "traps", trap);
        let Some(Outcome::Trapped { kind, .. }) = outcome_of(&channel) else { panic!("{:?}", outcome_of(&channel)) };
        assert_eq!(kind, *expected);
    }
    let hog = group.make_gateway(spec("popen//modules=one//memory=64M")).unwrap();
    let call = Call::start();
    for _ in 0..3 {
        let channel =
            hog.remote_exec_with(&module("memory_hog"), &call).unwrap_or_else(|error: ExecError| panic!("{error}"));
        let outcome = outcome_of(&channel).unwrap();
        assert!(!outcome.is_worker_lost(), "{outcome}");
    }
}

/// How the channel's execution ended.
fn outcome_of(channel: &sandgate::Channel) -> Option<Outcome> {
    match channel.wait_close_timeout(LIMIT) {
        Ok(()) => Some(Outcome::Returned),
        Err(sandgate::WaitError::Ended(outcome)) => Some(outcome),
        Err(_) => None,
    }
}
