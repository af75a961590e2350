//! `testing/test_gateway.py`: what a gateway of this machine does.

use std::fs;
use std::path::Path;
use std::sync::mpsc;

use guest_protocol::{Print, WasiView};
use rustix::process::Signal;
use sandgate::isolation::{Demand, Layer};
use sandgate::{
    Channel, GatewayError, LossCause, Module, Outcome, OutputSink, ReceiveError, SendError, Stream, WaitError,
};
use sandgate_tests::{
    LIMIT, Watched, builder, eventually, group, guest, module, popen, run, run_with, spec, within, worker,
};

/// The canonical form of a path, as the links of `/proc` show it.
fn canonical(path: &Path) -> String {
    path.canonicalize().expect("a path that exists").display().to_string()
}

#[test]
fn correct_setup() {
    let group = group(&["popen"]);
    let gateway = &group[0];
    assert!(gateway.is_alive());
    assert!(group.contains(gateway));
    assert_eq!(group.get(gateway.id()), Some(gateway));
    assert_eq!(gateway.spec(), &popen().id("gw0"));
}

#[test]
fn repr_doesnt_crash() {
    let group = group(&["popen"]);
    let gateway = group[0].clone();
    assert_eq!(format!("{gateway:?}"), "<Gateway id=gw0 alive, 0 channels>");
    drop(group);
    assert_eq!(format!("{gateway:?}"), "<Gateway id=gw0 gone, 0 channels>");
}

#[test]
fn attribute_name() {
    let group = group(&["popen"]);
    let view: WasiView = run(&group[0], "wasi_probe").receive_timeout(LIMIT).unwrap();
    assert_eq!(view.args, ["wasi_probe.wasm"]);
}

#[test]
fn gateway_status_simple() {
    let group = group(&["popen"]);
    let status = group[0].status().unwrap();
    assert_eq!((status.running, status.queued, status.finished, status.channels), (0, 0, 0, 0));
}

#[test]
fn gateway_status_no_real_channel() {
    let group = group(&["popen"]);
    for _ in 0..2 {
        let status = group[0].status().unwrap();
        assert_eq!((status.channels, status.host_channels), (0, 0));
    }
}

#[test]
fn gateway_status_busy() {
    let group = group(&["popen"]);
    let channels = [run(&group[0], "receive_then_42"), run(&group[0], "receive_then_42")];
    eventually(LIMIT, "two executions that run", || group[0].status().unwrap().running == 2);
    let status = group[0].status().unwrap();
    assert_eq!((status.channels, status.host_channels), (2, 2));
    for channel in &channels {
        channel.send(&()).unwrap();
        channel.wait_close_timeout(LIMIT).unwrap();
    }
    // execnet may count an execution whose channel is closed already.
    let status = group[0].status().unwrap();
    assert_eq!((status.running, status.finished, status.channels, status.host_channels), (0, 2, 0, 0));
}

#[test]
fn remote_exec_module() {
    let group = group(&["popen"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("remotetest.wasm");
    let check = |module: &Module, expected| {
        let value: u32 = group[0].remote_exec(module).unwrap().receive_timeout(LIMIT).unwrap();
        assert_eq!(value, expected);
    };
    fs::copy(guest("send_one"), &path).unwrap();
    let module = Module::from_file(&path).unwrap();
    check(&module, 1);
    fs::copy(guest("send_two"), &path).unwrap();
    // A module is what was read, and not a name of a file.
    check(&module, 1);
    check(&Module::from_file(&path).unwrap(), 2);
}

#[test]
fn remote_exec_module_is_removed() {
    let group = group(&["popen"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("remote.wasm");
    fs::copy(guest("echo"), &path).unwrap();
    let module = Module::from_file(&path).unwrap();
    directory.close().unwrap();
    let channel = group[0].remote_exec(&module).unwrap();
    channel.send("remote()").unwrap();
    assert_eq!(channel.receive_timeout::<String>(LIMIT).unwrap(), "remote()");
}

#[test]
fn remote_exec_module_with_traceback() {
    let group = group(&["popen"]);
    let check = |channel: Channel, file: &str, text: &str| {
        let error = channel.iter::<u32>().last().expect("it panics").unwrap_err();
        let ReceiveError::Ended(Outcome::Panicked { message, location: Some(location), backtrace }) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(message, text);
        let (path, position) = location.split_once(".rs:").expect("a file and a position");
        assert!(path.ends_with(file) && position.split(':').all(|number| number.parse::<u32>().is_ok()), "{location}");
        assert!(backtrace.iter().any(|frame| frame.contains(file)), "{backtrace:?}");
        assert_eq!(error.to_string(), format!("task panicked at {location}: {text}"));
    };
    check(run(&group[0], "panics"), "panics", "boom at item 3");
    check(group[0].remote_exec_fn(&module("tasks"), "panics", &()).unwrap(), "tasks", "boom in a task");
}

#[test]
fn remote_exec_waitclose() {
    let group = group(&["popen"]);
    run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn remote_exec_waitclose_noarg() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "noop_sdk");
    within(LIMIT, "a wait without a timeout", move || channel.wait_close()).unwrap();
}

#[test]
fn remote_exec_error_after_close() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "noop");
    channel.wait_close_timeout(LIMIT).unwrap();
    assert!(matches!(channel.send(&0_u32), Err(SendError::Ended(Outcome::Returned))));
}

#[test]
fn remote_exec_no_explicit_close() {
    let group = group(&["popen"]);
    let ops = sandgate_tests::Ops::start(&group[0]);
    let answer = ops.on(0, guest_protocol::Action::Close);
    assert_eq!(answer, guest_protocol::Answer::Error(guest_protocol::OpError::NotAllowed));
    ops.finish();
}

#[test]
fn remote_exec_channel_anonymous() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "echo");
    channel.send(&42_u32).unwrap();
    assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 42);
}

