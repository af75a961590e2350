//! The end of gateways, with workers that obey and workers that do not.

use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use sandgate_wire::ToWorker;
use sandgate_wire::outcome::LossCause;

use crate::channel::Event;
use crate::deadline::Deadline;
use crate::error::ExecError;
use crate::fake_worker::{MOMENT, PATIENCE, Stage, done, module};
use crate::output::OutputSink;
use crate::spec::Spec;
use crate::termination::terminate_all;
use crate::{Ending, KilledBy, Outcome};

fn killed_by_termination() -> Outcome {
    Outcome::Killed { by: KilledBy::Terminate, started: true }
}

#[test]
fn a_worker_that_ignores_everything_is_killed_at_the_deadline() {
    let mut stage = Stage::new();
    let (task, plain) = (stage.execution(), stage.plain());
    let start = Instant::now();
    let report = stage.gateway().terminate(10 * MOMENT);
    assert!(start.elapsed() >= 10 * MOMENT);
    assert_eq!((report.ending, report.gateway.as_str()), (Ending::Killed, "gw0"));
    stage.worker.expect(&ToWorker::Terminate { kill: false });
    stage.worker.expect(&ToWorker::Terminate { kill: true });
    assert_eq!((task.outcome(), plain.outcome()), (Some(killed_by_termination()), Some(Outcome::Closed)));
    assert_eq!(stage.gateway().terminate(PATIENCE).ending, Ending::AlreadyGone);
    assert!(stage.gateway().join(Duration::ZERO));
}

#[test]
fn tasks_that_finish_in_time_say_so_themselves() {
    let mut stage = Stage::new();
    let (task, late) = (stage.execution(), stage.execution());
    let gateway = stage.gateway();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| gateway.terminate(4 * PATIENCE));
        stage.worker.expect(&ToWorker::Terminate { kill: false });
        let refused = gateway.remote_exec(&module()).unwrap_err();
        assert!(matches!(&refused, ExecError::GatewayClosed { reason, .. } if reason == "it is being terminated"));
        stage.worker.send(&done(1, Outcome::Returned));
        stage.worker.hang_up();
        ending.join().unwrap();
    });
    assert_eq!((task.outcome(), late.outcome()), (Some(Outcome::Returned), Some(killed_by_termination())));
    let refused = gateway.remote_exec(&module()).unwrap_err();
    assert!(refused.to_string().starts_with("gateway `gw0` takes no more tasks: worker of gateway `gw0`"), "{refused}");
    assert!(gateway.new_channel().is_err());
}

#[test]
fn what_was_accepted_just_before_has_one_outcome() {
    for _ in 0..20 {
        let stage = Stage::new();
        let channel = stage.gateway().remote_exec(&module()).unwrap();
        let (sender, events) = unbounded();
        channel.set_callback(move |event: Event<u8>| drop(sender.send(event))).unwrap();
        stage.gateway().terminate(Duration::ZERO);
        assert_eq!(channel.outcome(), Some(killed_by_termination()));
        assert_eq!(events.iter().collect::<Vec<_>>(), [Event::End(killed_by_termination())]);
    }
}

#[test]
fn executions_and_terminations_may_race() {
    for _ in 0..20 {
        let stage = Stage::new();
        let gateway = stage.gateway();
        std::thread::scope(|scope| {
            let executing: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let accepted = gateway.remote_exec(&module()).ok()?;
                        Some(accepted.wait_close_timeout(PATIENCE).map_err(|error| error.to_string()))
                    })
                })
                .collect();
            let ending: Vec<_> = (0..2).map(|_| scope.spawn(|| gateway.terminate(Duration::ZERO))).collect();
            for thread in executing {
                if let Some(outcome) = thread.join().unwrap() {
                    assert_eq!(outcome, Err("task was ended by the termination of its gateway".to_owned()));
                }
            }
            ending.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        });
    }
}

#[test]
fn a_callback_can_end_its_own_gateway() {
    let mut stage = Stage::new();
    let channel = stage.execution();
    let gateway = stage.gateway();
    let (sender, reports) = unbounded();
    channel
        .set_callback(move |event: Event<u8>| {
            if let Event::Item(_) = event {
                let _ = sender.send(gateway.terminate(MOMENT).ending);
            }
        })
        .unwrap();
    stage.worker.data(1, &[1]);
    assert_eq!(reports.recv_timeout(PATIENCE).unwrap(), Ending::Killed);
    channel.wait_close_timeout(PATIENCE).unwrap_err();
    assert_eq!(channel.outcome(), Some(killed_by_termination()));
}

#[test]
fn many_gateways_share_one_deadline() {
    let (sender, blocked) = unbounded::<()>();
    let sink = OutputSink::callback(move |_| assert!(blocked.recv_timeout(PATIENCE).is_err()));
    let stages: Vec<Stage> = (0..6)
        .map(|number| {
            let mut stage = Stage::with_output(Spec::popen().id(format!("gw{number}")), sink.clone());
            let task = stage.execution();
            let output = sandgate_wire::message::Output {
                stream: crate::Stream::Stdout,
                truncated: false,
                bytes: b"nobody takes this\n",
            };
            stage.worker.send(&sandgate_wire::ToHost::Output(sandgate_wire::ChannelId(task.id()), output));
            task.detach();
            stage
        })
        .collect();
    let gateways: Vec<_> = stages.iter().map(Stage::gateway).collect();
    let start = Instant::now();
    let reports = terminate_all(&gateways, Deadline::after(Duration::from_millis(200)));
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1200), "6 gateways with a blocked sink took {took:?}");
    let ids: Vec<_> = reports.iter().map(|report| report.gateway.as_str()).collect();
    assert_eq!(ids, ["gw0", "gw1", "gw2", "gw3", "gw4", "gw5"]);
    assert!(reports.iter().all(|report| report.ending == Ending::Killed));
    drop(sender);
}

#[test]
fn a_worker_that_takes_nothing_cannot_delay_the_end() {
    let mut stage = Stage::new();
    let channels: Vec<_> = (0..4).map(|_| stage.execution()).collect();
    for channel in &channels {
        // More than the socket holds: the writer is stuck in the middle of it.
        channel.send_bytes(vec![0; 1 << 20]).unwrap();
    }
    let start = Instant::now();
    assert_eq!(stage.gateway().terminate(MOMENT).ending, Ending::Killed);
    assert!(start.elapsed() < PATIENCE / 4);
    for channel in &channels {
        assert_eq!(channel.outcome(), Some(killed_by_termination()));
    }
}

#[test]
fn exit_asks_once_and_does_not_wait() {
    let mut stage = Stage::new();
    let gateway = stage.gateway();
    gateway.exit();
    gateway.exit();
    stage.worker.expect(&ToWorker::Terminate { kill: false });
    stage.settle();
    assert!(gateway.is_alive() && !gateway.join(MOMENT));
    stage.worker.hang_up();
    assert!(gateway.join(PATIENCE));
    assert_eq!(stage.loss().cause, LossCause::Unknown { message: "its connection ended".to_owned() });
}
