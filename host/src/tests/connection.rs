//! The handshake, status, and executions: what a connection does for the gateway above it.

use sandgate_wire::message::kind;
use sandgate_wire::outcome::LossCause;
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket};

use crate::artefact::ArtefactStore;
use crate::call::Call;
use crate::connection::{Common, Connection};
use crate::deadline::Deadline;
use crate::error::{ExecError, SendError, StatusError};
use crate::fake_worker::{
    MOMENT, PATIENCE, Stage, bytes_of, done, frame, hello, module, spec_of_messages, strange_hello,
};
use crate::output::{OutputRouter, OutputSink};
use crate::process::Launch;
use crate::spec::Spec;
use crate::{KilledBy, Limits, Outcome};

/// What the host says of a worker that opens with these bytes and hangs up if it is told to.
fn handshake(bytes: &[u8], hangs_up: bool, patience: std::time::Duration) -> Result<(), LossCause> {
    let mut stage = Stage::before_hello(Spec::popen(), OutputSink::Discard);
    stage.worker.expect_hello();
    stage.worker.raw_or_refused(bytes);
    if hangs_up {
        stage.worker.hang_up();
    }
    let ready = stage.connection().wait_ready(Deadline::after(patience));
    assert_eq!(stage.connection().is_alive(), ready.is_ok() && !hangs_up);
    ready.map(drop).map_err(|loss| loss.cause)
}

#[test]
fn a_worker_that_does_not_say_hello_in_time_is_given_up() {
    let header = bytes_of(&hello())[..8].to_vec();
    for (what, bytes) in [("nothing", &[][..]), ("half a header", &header)] {
        let cause = handshake(bytes, false, MOMENT).unwrap_err();
        let expected = LossCause::Unresponsive { message: format!("no hello within {MOMENT:?}") };
        assert_eq!(cause, expected, "{what}");
    }
}

#[test]
fn a_worker_that_hangs_up_before_its_hello_is_lost() {
    let whole = bytes_of(&hello());
    for end in 0..whole.len() {
        let cause = handshake(&whole[..end], true, PATIENCE).unwrap_err();
        assert_eq!(cause, LossCause::Unknown { message: "its connection ended".to_owned() }, "after {end} bytes");
    }
}

#[test]
fn what_does_not_begin_with_a_hello_is_no_worker() {
    let mut longer = bytes_of(&hello());
    longer.push(0);
    longer[0] += 1;
    for (bytes, text) in [
        (
            b"bash: sandgate: command not found\n".to_vec(),
            "header `[62, 61, 73, 68, 3a, 20, 73, 61, 6e, 64, 67, 61, 74, 65, 3a, 20]` is not one of this protocol",
        ),
        (strange_hello(b"SANDGAME", 1), "peer is not a sandgate process"),
        (strange_hello(b"SANDGATE", 7), "peer speaks version 7 of the protocol, this side version 6"),
        (frame(kind::HELLO, 0, 0, b"SANDGATE"), "peer is not a sandgate process"),
        (longer, "message of kind 1 is malformed"),
        (bytes_of(&done(1, Outcome::Returned)), "it did not begin with a hello"),
        (frame(kind::DATA, 0, 1, b""), "it did not begin with a hello"),
        (frame(99, 0, 0, b""), "message kind 99 does not exist in this direction"),
    ] {
        let cause = handshake(&bytes, false, PATIENCE).unwrap_err();
        assert_eq!(cause, LossCause::ProtocolViolation { message: text.to_owned() });
    }
}

#[test]
fn an_environment_that_no_frame_holds_is_an_error() {
    let (ours, _theirs) = socket_pair().unwrap();
    let (send, receive) = unix_socket(ours, Descriptors::Refuse);
    let spec = Spec::popen().env("LARGE", "x".repeat(300 * 1024));
    let output = OutputRouter::new("gw0".to_owned(), OutputSink::Discard);
    let transport = (Box::new(send) as _, Box::new(receive) as _);
    let common = Common::new(output, ArtefactStore::shared(None, None), None);
    let error = Connection::start("gw0".to_owned(), spec, transport, None, common).unwrap_err();
    assert!(error.to_string().starts_with("id and environment of 3072"), "{error}");
}

#[test]
fn statuses_are_shared_and_asked_for_once() {
    let mut stage = Stage::new();
    stage.settle();
    let gateway = stage.gateway();
    assert!(matches!(gateway.status_timeout(MOMENT), Err(StatusError::Timeout { .. })));
    // The question is still open, so the next one rides on it.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| gateway.status_timeout(PATIENCE));
        let second = scope.spawn(|| gateway.status_timeout(PATIENCE));
        stage.worker.expect(&sandgate_wire::ToWorker::Status);
        stage.worker.hang_up();
        for asking in [first, second] {
            assert!(matches!(asking.join().unwrap(), Err(StatusError::NotAlive { .. })));
        }
    });
}

