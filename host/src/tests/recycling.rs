//! Gateways that replace their workers: nothing that runs is touched, and nobody notices but by the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use sandgate_wire::transport::{Descriptors, socket_pair, unix_socket};
use sandgate_wire::{ChannelId, Side, ToWorker};

use crate::artefact::ArtefactStore;
use crate::call::Call;
use crate::connection::{Common, Connection};
use crate::error::{ExecError, GatewayError, LaunchError, SendError};
use crate::fake_worker::{
    ENGINE, FakeWorker, MOMENT, PATIENCE, bytes_of, close, closed_by_host, done, eventually, hello, module,
};
use crate::gateway::Gateway;
use crate::output::{OutputRouter, OutputSink};
use crate::recycle::Recycled;
use crate::spec::Spec;
use crate::workers::{Launcher, Workers};
use crate::{Ending, KilledBy, Outcome};

/// What the workers do that are started from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Greets,
    SaysNothing,
    Fails,
}

#[derive(Debug)]
struct Scripted {
    start: Mutex<Start>,
    attempts: AtomicUsize,
    connections: Mutex<Vec<std::sync::Weak<Connection>>>,
    workers: Sender<FakeWorker>,
}

impl Launcher for Scripted {
    fn launch(&self, spec: &Spec, common: &Common) -> Result<Arc<Connection>, GatewayError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let id = spec.given_id().unwrap().to_owned();
        if *self.start.lock() == Start::Fails {
            return Err(GatewayError::Launch { id, source: LaunchError::NoWorker });
        }
        let (ours, theirs) = socket_pair().unwrap();
        let (send, receive) = unix_socket(ours, Descriptors::Refuse);
        let transport = (Box::new(send) as _, Box::new(receive) as _);
        let connection = Connection::start(id, spec.clone(), transport, None, common.clone()).unwrap();
        self.connections.lock().push(Arc::downgrade(&connection));
        let mut worker = FakeWorker::new(theirs);
        if *self.start.lock() == Start::Greets {
            worker.raw(&bytes_of(&hello()));
        }
        let _ = self.workers.send(worker);
        Ok(connection)
    }
}

/// A gateway and the workers it starts. Its end checks that nothing of any of them is left.
struct Relay {
    gateway: Option<Gateway>,
    launcher: Arc<Scripted>,
    arriving: Receiver<FakeWorker>,
}

impl Relay {
    fn new(recycle: &str) -> Relay {
        Relay::of(format!("popen//id=gw0//hello=10s//recycle={recycle}").parse().unwrap())
    }

    fn of(spec: Spec) -> Relay {
        let (workers, arriving) = unbounded();
        let launcher = Arc::new(Scripted {
            start: Mutex::new(Start::Greets),
            attempts: AtomicUsize::new(0),
            connections: Mutex::default(),
            workers,
        });
        let output = OutputRouter::new("gw0".to_owned(), OutputSink::Discard);
        let common = Common::new(output, ArtefactStore::holding(&module(), ENGINE), None);
        let first = launcher.launch(&spec, &common).unwrap();
        crate::group::check_hello(&first, crate::deadline::Deadline::after(PATIENCE)).unwrap();
        let gateway = Gateway::new(Workers::new(first, Arc::clone(&launcher) as _, common));
        Relay { gateway: Some(gateway), launcher, arriving }
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// The next worker that was started.
    fn worker(&self) -> FakeWorker {
        let mut worker = self.arriving.recv_timeout(PATIENCE).expect("another worker is started");
        worker.expect_hello();
        worker
    }

    fn attempts(&self) -> usize {
        self.launcher.attempts.load(Ordering::Relaxed)
    }

    /// Runs an execution, which this worker gets.
    fn execute_on(&self, worker: &mut FakeWorker) -> crate::Channel {
        let channel = self.gateway().remote_exec(&module()).unwrap();
        assert_eq!(worker.expect_execute().0, channel.id());
        channel
    }

    /// The counters of a gateway whose current worker answers.
    fn recycled(&self, worker: &mut FakeWorker) -> (u64, Recycled) {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.gateway().status_timeout(PATIENCE).unwrap());
            worker.expect(&ToWorker::Status);
            worker.send(&sandgate_wire::ToHost::Status(sandgate_wire::message::WorkerStatus::default()));
            let status = asking.join().unwrap();
            (status.workers_started, status.recycled)
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.gateway.take().unwrap().terminate(Duration::ZERO);
        for connection in &*self.launcher.connections.lock() {
            eventually("every connection to be gone", || connection.strong_count() == 0);
        }
    }
}

const KILLED: Outcome = Outcome::Killed { by: KilledBy::Terminate, started: true };
const ASKED_TO_END: ToWorker<'_> = ToWorker::Terminate { kill: false };

