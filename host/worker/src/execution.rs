//! One execution as all threads see it: its identity, its limits, and whether it is to stop.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use sandgate_wire::account::Account;
use sandgate_wire::limits::LimitName;
use sandgate_wire::outcome::KilledBy;
use sandgate_wire::{ChannelId, Limits};

use crate::channel::Pocket;
use crate::cpu_time::CpuTime;
use crate::reading::{Waiters, Waker};

/// Closes that the host has not answered yet, of channels that a guest made for nothing: as many more wait in all the queues
/// between guest and host before whatever it is told next, its end among it.
pub(crate) const MAX_UNANSWERED: i64 = 64;
/// How few there are to be before the guest goes on.
const FEW_UNANSWERED: i64 = MAX_UNANSWERED / 2;

/// Why an execution is stopped. The first reason stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("execution was stopped: {self:?}")]
pub(crate) enum Stop {
    Killed(KilledBy),
    TimedOut,
    Limit(LimitName),
    /// The connection is gone; nobody will hear of it.
    HostGone,
}

/// Shared by the thread that runs the execution and those that may stop it.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) id: ChannelId,
    pub(crate) limits: Limits,
    /// What it has of its memory.
    pub(crate) account: Account,
    /// Its processor time, if that has a limit which it can reach.
    pub(crate) cpu: Option<CpuTime>,
    /// Messages of its own channel that its thread takes by itself.
    pub(crate) pocket: Mutex<Pocket>,
    /// What its thread waits on, together with the hub's mutex.
    pub(crate) waker: Waker,
    /// Channels it made that are not forgotten yet.
    made: AtomicI64,
    /// Those of them that were closed before anything was sent.
    closed_unused: AtomicI64,
    stop: OnceLock<Stop>,
    finished: OnceLock<()>,
}

/// The processor time that it can use up before its time is over: a thread never uses more than passes.
fn limited_cpu_time(limits: &Limits) -> Option<Duration> {
    limits.cpu_time.filter(|cpu_time| limits.wall_time.is_none_or(|wall_time| *cpu_time < wall_time))
}

impl Execution {
    pub(crate) fn new(id: ChannelId, limits: Limits, waiters: &Arc<Waiters>) -> Execution {
        Execution {
            id,
            account: Account::new(limits.memory_bytes),
            cpu: limited_cpu_time(&limits).map(CpuTime::new),
            limits,
            pocket: Mutex::default(),
            waker: Waker::new(waiters),
            made: AtomicI64::new(0),
            closed_unused: AtomicI64::new(0),
            stop: OnceLock::new(),
            finished: OnceLock::new(),
        }
    }

    pub(crate) fn stop_reason(&self) -> Option<Stop> {
        self.stop.get().copied()
    }

    /// The part of a stop that cannot fail; see [`Worker::stop`](crate::worker::Worker::stop) for the rest.
    pub(crate) fn set_stop(&self, reason: Stop) {
        let _ = self.stop.set(reason);
    }

    /// Counts the channels it made; changed under the hub's lock.
    pub(crate) fn made(&self, change: i64) {
        self.made.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn channels_made(&self) -> usize {
        usize::try_from(self.made.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Counts channels whose close the host answers at once; changed under the hub's lock.
    pub(crate) fn closed_unused(&self, change: i64) {
        self.closed_unused.fetch_add(change, Ordering::Relaxed);
    }

    /// Whether the guest is to wait for answers to its closes before it makes another channel.
    pub(crate) fn has_many_unanswered(&self) -> bool {
        self.closed_unused.load(Ordering::Relaxed) >= MAX_UNANSWERED
    }

    /// Whether it has waited enough.
    pub(crate) fn has_few_unanswered(&self) -> bool {
        self.closed_unused.load(Ordering::Relaxed) <= FEW_UNANSWERED
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.get().is_some()
    }

    pub(crate) fn set_finished(&self) {
        let _ = self.finished.set(());
    }
}