/// Whether what a guest prints to `stream` stays out of its channel, and is not lost either.
fn check_confusion(stream: Stream) {
    let (sender, lines) = mpsc::channel();
    let sink = OutputSink::callback(move |line| drop(sender.send(line)));
    let group = builder().output(sink).build();
    let gateway = group.make_default_gateway().unwrap();
    let channel = run_with(&gateway, "prints", &Print { lines: 1, line_bytes: 10, unfinished: false });
    assert_eq!(channel.receive_bytes_timeout(LIMIT).unwrap(), b"", "the value `()`, and nothing printed");
    channel.wait_close_timeout(LIMIT).unwrap();
    let mut lines = std::iter::from_fn(|| lines.recv_timeout(LIMIT).ok());
    let line = lines.find(|line| line.stream == stream).expect("a line of that stream");
    assert_eq!((&line.text[..], line.channel), ("xxxxxxxxxx", channel.id()));
}

#[test]
fn confusion_from_os_write_stdout() {
    check_confusion(Stream::Stdout);
}

#[test]
fn confusion_from_os_write_stderr() {
    check_confusion(Stream::Stderr);
}

#[test]
fn rinfo() {
    let group = group(&["popen"]);
    let status = group[0].status().unwrap();
    assert_eq!(status.pid, group[0].pid());
    assert!(status.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{status:?}");
}

#[test]
fn chdir_separation() {
    let own = std::env::current_dir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let group = builder().build();
    // A worker that is locked in wholly has no directory left to be in.
    let spec = popen().chdir(directory.path()).sandbox_layer(Layer::Namespaces, Demand::Off);
    let gateway = group.make_gateway(spec).unwrap();
    assert_eq!(Watched::new(gateway.pid().unwrap()).link("cwd"), canonical(directory.path()));
    assert_eq!(std::env::current_dir().unwrap(), own);
    // A guest has no directory at all.
    let view: WasiView = run(&gateway, "wasi_probe").receive_timeout(LIMIT).unwrap();
    assert!(view.current_dir.is_err(), "{view:?}");
}

#[test]
fn many_popen() {
    let group = group(&["popen"; 4]);
    let channels: Vec<Channel> = group.iter().map(|gateway| run_with(gateway, "send_value", &42_u32)).collect();
    for channel in channels.iter().rev() {
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), 42);
    }
}

#[test]
fn rinfo_popen() {
    // A worker in namespaces of its own has left the host's directory for an empty root.
    let group = group(&["popen//sandbox:namespaces=off"]);
    let process = Watched::new(group[0].pid().unwrap());
    assert_eq!(process.link("exe"), canonical(worker()));
    assert_eq!(process.link("cwd"), canonical(Path::new(".")));
}

