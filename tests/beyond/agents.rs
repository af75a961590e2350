//! What works elsewhere as it does here.

use std::time::{Duration, Instant};

use sandgate::{Call, Ending, Gateway, LimitName, Limits, Outcome, Spec};
use sandgate_tests::{LIMIT, State, module, popen, process_ten_tasks, run, run_with, within};

use crate::places::{agent_of, all_go, assert_echoes, exec, family, group};

/// Ten items for the processors of the seed, over whatever gateways there are.
pub(crate) fn task_processors(specs: Vec<Spec>) {
    within(LIMIT * 2, "ten tasks", move || {
        process_ten_tasks(&group(specs), LIMIT);
    });
}

#[test]
fn task_processors_here_and_elsewhere_in_one_group() {
    task_processors(vec![popen(), exec(), exec(), popen().id("last")]);
}

#[test]
fn gateways_of_one_address_share_an_agent_which_goes_with_its_group() {
    let group = group([exec(), exec(), exec().with_heartbeat(Duration::from_secs(20))]);
    let agents: Vec<_> = group.iter().map(agent_of).collect();
    assert_eq!(agents[0].pid(), agents[1].pid());
    assert_ne!(agents[0].pid(), agents[2].pid(), "another address");
    let families: Vec<_> = agents.iter().flat_map(family).collect();
    let report = group.terminate(LIMIT);
    assert!(report.is_clean(), "{report:?}");
    all_go(&families);
    let again = group.make_gateway(exec()).unwrap();
    assert_echoes(&again);
    let family = family(&agent_of(&again));
    drop(group);
    all_go(&family);
}

#[test]
fn large_messages_cross() {
    within(LIMIT * 2, "messages of 20 MiB", || {
        let group = group([exec()]);
        let channel = run(&group[0], "echo");
        let bytes: Vec<u8> = (0..20_u32 << 20).map(|it| it.to_le_bytes()[it as usize % 3]).collect();
        for _ in 0..3 {
            channel.send_bytes(bytes.clone()).unwrap();
            assert!(channel.receive_bytes_timeout(LIMIT).unwrap() == bytes);
        }
    });
}

#[test]
fn a_gateway_whose_messages_nobody_takes_delays_no_other() {
    within(LIMIT * 2, "an echo beside floods", || {
        let group = group([exec(), exec(), exec()]);
        let floods = [State::Sends.enter(&group[0]), State::BothFull.enter(&group[1])];
        for _ in 0..20 {
            assert_echoes(&group[2]);
        }
        drop(floods);
        group.terminate(Duration::ZERO);
    });
}

/// The streams of all that is behind a jump host go through one link, and through another agent.
#[test]
fn nor_does_one_behind_a_jump_host() {
    within(LIMIT * 2, "echoes beside floods on the same way", || {
        let behind = || exec().via("jump");
        let elsewhere = behind().with_heartbeat(Duration::from_secs(20));
        let group = group([exec().id("jump"), behind(), behind(), behind(), elsewhere]);
        let agents: Vec<_> = group.iter().map(|gateway| agent_of(gateway).pid()).collect();
        assert!(agents[1] == agents[3] && agents[3] != agents[4] && agents[0] != agents[1], "{agents:?}");
        let floods = [State::Sends.enter(&group[1]), State::BothFull.enter(&group[2])];
        for _ in 0..20 {
            [0, 3, 4].iter().for_each(|place| assert_echoes(&group[*place]));
        }
        drop(floods);
        group.terminate(Duration::ZERO);
    });
}

#[test]
fn whatever_a_guest_does_can_be_ended() {
    within(LIMIT * 3, "guests in every state", || {
        let group = group([exec()]);
        for state in State::ALL {
            let channel = state.enter(&group[0]);
            let outcome = channel.kill().unwrap();
            assert!(matches!(outcome, Outcome::Killed { .. }), "{state:?}: {outcome}");
            assert_echoes(&group[0]);
        }
        let channel = State::Computes.enter(&group[0]);
        let started = Instant::now();
        let report = group.terminate(Duration::from_millis(500));
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(report.gateways[0].ending, Ending::Interrupted, "{report:?}");
        assert!(matches!(channel.outcome(), Some(Outcome::Killed { .. })));
    });
}

#[test]
fn limits_and_sandbox_are_those_of_the_spec() {
    let group = group([popen().memory(32 << 20), exec().memory(32 << 20)]);
    let in_force = |gateway: &Gateway| -> Vec<_> {
        let layers = gateway.isolation().layers;
        layers.into_iter().map(|(layer, state)| (layer, std::mem::discriminant(&state))).collect()
    };
    assert_eq!(in_force(&group[0]), in_force(&group[1]), "the same layers are in force");
    let limits = Limits { wall_time: Some(Duration::from_millis(100)), ..group[0].spec().limits().clone() };
    for gateway in group.iter() {
        let call = Call::start().limits(limits.clone());
        let channel = gateway.remote_exec_with(&module("spin"), &call).unwrap();
        let outcome = channel.wait_close_timeout(LIMIT).unwrap_err();
        assert!(outcome.to_string().contains("deadline of 100ms"), "{}: {outcome}", gateway.id());
        let channel = run_with(gateway, "memory_hog", &64_u32);
        let outcome = channel.wait_close_timeout(LIMIT).unwrap_err();
        assert!(outcome.to_string().contains(LimitName::Memory.setting()), "{}: {outcome}", gateway.id());
    }
}

#[test]
fn what_is_known_of_a_worker_here_is_known_of_one_elsewhere() {
    let group = group([exec()]);
    let gateway = &group[0];
    assert_echoes(gateway);
    assert!(!gateway.describe(&module("tasks")).unwrap().tasks.is_empty());
    sandgate_tests::eventually(LIMIT, "its memory", || gateway.status().unwrap().memory_bytes.is_some());
    let status = gateway.status().unwrap();
    assert_eq!(status.pid, gateway.pid());
    let error = gateway.remote_exec(&sandgate::Module::from_bytes(*b"\0asm, nearly").unwrap()).unwrap_err();
    assert!(matches!(error, sandgate::ExecError::Rejected { .. }), "{error}");
}