#[test]
fn an_execution_is_loaded_once_and_says_what_it_may_use() {
    let mut stage = Stage::with(spec_of_messages(1000));
    let limits = Limits { channels: 5, ..Limits::default() };
    let call = Call::task("t").args(&(1_u8, 2_u8)).unwrap().argv(["a", "b"]).limits(limits.clone());
    let channel = stage.gateway().remote_exec_with(&module(), &call).unwrap();
    let what =
        |message: Option<sandgate_wire::ToWorker<'_>>| format!("{message:?}").split('(').next().map(str::to_owned);
    assert!(stage.worker.next("LOAD", what).unwrap().starts_with("Some"));
    stage.worker.next("ARGUMENTS", |message| match message {
        Some(sandgate_wire::ToWorker::Arguments(id, chunk)) => assert_eq!((id.0, chunk.payload), (1, &[1, 2][..])),
        other => panic!("{other:?}"),
    });
    let (id, execute) = stage.worker.expect_execute();
    assert_eq!((id, &execute.limits, execute.has_arguments), (channel.id(), &limits, true));
    assert_eq!(execute.argv, ["<bytes>", "a", "b"]);
    let second = stage.gateway().remote_exec(&module()).unwrap();
    stage.worker.next("EXECUTE without a LOAD", |message| {
        assert!(matches!(message, Some(sandgate_wire::ToWorker::Execute(id, _)) if id.0 == second.id()), "{message:?}");
    });
}

#[test]
fn a_call_that_cannot_be_leaves_nothing_behind() {
    let mut stage = Stage::with(spec_of_messages(1000));
    let too_much = Call::task("t").args(&vec![0_u8; 1001]).unwrap();
    let error = stage.gateway().remote_exec_with(&module(), &too_much).unwrap_err();
    assert!(matches!(error, ExecError::Arguments(SendError::TooLarge { limit: 1000, .. })), "{error}");
    let too_long = Call::start().argv(["x".repeat(300 * 1024)]);
    let error = stage.gateway().remote_exec_with(&module(), &too_long).unwrap_err();
    assert!(matches!(error, ExecError::CallTooLarge { .. }), "{error}");
    assert_eq!(stage.connection().open_channels(), 0);
    stage.execution();
}

#[test]
fn a_crash_during_termination_is_still_a_crash() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    stage.gateway().exit();
    stage.worker.expect(&sandgate_wire::ToWorker::Terminate { kill: false });
    stage.worker.raw(&[0xff; 16]);
    assert!(stage.loss().to_string().contains("broke the protocol"));
    assert!(channel.outcome().unwrap().is_worker_lost(), "{:?}", channel.outcome());
}

#[test]
fn a_worker_that_is_asked_to_end_ends_its_tasks_as_killed() {
    let mut stage = Stage::new();
    let (task, plain) = (stage.execution(), stage.plain());
    stage.gateway().exit();
    stage.worker.hang_up();
    stage.loss();
    assert_eq!(task.outcome(), Some(Outcome::Killed { by: KilledBy::Terminate, started: true }));
    assert_eq!(plain.outcome(), Some(Outcome::Closed));
}

#[test]
fn a_worker_that_ends_is_lost_although_its_child_has_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("leaves");
    for (what, end, expected) in [
        ("exits", "exit 7", LossCause::Exited { code: 7 }),
        ("crashes", "kill -KILL $$", LossCause::Signaled { signal: 9 }),
        ("is killed by the host", "wait", LossCause::Signaled { signal: 9 }),
    ] {
        let text = format!("#!/bin/sh\nexec 3<&0\n/bin/sleep 1000 <&3 &\n{end}\n");
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let (ours, theirs) = socket_pair().unwrap();
        let launch = Launch { program: script.clone(), arguments: vec!["-"], directory: None };
        let process = crate::process::launch(launch, theirs).unwrap();
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let transport = (Box::new(send) as _, Box::new(receive) as _);
        let output = OutputRouter::new("gw0".to_owned(), OutputSink::Discard);
        let common = Common::new(output, ArtefactStore::holding(&module(), "e"), None);
        let spec = Spec::popen().id("gw0");
        let connection =
            Connection::start("gw0".to_owned(), spec, transport, Some(crate::remote::Running::Local(process)), common)
                .unwrap();
        if end == "wait" {
            connection.kill_process();
        }
        let loss = connection.wait_ready(Deadline::after(PATIENCE)).expect_err("a loss");
        assert_eq!(loss.cause, expected, "a worker that {what}");
        connection.join();
    }
}