#[test]
fn after_so_many_executions_the_next_one_has_a_new_worker() {
    let relay = Relay::new("executions:2");
    let (mut old, gateway) = (relay.worker(), relay.gateway().clone());
    let (first, second) = (relay.execute_on(&mut old), relay.execute_on(&mut old));
    // The new worker is there before it is needed.
    let mut new = relay.worker();
    let third = relay.execute_on(&mut new);
    assert_eq!([first.id(), second.id(), third.id()], [1, 3, 5], "an id is never used twice in a gateway");
    assert!(first.gateway() == gateway && third.gateway() == gateway && gateway.id() == "gw0");
    assert_eq!(relay.recycled(&mut new), (2, Recycled { executions: 1, ..Recycled::default() }));

    // The old worker goes on as if nothing had happened.
    first.send(&7_u8).unwrap();
    old.expect_data(1, &[7]);
    old.data(3, &[8]);
    assert_eq!(second.receive_timeout::<u8>(PATIENCE).unwrap(), 8);
    old.send(&done(1, Outcome::Exited { code: 4 }));
    old.data(3, &[9]);
    assert_eq!(second.receive_timeout::<u8>(PATIENCE).unwrap(), 9);
    old.send(&done(3, Outcome::Returned));
    old.expect(&ASKED_TO_END);
    old.hang_up();
    assert_eq!((first.outcome(), second.wait_close().is_ok()), (Some(Outcome::Exited { code: 4 }), true));
    assert!(gateway.is_alive() && third.outcome().is_none());
}

#[test]
fn a_worker_that_runs_nothing_when_it_is_replaced_is_asked_to_end_at_once() {
    let relay = Relay::new("executions:1");
    for number in 0..5 {
        let mut worker = relay.worker();
        let channel = relay.execute_on(&mut worker);
        worker.send(&done(2 * number + 1, Outcome::Returned));
        channel.wait_close_timeout(PATIENCE).unwrap();
        if number < 4 {
            let mut next = relay.worker();
            let other = relay.execute_on(&mut next);
            worker.expect(&ASKED_TO_END);
            other.close();
            drop(other);
            next.hang_up();
            break;
        }
    }
}

#[test]
fn a_lost_worker_is_replaced_and_its_executions_say_so() {
    let relay = Relay::new("loss");
    let mut old = relay.worker();
    let running = relay.execute_on(&mut old);
    old.hang_up();
    assert!(running.wait_close_timeout(PATIENCE).is_err());
    assert!(running.outcome().unwrap().is_worker_lost());
    let mut new = relay.worker();
    assert!(relay.gateway().is_alive());
    let next = relay.execute_on(&mut new);
    new.send(&done(3, Outcome::Returned));
    next.wait_close_timeout(PATIENCE).unwrap();
    assert_eq!(relay.recycled(&mut new), (2, Recycled { losses: 1, ..Recycled::default() }));
}

#[test]
fn a_worker_that_broke_the_protocol_is_replaced() {
    let relay = Relay::new("loss");
    let mut old = relay.worker();
    let running = relay.execute_on(&mut old);
    old.raw(&[0xff; 16]);
    assert!(running.wait_close_timeout(PATIENCE).unwrap_err().to_string().contains("broke the protocol"));
    let mut new = relay.worker();
    relay.execute_on(&mut new);
}

#[test]
fn a_killed_gateway_has_a_new_worker_for_the_next_execution() {
    let relay = Relay::new("loss");
    let (mut old, gateway) = (relay.worker(), relay.gateway().clone());
    let running = relay.execute_on(&mut old);
    gateway.kill();
    let next = gateway.remote_exec(&module()).unwrap();
    let mut new = relay.worker();
    assert_eq!(new.expect_execute().0, next.id());
    assert!(running.wait_close_timeout(PATIENCE).is_err());
    assert_eq!(running.outcome(), Some(KILLED));
    assert!(gateway.is_alive() && next.outcome().is_none());
}

#[test]
fn without_recycling_a_lost_worker_is_the_gateways_end() {
    for recycle in ["off", "executions:1000"] {
        let relay = Relay::new(recycle);
        let mut old = relay.worker();
        let running = relay.execute_on(&mut old);
        old.hang_up();
        assert!(running.wait_close_timeout(PATIENCE).is_err());
        assert!(relay.gateway().join(PATIENCE) && !relay.gateway().is_alive(), "{recycle}");
        let error = relay.gateway().remote_exec(&module()).unwrap_err();
        assert!(matches!(error, ExecError::GatewayClosed { .. }), "{error}");
        assert_eq!(relay.attempts(), 1, "{recycle}");
    }
}

