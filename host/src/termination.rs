//! Ends gateways, all of them under one deadline.
//!
//! ```text
//!  now ───────────── cooperative ─────────────► deadline − margin ── interrupted ──► deadline ── killed ──► reaped
//!   TERMINATE: channels closed, tasks finish      TERMINATE kill: guests are stopped   SIGKILL by pidfd
//! ```
//!
//! No step writes to anything that can be full: requests are queued, signals go to a pidfd, and the waiting is on the
//! threads that read, which depend on nobody's cooperation once the process is dead.

use std::sync::Arc;
use std::time::Duration;

use sandgate_wire::outcome::{LossCause, WorkerLoss};

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::gateway::Gateway;

/// The part of the time that guests have to stop once they are interrupted: a quarter, and no more than this.
const MAX_INTERRUPT_MARGIN: Duration = Duration::from_millis(250);
/// How long the system may take to end a process after SIGKILL.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// How far one gateway's termination had to go. One that has replaced its worker reports of the one that took the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// It was gone before.
    AlreadyGone,
    /// Its tasks finished and the worker exited.
    Clean,
    /// Its tasks were interrupted, and then the worker exited.
    Interrupted,
    /// The process was killed.
    Killed,
    /// It cannot be killed: the system has not ended it 5 s after the signal.
    Failed,
}

/// What became of one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayReport {
    /// The gateway's id.
    pub gateway: String,
    /// The worker's process id.
    pub pid: Option<u32>,
    /// How far it had to go.
    pub ending: Ending,
    /// How the process ended, unless it failed to.
    pub cause: Option<LossCause>,
}

/// What became of each gateway of a group, in the order of their creation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TerminationReport {
    /// One for each gateway that was not reported before.
    pub gateways: Vec<GatewayReport>,
}

impl TerminationReport {
    /// Whether every gateway ended without being killed.
    pub fn is_clean(&self) -> bool {
        let gently = |report: &GatewayReport| matches!(report.ending, Ending::Clean | Ending::Interrupted);
        self.gateways.iter().all(gently)
    }
}

/// A worker's ending, once it has one.
type Ended = Option<(Ending, WorkerLoss)>;

/// Ends all of `gateways` by `deadline` and waits until they are gone.
pub(crate) fn terminate_all(gateways: &[Gateway], deadline: Deadline) -> Vec<GatewayReport> {
    gateways.iter().for_each(|gateway| gateway.workers().begin_ending());
    // A worker that was just starting is not in anybody's way: it is killed.
    gateways.iter().for_each(|gateway| gateway.workers().settle());
    let workers: Vec<Vec<Arc<Connection>>> = gateways.iter().map(|gateway| gateway.workers().all()).collect();
    let all: Vec<Arc<Connection>> = workers.iter().flatten().cloned().collect();
    let mut endings = end_all(&all, deadline).into_iter();
    // One for all: a sink that blocks does not hold up the call once per gateway.
    let flushed = Deadline::after(MAX_INTERRUPT_MARGIN);
    let reports = gateways.iter().zip(workers).map(|(gateway, workers)| {
        let reports =
            workers.iter().zip(endings.by_ref()).map(|(connection, ending)| report(connection, ending, flushed));
        // The current worker comes first, and speaks for the gateway unless another one took more.
        let hardest = reports.reduce(|first, other| if other.ending > first.ending { other } else { first });
        gateway.workers().join_threads();
        hardest
    });
    reports.flatten().collect()
}

fn end_all(workers: &[Arc<Connection>], deadline: Deadline) -> Vec<Ended> {
    let mut endings: Vec<Ended> = vec![None; workers.len()];
    let settle = |endings: &mut Vec<Ended>, ending: Ending, deadline: Deadline| {
        for (connection, slot) in workers.iter().zip(endings) {
            if slot.is_none() {
                *slot = connection.wait_ended(deadline).map(|loss| (ending, loss));
            }
        }
    };
    let now = Deadline::after(Duration::ZERO);
    settle(&mut endings, Ending::AlreadyGone, now);
    let each_left = |endings: &[Ended], act: fn(&Connection)| {
        workers.iter().zip(endings).filter(|(_, slot)| slot.is_none()).for_each(|(connection, _)| act(connection));
    };
    each_left(&endings, |connection| connection.request_terminate(false));
    let margin = deadline.left().map_or(Duration::ZERO, |left| (left / 4).min(MAX_INTERRUPT_MARGIN));
    settle(&mut endings, Ending::Clean, deadline.earlier(margin));
    each_left(&endings, |connection| connection.request_terminate(true));
    settle(&mut endings, Ending::Interrupted, deadline);
    each_left(&endings, Connection::kill_process);
    settle(&mut endings, Ending::Killed, Deadline::after(REAP_DEADLINE));
    endings
}

fn report(connection: &Connection, ending: Ended, flushed: Deadline) -> GatewayReport {
    let (ending, cause) = match ending {
        None => (Ending::Failed, None),
        // A worker that crashed while it was asked to end has not ended cleanly.
        Some((Ending::Clean | Ending::Interrupted, loss)) if !ended_by_itself(&loss.cause) => {
            (Ending::Killed, Some(loss.cause))
        }
        Some((ending, loss)) => (ending, Some(loss.cause)),
    };
    if ending != Ending::Failed {
        connection.output.wait_idle(flushed);
        connection.join();
    }
    GatewayReport { gateway: connection.id.clone(), pid: connection.pid(), ending, cause }
}

/// Whether a worker that was asked to end did so. If the program that uses this library ignores SIGCHLD, the system keeps
/// no exit code, and its connection's orderly end has to do.
fn ended_by_itself(cause: &LossCause) -> bool {
    matches!(cause, LossCause::Exited { code: 0 } | LossCause::Unknown { .. })
}
