//! Ends gateways, all of them under one deadline.
//!
//! ```text
//!  now ───────────── cooperative ─────────────► deadline − margin ── interrupted ──► deadline ── killed ──► reaped
//!   TERMINATE: channels closed, tasks finish      TERMINATE kill: guests are stopped   SIGKILL by pidfd
//! ```
//!
//! No step writes to anything that can be full: requests are queued, signals go to a pidfd, and the waiting is on the
//! reader threads, which depend on nobody's cooperation once the process is dead.

use std::time::Duration;

use sandgate_wire::outcome::{LossCause, WorkerLoss};

use crate::deadline::Deadline;
use crate::gateway::Gateway;

/// The part of the time that guests have to stop once they are interrupted: a quarter, and no more than this.
const MAX_INTERRUPT_MARGIN: Duration = Duration::from_millis(250);
/// How long the system may take to end a process after SIGKILL.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// How far one gateway's termination had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Its tasks finished and the worker exited.
    Clean,
    /// Its tasks were interrupted, and then the worker exited.
    Interrupted,
    /// The process was killed.
    Killed,
    /// It was gone before.
    AlreadyGone,
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

/// Ends all of `gateways` by `deadline` and waits until they are gone.
pub(crate) fn terminate_all(gateways: &[Gateway], deadline: Deadline) -> Vec<GatewayReport> {
    let mut endings: Vec<Option<(Ending, WorkerLoss)>> = vec![None; gateways.len()];
    let settle = |endings: &mut Vec<Option<(Ending, WorkerLoss)>>, ending: Ending, deadline: Deadline| {
        for (gateway, slot) in gateways.iter().zip(endings) {
            if slot.is_none() {
                *slot = gateway.connection().wait_ended(deadline).map(|loss| (ending, loss));
            }
        }
    };
    let now = Deadline::after(Duration::ZERO);
    settle(&mut endings, Ending::AlreadyGone, now);
    let each_left = |endings: &[Option<(Ending, WorkerLoss)>], act: fn(&Gateway)| {
        gateways.iter().zip(endings).filter(|(_, slot)| slot.is_none()).for_each(|(gateway, _)| act(gateway));
    };
    each_left(&endings, |gateway| gateway.connection().request_terminate(false));
    let margin = deadline.left().map_or(Duration::ZERO, |left| (left / 4).min(MAX_INTERRUPT_MARGIN));
    settle(&mut endings, Ending::Clean, deadline.earlier(margin));
    each_left(&endings, |gateway| gateway.connection().request_terminate(true));
    settle(&mut endings, Ending::Interrupted, deadline);
    each_left(&endings, |gateway| gateway.connection().kill_process());
    settle(&mut endings, Ending::Killed, Deadline::after(REAP_DEADLINE));
    // One for all: a sink that blocks does not hold up the call once per gateway.
    let flushed = Deadline::after(MAX_INTERRUPT_MARGIN);
    gateways.iter().zip(endings).map(|(gateway, ending)| report(gateway, ending, flushed)).collect()
}

fn report(gateway: &Gateway, ending: Option<(Ending, WorkerLoss)>, flushed: Deadline) -> GatewayReport {
    let connection = gateway.connection();
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