#[test]
fn a_channel_of_the_host_keeps_its_worker_and_takes_executions_there() {
    let relay = Relay::new("executions:1");
    let mut old = relay.worker();
    let plain = relay.gateway().new_channel().unwrap();
    old.expect(&ToWorker::Open(ChannelId(plain.id())));
    let first = relay.execute_on(&mut old);
    old.send(&done(first.id(), Outcome::Returned));
    first.wait_close_timeout(PATIENCE).unwrap();
    let mut new = relay.worker();
    let second = relay.execute_on(&mut new);
    // Its channel leads to the old worker, so the execution that gets it runs there.
    let call = Call::start().args(&(plain.clone(),)).unwrap();
    let bound = relay.gateway().remote_exec_with(&module(), &call).unwrap();
    old.next("ARGUMENTS", |message| assert!(matches!(message, Some(ToWorker::Arguments(..))), "{message:?}"));
    assert_eq!(old.expect_execute().0, bound.id());
    let ids = [plain.id(), first.id(), second.id(), bound.id()];
    assert_eq!(ids, [1, 3, 5, 7]);
    match second.send(&plain) {
        Err(SendError::ForeignChannel { theirs, .. }) => assert_eq!(theirs, "gw0 (of its replaced worker)"),
        other => panic!("{other:?}"),
    }
    old.send(&done(bound.id(), Outcome::Returned));
    bound.wait_close_timeout(PATIENCE).unwrap();
    plain.close();
    old.expect(&closed_by_host(plain.id()));
    old.send(&close(plain.id(), None));
    old.expect(&ASKED_TO_END);
}

#[test]
fn a_worker_that_cannot_be_started_is_an_error_and_no_storm() {
    let relay = Relay::new("loss");
    let mut old = relay.worker();
    *relay.launcher.start.lock() = Start::Fails;
    let running = relay.execute_on(&mut old);
    old.hang_up();
    running.wait_close_timeout(PATIENCE).unwrap_err();
    let start = Instant::now();
    let mut refused = 0;
    while start.elapsed() < Duration::from_millis(500) {
        let error = relay.gateway().remote_exec(&module()).unwrap_err();
        let ExecError::NoWorker { source, retry_after, .. } = &error else { panic!("{error}") };
        assert!(matches!(&**source, GatewayError::Launch { .. }) && *retry_after < PATIENCE, "{error:?}");
        refused += 1;
    }
    // Pauses of 100, 200, 400 ms: no more than that however many ask.
    let attempts = relay.attempts() - 1;
    assert!(attempts <= 4 && refused > attempts, "{attempts} attempts for {refused} calls");
    *relay.launcher.start.lock() = Start::Greets;
    eventually("the gateway to have a worker again", || relay.gateway().remote_exec(&module()).is_ok());
    relay.worker();
    assert!(relay.gateway().is_alive());
}

#[test]
fn a_worker_that_is_ready_and_dies_unused_is_replaced_too() {
    let relay = Relay::new("loss,executions:1");
    let mut old = relay.worker();
    let _running = relay.execute_on(&mut old);
    let mut spare = relay.worker();
    spare.hang_up();
    eventually("the host to know", || relay.launcher.connections.lock()[1].upgrade().is_none_or(|it| it.has_ended()));
    let channel = relay.gateway().remote_exec(&module()).unwrap();
    assert_eq!(relay.worker().expect_execute().0, channel.id());
}

#[test]
fn a_termination_ends_old_and_new_workers_under_one_deadline() {
    let relay = Relay::new("executions:1");
    let gateway = relay.gateway().clone();
    let mut workers = Vec::new();
    let channels: Vec<_> = (0..3)
        .map(|_| {
            workers.push(relay.worker());
            relay.execute_on(workers.last_mut().unwrap())
        })
        .collect();
    // And one that is ready and has nothing to do.
    workers.push(relay.worker());
    let start = Instant::now();
    let report = gateway.terminate(10 * MOMENT);
    assert!(start.elapsed() < PATIENCE / 4);
    assert_eq!((report.gateway.as_str(), report.ending), ("gw0", Ending::Killed));
    channels.iter().for_each(|channel| assert_eq!(channel.outcome(), Some(KILLED)));
    assert_eq!(gateway.terminate(Duration::ZERO).ending, Ending::AlreadyGone);
    assert!(!gateway.is_alive() && gateway.join(Duration::ZERO));
    assert!(matches!(gateway.remote_exec(&module()), Err(ExecError::GatewayClosed { .. })));
    let attempts = relay.attempts();
    assert!(gateway.new_channel().is_err() && relay.attempts() == attempts, "no worker is started any more");
}

