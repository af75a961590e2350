//! How a connection ends: the worker is reaped, every channel ends, and everybody is told. Each of it happens once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandgate_wire::outcome::{KilledBy, LossCause, WorkerLoss};
use sandgate_wire::{ChannelMap, Outcome};

use super::Connection;
use crate::endpoint::Role;
use crate::remote::Running;

/// How long a worker may take to end after its connection has.
pub(crate) const REAP_PATIENCE: Duration = Duration::from_millis(500);

impl Connection {
    /// The process has ended. What it had sent before is still read.
    pub(crate) fn process_ended(&self) {
        self.outbox.shutdown();
        if let Some(place) = self.place() {
            place.poke();
        }
    }

    /// Whether there is nothing to wait for before [`finish`](Self::finish).
    pub(crate) fn process_has_ended(&self) -> bool {
        self.process.as_ref().is_none_or(Running::has_exited)
    }

    /// Why the host has ended the connection, if it has.
    fn own_cause(&self, violation: Option<LossCause>) -> Option<LossCause> {
        let unread = || LossCause::Unresponsive { message: "it does not read what it is sent".to_owned() };
        let violation = violation.or_else(|| self.outbox.overflowed().then(unread));
        let late = |message| LossCause::Unresponsive { message };
        violation.or_else(|| self.life.lock().unresponsive.clone().map(late))
    }

    /// The connection is over, for this reason if the host ended it. Its process has no reason to live on.
    pub(crate) fn hang_up(&self, violation: Option<&LossCause>) {
        self.outbox.shutdown();
        if self.own_cause(violation.cloned()).is_some() {
            self.kill_late();
        }
    }

    /// Kills a process whose connection is over.
    pub(crate) fn kill_late(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// The connection is over, for this reason if the host ended it: reap the worker, end every channel, tell everybody.
    /// Called once, by whoever ends the reading. Waits for the process to end, if it has not.
    pub(crate) fn finish(self: &Arc<Self>, violation: Option<LossCause>) {
        let violation = self.own_cause(violation);
        self.outbox.shutdown();
        let mut stderr_tail = String::new();
        let mut ended = LossCause::Unknown { message: "its connection ended".to_owned() };
        if let Some(process) = &self.process {
            if violation.is_some() {
                process.kill();
            }
            ended = process.reap(REAP_PATIENCE);
            drop(self.exit.lock().take());
            stderr_tail = process.take_stderr_tail();
        }
        let cause = violation.unwrap_or(ended);
        let loss = WorkerLoss { gateway: self.id.clone(), pid: self.pid(), cause, stderr_tail };
        let endpoints: Vec<_> = {
            let mut table = self.table.lock();
            table.open = false;
            let endpoints: Vec<_> = table.endpoints.drain().map(|(_, endpoint)| endpoint).collect();
            table.makers = ChannelMap::default();
            table.made = ChannelMap::default();
            let held = endpoints.iter().filter(|endpoint| !endpoint.is_run);
            table.past.extend(held.map(|endpoint| (endpoint.id, Arc::downgrade(endpoint))));
            endpoints
        };
        let on_purpose = {
            let mut life = self.life.lock();
            life.over = true;
            // A worker that was asked to end and crashed instead has not ended on purpose.
            life.killed || (life.terminating && !is_crash(&loss.cause))
        };
        for endpoint in endpoints {
            if endpoint.had_output() {
                self.output.end(&endpoint);
            }
            endpoint.end_for_good(match (endpoint.role, on_purpose) {
                (Role::Plain, true) => Outcome::Closed,
                (Role::Execution, true) => Outcome::Killed { by: KilledBy::Terminate, started: true },
                (_, false) => Outcome::WorkerLost { loss: loss.clone() },
            });
        }
        if !on_purpose {
            tracing::warn!("{loss}");
        }
        self.is_closing.store(true, Ordering::Release);
        self.life.lock().loss = Some(loss);
        self.life_changed.notify_all();
        // Locked, so that nobody who is about to wait misses this.
        drop(self.status.lock());
        self.status_changed.notify_all();
        if let Some(workers) = self.owner.get() {
            workers.worker_ended(self);
        }
    }
}

fn is_crash(cause: &LossCause) -> bool {
    !matches!(cause, LossCause::Exited { code: 0 } | LossCause::Unknown { .. })
}
