//! `testing/test_multi.py`: several channels at once, and groups.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandgate::{Call, Channel, Ending, Event, GatewayError, MultiChannel};
use sandgate_tests::{LIMIT, Watched, builder, group, module, popen, run, spec, within};

#[test]
fn multichannel_container_basics() {
    let group = group(&["popen"]);
    let channels: Vec<Channel> = (0..3).map(|_| group[0].new_channel().unwrap()).collect();
    let multi = MultiChannel::new(channels.clone());
    assert_eq!(multi.len(), 3);
    assert_eq!(multi.iter().cloned().collect::<Vec<_>>(), channels);
    for (position, channel) in channels.iter().enumerate() {
        assert_eq!(&multi[position], channel);
        assert!(multi.contains(channel));
    }
    assert!(!multi.contains(&group[0].new_channel().unwrap()));
    assert!(multi.get(3).is_none());
}

#[test]
fn multichannel_receive_each() {
    let group = group(&["popen"; 2]);
    let call = Call::start().args(&12_u32).unwrap();
    let multi = group.remote_exec_with(&module("send_value"), &call).unwrap();
    let values = multi.receive_each_timeout::<u32>(LIMIT).unwrap();
    assert_eq!(values, [12, 12]);
    let with_channels: Vec<(&Channel, u32)> = multi.iter().zip(values).collect();
    assert_eq!(with_channels, [(&multi[0], 12), (&multi[1], 12)]);

    // What others gave is not lost where one has ended.
    let mixed = MultiChannel::new([multi[0].clone(), run(&group[1], "send_one")]);
    let error = mixed.receive_each_timeout::<u32>(LIMIT).unwrap_err();
    assert!(matches!(&error.results[..], [Err(end), Ok(1)] if end.is_end()), "{error:?}");
}

#[test]
fn multichannel_send_each() {
    let group = group(&["popen"; 2]);
    let multi = group.remote_exec(&module("add_one")).unwrap();
    multi.send_each(&41_u32).unwrap();
    assert_eq!(multi.receive_each_timeout::<u32>(LIMIT).unwrap(), [42, 42]);
}

#[test]
fn multichannel_receive_queue_for_two_subprocesses() {
    let group = group(&["popen"; 2]);
    let multi = group.remote_exec(&module("send_one")).unwrap();
    let queue = multi.make_receive_queue::<u32>().unwrap();
    let mut gateways = Vec::new();
    while gateways.len() < 2 {
        let (channel, event) = queue.get_timeout(LIMIT).unwrap();
        if event == Event::Item(1) {
            gateways.push(channel.gateway());
        }
    }
    assert_ne!(gateways[0], gateways[1]);
    assert_ne!(gateways[0].pid(), gateways[1].pid());
    multi.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn multichannel_waitclose() {
    let group = group(&["popen"; 2]);
    let module = module("receive_then_42");
    let multi = group.remote_exec(&module).unwrap();
    multi[0].send(&()).unwrap();
    let error = multi.wait_close_timeout(Duration::from_millis(20)).unwrap_err();
    assert!(error.failures.iter().any(|(channel, _)| *channel == multi[1]), "{error:?}");
    multi[1].send(&()).unwrap();
    multi.wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn basic_group() {
    let group = group(&["popen"]);
    let process = Watched::new(group[0].pid().unwrap());
    let first = group.terminate(LIMIT);
    assert_eq!(first.gateways.iter().map(|report| &report.gateway[..]).collect::<Vec<_>>(), ["gw0"]);
    assert!(process.is_gone());
    assert!(group.terminate(LIMIT).gateways.is_empty(), "each gateway is reported once");
    drop(group);
}

#[test]
fn group_default_spec() {
    let group = builder().default_spec(popen().worker("/nonexistent/worker")).build();
    let error = group.make_default_gateway().unwrap_err();
    assert!(matches!(error, GatewayError::Launch { .. }), "{error:?}");
    assert!(group.is_empty());
}

#[test]
fn group_popen_gateway() {
    let group = builder().build();
    let gateway = group.make_gateway(popen()).unwrap();
    assert_eq!(group.iter().collect::<Vec<_>>(), [&gateway]);
    assert_eq!(group[0], gateway);
    assert_eq!(group.len(), 1);
    group.terminate(LIMIT);
    assert!(group.is_empty());
}

#[test]
fn group_ordering_and_termination() {
    let group = group(&["popen//id=3", "popen//id=2", "popen//id=5"]);
    assert_eq!(group.iter().map(|gateway| gateway.id()).collect::<Vec<_>>(), ["3", "2", "5"]);
    assert_eq!(format!("{group:?}"), "<Group [3, 2, 5]>");
    group.terminate(LIMIT);
    assert!(group.is_empty());
    assert_eq!(format!("{group:?}"), "<Group []>");
}

#[test]
fn group_id_allocation() {
    let group = builder().build();
    assert_eq!(group.make_gateway(spec("popen//id=hello")).unwrap().id(), "hello");
    assert_eq!(group.make_gateway(popen()).unwrap().id(), "gw0");
    let error = group.make_gateway(spec("popen//id=hello")).unwrap_err();
    assert!(matches!(&error, GatewayError::DuplicateId { id } if id == "hello"), "{error:?}");
    // execnet fails where a name that it would give is taken.
    assert_eq!(group.make_gateway(spec("popen//id=gw1")).unwrap().id(), "gw1");
    assert_eq!(group.make_gateway(popen()).unwrap().id(), "gw2");
}

#[test]
fn gateway_and_id() {
    let group = group(&["popen//id=hello"]);
    let gateway = group["hello"].clone();
    assert!(group.get("hello").is_some());
    assert!(group.contains(&gateway));
    assert_eq!(group.len(), 1);
    gateway.exit();
    assert!(group.get("hello").is_none());
    assert!(!group.contains(&gateway));
    assert!(catch_unwind(AssertUnwindSafe(|| group["hello"].id().to_owned())).is_err(), "there is no such member");
}

#[test]
fn remote_exec_args() {
    let group = group(&["popen"]);
    let call = Call::start().args(&7_u32).unwrap();
    let multi = group.remote_exec_with(&module("send_value"), &call).unwrap();
    assert_eq!(multi.receive_each_timeout::<u32>(LIMIT).unwrap(), [7]);
    let multi = group.remote_exec_fn(&module("tasks"), "add", &(1_u32, 2_u32)).unwrap();
    assert_eq!(multi.receive_each_timeout::<u32>(LIMIT).unwrap(), [3]);
}

#[test]
fn safe_terminate() {
    // Stopped processes do not end by themselves, whatever they are asked.
    let group = group(&["popen"; 5]);
    let processes: Vec<Watched> = group.iter().map(|gateway| Watched::new(gateway.pid().unwrap())).collect();
    processes.iter().for_each(|process| process.signal(Signal::STOP));
    let start = Instant::now();
    let report = within(LIMIT, "the termination of stopped workers", move || group.terminate(Duration::from_secs(1)));
    // One deadline for all of them: one after the other would take five times as long.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(report.gateways.iter().all(|report| report.ending == Ending::Killed), "{report:?}");
    assert_eq!(report.gateways.len(), 5);
    assert!(processes.iter().all(Watched::is_gone));
}

#[test]
fn safe_terminate_2() {
    let group = group(&["popen"; 5]);
    let report = group.terminate(LIMIT);
    assert!(report.gateways.iter().all(|report| report.ending == Ending::Clean), "{report:?}");
    assert!(report.is_clean());
}