#[test]
fn a_worker_that_is_just_starting_does_not_hold_up_the_end() {
    let relay = Relay::new("loss,executions:1");
    let mut old = relay.worker();
    *relay.launcher.start.lock() = Start::SaysNothing;
    let _running = relay.execute_on(&mut old);
    let _silent = relay.worker();
    let gateway = relay.gateway().clone();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| gateway.remote_exec(&module()));
        let start = Instant::now();
        gateway.terminate(MOMENT);
        assert!(start.elapsed() < Duration::from_secs(4), "it has 10 s to say hello");
        waiting.join().unwrap().unwrap_err();
    });
}

#[test]
fn exit_ends_all_workers_and_starts_none() {
    let relay = Relay::new("loss,executions:1");
    let (mut old, gateway) = (relay.worker(), relay.gateway().clone());
    let first = relay.execute_on(&mut old);
    let mut new = relay.worker();
    let second = relay.execute_on(&mut new);
    let mut spare = relay.worker();
    gateway.exit();
    gateway.exit();
    old.expect(&ASKED_TO_END);
    new.expect(&ASKED_TO_END);
    // The one ahead is asked as well, or killed if the host has not seen its hello yet.
    spare.next("its end", |message| assert!(message.is_none() || message == Some(ASKED_TO_END), "{message:?}"));
    assert!(matches!(gateway.remote_exec(&module()), Err(ExecError::GatewayClosed { .. })));
    old.send(&done(first.id(), Outcome::Returned));
    new.send(&done(second.id(), Outcome::Returned));
    let attempts = relay.attempts();
    for mut worker in [old, new, spare] {
        worker.hang_up_if_there();
    }
    assert!(gateway.join(PATIENCE) && !gateway.is_alive());
    assert_eq!(relay.attempts(), attempts);
    assert!(first.wait_close().is_ok() && second.wait_close().is_ok());
}

/// Serves executions until the end, each at once; returns how many.
fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut worker: FakeWorker,
) -> std::thread::ScopedJoinHandle<'scope, u64> {
    scope.spawn(move || {
        let mut served = 0;
        loop {
            let id = worker.next("work or the end", |message| match message {
                Some(ToWorker::Execute(id, _)) => Some(id),
                Some(ToWorker::Terminate { .. }) | None => None,
                Some(_) => Some(ChannelId(0)),
            });
            match id {
                None => {
                    worker.hang_up_if_there();
                    return served;
                }
                Some(id) if id.side() == Side::Host && id.0 > 0 => {
                    served += 1;
                    worker.raw_or_refused(&bytes_of(&done(id.0, Outcome::Returned)));
                }
                Some(_) => {}
            }
        }
    })
}

#[test]
fn however_many_call_at_once_no_worker_runs_more_than_it_may() {
    for most in [1_u64, 7] {
        let relay = Relay::new(&format!("loss,executions:{most}"));
        let gateway = relay.gateway().clone();
        std::thread::scope(|scope| {
            let arriving = relay.arriving.clone();
            let (stop, stopped) = unbounded::<()>();
            let serving = scope.spawn(move || {
                let mut serving = Vec::new();
                loop {
                    crossbeam_channel::select! {
                        recv(arriving) -> worker => serving.push(serve(scope, worker.unwrap())),
                        recv(stopped) -> _ => break,
                    }
                }
                serving.extend(arriving.try_iter().map(|worker| serve(scope, worker)));
                serving
            });
            let calling: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..40 {
                            let channel = gateway.remote_exec(&module()).unwrap();
                            channel.wait_close_timeout(PATIENCE).unwrap();
                        }
                    })
                })
                .collect();
            calling.into_iter().for_each(|thread| thread.join().unwrap());
            gateway.terminate(PATIENCE);
            drop(stop);
            let served: Vec<u64> = serving.join().unwrap().into_iter().map(|it| it.join().unwrap()).collect();
            assert_eq!(served.iter().sum::<u64>(), 320);
            assert!(served.iter().all(|count| *count <= most), "{served:?}");
        });
    }
}

#[test]
fn executions_terminations_and_replacements_may_race() {
    for _ in 0..20 {
        let relay = Relay::new("loss,executions:1");
        let gateway = relay.gateway().clone();
        std::thread::scope(|scope| {
            let calling: Vec<_> = (0..3).map(|_| scope.spawn(|| gateway.remote_exec(&module()))).collect();
            let ending: Vec<_> = (0..2).map(|_| scope.spawn(|| gateway.terminate(Duration::ZERO))).collect();
            let killing = scope.spawn(|| gateway.kill());
            killing.join().unwrap();
            ending.into_iter().for_each(|thread| drop(thread.join().unwrap()));
            for channel in calling.into_iter().filter_map(|thread| thread.join().unwrap().ok()) {
                channel.wait_close_timeout(PATIENCE).unwrap_err();
                assert_eq!(channel.outcome(), Some(KILLED));
            }
        });
    }
}