#[test]
fn waitclose_on_remote_killed() {
    let group = group(&["popen"]);
    let channel = run(&group[0], "sleeper");
    assert_eq!(channel.receive_timeout::<String>(LIMIT).unwrap(), "asleep");
    Watched::new(group[0].pid().unwrap()).signal(Signal::TERM);
    let outcome = match channel.wait_close_timeout(LIMIT) {
        Err(WaitError::Ended(outcome)) => outcome,
        other => panic!("{other:?}"),
    };
    let Outcome::WorkerLost { loss } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(loss.cause, LossCause::Signaled { signal: 15 });
    assert!(matches!(channel.send(&()), Err(SendError::Ended(same)) if same == outcome));
    for _ in 0..2 {
        assert!(matches!(channel.receive::<u32>(), Err(ReceiveError::Ended(same)) if same == outcome));
    }
    assert!(group[0].join(LIMIT) && !group[0].is_alive());
}

#[test]
fn receive_on_remote_sysexit() {
    let group = group(&["popen"]);
    let outcome = |code: i32| {
        let channel = run_with(&group[0], "exits", &code);
        match channel.receive_timeout::<u32>(LIMIT) {
            Err(ReceiveError::Ended(outcome)) => outcome,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(outcome(3), Outcome::Exited { code: 3 });
    assert_eq!(outcome(0), Outcome::Returned);
    run(&group[0], "noop").wait_close_timeout(LIMIT).unwrap();
}

#[test]
fn dont_write_bytecode() {
    let directory = tempfile::tempdir().unwrap();
    let kept = || fs::read_dir(directory.path()).unwrap().count();
    let run_in = |cache: Option<&Path>| {
        let group = builder().cache(cache.map(Path::to_owned)).build();
        run(&group.make_gateway(popen()).unwrap(), "noop").wait_close_timeout(LIMIT).unwrap();
    };
    run_in(None);
    assert_eq!(kept(), 0);
    run_in(Some(directory.path()));
    assert_ne!(kept(), 0);
}

#[test]
fn threads() {
    let group = group(&["popen"]);
    let [first, second] = [run(&group[0], "echo"), run(&group[0], "echo")];
    for (channel, value) in [(second, 1_u32), (first, 42)] {
        channel.send(&value).unwrap();
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), value);
    }
}

#[test]
fn threads_race_sending() {
    const COUNT: u32 = 2000;
    let group = group(&["popen"]);
    let channels: Vec<Channel> = (0..5).map(|_| run_with(&group[0], "counts", &COUNT)).collect();
    for channel in &channels {
        for expected in 0..COUNT {
            assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), expected);
        }
        channel.wait_close_timeout(LIMIT).unwrap();
    }
}

#[test]
fn status_with_threads() {
    let group = group(&["popen"]);
    let channels = [run(&group[0], "sleeper"), run(&group[0], "sleeper")];
    for channel in &channels {
        assert_eq!(channel.receive_timeout::<String>(LIMIT).unwrap(), "asleep");
    }
    assert_eq!(group[0].status().unwrap().running, 2);
    for channel in channels {
        within(LIMIT, "the end of a killed execution", move || channel.kill()).unwrap();
    }
    assert_eq!(group[0].status().unwrap().running, 0);
}

#[test]
fn popen_args() {
    // One path, whatever stands in it: nothing splits it as a shell would.
    let group = builder().build();
    let error = group.make_gateway("popen//worker=/u/test me/worker -e").unwrap_err();
    let GatewayError::Launch { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "cannot start `/u/test me/worker -e`");
}

#[test]
fn assert_main_thread_only() {
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen//executions=1")).unwrap();
    // All at once, and one after the other; a failing one spoils nothing, as it does in execnet.
    let failing = run(&gateway, "fails");
    let channels: Vec<Channel> = (0..10_u32).map(|value| run_with(&gateway, "send_value", &value)).collect();
    for (value, channel) in (0..).zip(&channels) {
        assert_eq!(channel.receive_timeout::<u32>(LIMIT).unwrap(), value);
        channel.wait_close_timeout(LIMIT).unwrap();
    }
    assert!(matches!(failing.outcome(), Some(Outcome::Failed { .. })));
}

#[test]
fn main_thread_only_concurrent_remote_exec_deadlock() {
    let group = builder().build();
    let gateway = group.make_gateway(spec("popen//executions=1")).unwrap();
    let first = run(&gateway, "receive_then_42");
    let second = run(&gateway, "send_one");
    eventually(LIMIT, "one execution that runs and one that waits", || {
        let status = gateway.status().unwrap();
        (status.running, status.queued) == (1, 1)
    });
    assert_eq!(second.try_receive::<u32>().unwrap(), None);
    first.send(&()).unwrap();
    assert_eq!(first.receive_timeout::<u32>(LIMIT).unwrap(), 42);
    assert_eq!(second.receive_timeout::<u32>(LIMIT).unwrap(), 1);
}
