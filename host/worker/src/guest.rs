//! What a store holds for its guest: its handles, its output, its last report, its limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandgate_wire::limits::LimitName;
use sandgate_wire::message::Execute;
use sandgate_wire::{ChannelId, ExecutionGrants, Message};
use smallvec::{SmallVec, smallvec};
use wasmtime::{Memory, ResourceLimiter};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::engine::MAX_TABLES;
use crate::execution::Execution;
use crate::hub::Job;
use crate::output::GuestOutput;
use crate::randomness::Fill;
use crate::worker::Worker;

pub(crate) struct Guest {
    pub(crate) worker: Arc<Worker>,
    pub(crate) execution: Arc<Execution>,
    execute: Arc<Execute>,
    /// Made when it is first needed, for many tasks never do.
    wasi: Option<Box<WasiP1Ctx>>,
    /// Known once the instance is.
    pub(crate) memory: Option<Memory>,
    pub(crate) handles: Handles,
    pub(crate) arguments: Option<Message>,
    /// What is left of its standard input.
    pub(crate) stdin: Bytes,
    pub(crate) report: Option<Report>,
    pub(crate) output: GuestOutput,
    pub(crate) growth: Growth,
    /// The limit by which it was last refused something, with its value, unless it got the same later.
    pub(crate) refused: Option<(LimitName, u64)>,
    /// Where `channel_wait` begins to look.
    pub(crate) next_wait: usize,
    pub(crate) open_descriptors: [bool; 3],
    pub(crate) grants: ExecutionGrants,
    /// The source of random numbers; made when it is first needed.
    pub(crate) random: Option<Box<Fill>>,
    /// Nanoseconds that have passed for a guest whose clock is fixed.
    pub(crate) fixed_time: u64,
    /// Whether it was given any.
    pub(crate) has_directories: bool,
    /// How fast it takes what it is sent, if what it says may be kept for a moment.
    pub(crate) pace: Option<Pace>,
}

/// How fast a guest takes messages.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    taken: u32,
    /// Messages that it is through with since it was asked [last](Pace::has_done).
    done: usize,
}

/// What is said may be kept for a moment by a guest that needs no longer than this for each message.
const QUICK: Duration = Duration::from_micros(100);

impl Pace {
    /// So many messages are at hand now, after those before were taken. Says whether these took a short time.
    pub(crate) fn go_on(&mut self, at_hand: u32) -> bool {
        let now = Instant::now();
        let is_quick = now.saturating_duration_since(self.since) <= QUICK * self.taken;
        self.done += self.taken as usize;
        (self.since, self.taken) = (now, at_hand);
        is_quick
    }

    /// Whether it has done as much as is `left` to do. Counts anew then.
    pub(crate) fn has_done(&mut self, left: usize) -> bool {
        let has = self.done >= left;
        if has {
            self.done = 0;
        }
        has
    }
}

/// The last `task_report`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kind: i32,
    pub(crate) text: String,
}

impl Guest {
    /// A guest that begins `now`.
    pub(crate) fn new(worker: Arc<Worker>, job: Job, now: Instant) -> Guest {
        let limits = &job.execution.limits;
        // With several executors, what one says is not what another may keep.
        let is_patient = job.execute.patient && worker.max_executions == 1;
        let growth = Growth { execution: Arc::clone(&job.execution), asked: 0, denied: None };
        let (arguments, stdin) = match job.arguments {
            Some(message) if job.execute.stdin => (None, message.bytes),
            arguments => (arguments, Bytes::new()),
        };
        Guest {
            wasi: None,
            memory: None,
            handles: Handles::new(job.execution.id),
            arguments,
            stdin,
            report: None,
            output: GuestOutput::new(limits.output_bytes),
            growth,
            refused: None,
            next_wait: 0,
            open_descriptors: [true; 3],
            grants: job.execute.grants.clone(),
            execute: job.execute,
            random: None,
            fixed_time: 0,
            has_directories: !worker.directories.is_empty(),
            pace: is_patient.then_some(Pace { since: now, taken: 0, done: 0 }),
            worker,
            execution: job.execution,
        }
    }

    /// What wasmtime-wasi knows of it.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi.get_or_insert_with(|| {
            let mut wasi = WasiCtxBuilder::new();
            wasi.args(&self.execute.argv).envs(&self.worker.grants.environment);
            let mut wasi = wasi.build_p1();
            self.worker.directories.give(&mut wasi);
            Box::new(wasi)
        })
    }

    /// It got what this limit is about.
    pub(crate) fn got(&mut self, limit: LimitName) {
        self.refused = self.refused.filter(|(refused, _)| *refused != limit);
    }

    /// It was told that it has all the channels that it may have.
    pub(crate) fn refuse_channels(&mut self) {
        self.refused = Some((LimitName::Channels, self.execution.limits.channels.into()));
    }

    /// How many more channels it may have.
    pub(crate) fn channels_left(&self) -> usize {
        self.most_made().saturating_sub(self.execution.channels_made())
    }

    /// How many channels it may have made that are not forgotten yet.
    pub(crate) fn most_made(&self) -> usize {
        let limit = usize::try_from(self.execution.limits.channels).unwrap_or(usize::MAX);
        limit.saturating_sub(self.handles.given)
    }
}

/// The channels of an instance, by handle. A handle that was given back may be used again.
#[derive(Debug)]
pub(crate) struct Handles {
    slots: SmallVec<[Option<Slot>; 1]>,
    free: Vec<u32>,
    /// Handles that count by themselves; those of channels the guest made count with the channel.
    given: usize,
    /// Handles of channels the guest made.
    made: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    channel: ChannelId,
    made: bool,
}

impl Handles {
    fn new(own: ChannelId) -> Handles {
        let own = Slot { channel: own, made: false };
        Handles { slots: smallvec![Some(own)], free: Vec::new(), given: 1, made: 0 }
    }

    pub(crate) fn get(&self, handle: u32) -> Option<ChannelId> {
        let slot = *self.slots.get(usize::try_from(handle).ok()?)?;
        Some(slot?.channel)
    }

    /// A handle for a channel that came in a message.
    pub(crate) fn add_given(&mut self, channel: ChannelId) -> u32 {
        self.given += 1;
        let made = false;
        self.add(Slot { channel, made })
    }

    /// The handle of a channel that the guest made.
    pub(crate) fn add_made(&mut self, channel: ChannelId) -> u32 {
        self.made += 1;
        let made = true;
        self.add(Slot { channel, made })
    }

    /// How many of the handles are of channels the guest made.
    pub(crate) fn made(&self) -> usize {
        self.made
    }

    fn add(&mut self, slot: Slot) -> u32 {
        if let Some(handle) = self.free.pop() {
            self.slots[handle as usize] = Some(slot);
            return handle;
        }
        self.slots.push(Some(slot));
        u32::try_from(self.slots.len() - 1).expect("the limit of channels is a u32")
    }

    pub(crate) fn remove(&mut self, handle: u32) -> Option<ChannelId> {
        let slot = self.slots.get_mut(usize::try_from(handle).ok()?)?.take()?;
        self.free.push(handle);
        let count = if slot.made { &mut self.made } else { &mut self.given };
        *count -= 1;
        Some(slot.channel)
    }

    /// Gives back all but the execution's own.
    pub(crate) fn take_all(&mut self) -> Vec<ChannelId> {
        self.free.clear();
        self.given = 1;
        self.made = 0;
        self.slots.drain(1..).flatten().map(|slot| slot.channel).collect()
    }
}

/// Keeps memory and tables within their limits. A guest that asks for more is told no and goes on.
#[derive(Debug)]
pub(crate) struct Growth {
    execution: Arc<Execution>,
    /// What was counted for the growth that is under way.
    asked: u64,
    /// The limit that the last growth was denied for; none if the last one was granted.
    pub(crate) denied: Option<LimitName>,
}

/// What an element of a table takes.
const TABLE_ELEMENT_BYTES: u64 = 8;

impl Growth {
    fn grow(&mut self, bytes: u64) -> bool {
        let granted = self.execution.account.grow(bytes);
        self.asked = if granted { bytes } else { 0 };
        self.denied = (!granted).then_some(LimitName::Memory);
        granted
    }

    /// The growth that was granted did not come about, for the system had no memory left.
    fn failed(&mut self) {
        self.execution.account.shrink(std::mem::take(&mut self.asked));
        self.denied = Some(LimitName::Memory);
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired as u64 > self.execution.limits.table_elements {
            self.denied = Some(LimitName::Table);
            return Ok(false);
        }
        Ok(self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
        Ok(())
    }

    fn instances(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_channels_that_the_guest_made_are_counted() {
        let mut handles = Handles::new(ChannelId(1));
        let given = handles.add_given(ChannelId(3));
        let made = [2, 4, 6].map(|id| handles.add_made(ChannelId(id)));
        assert_eq!((handles.made(), handles.given), (3, 2));
        assert_eq!(handles.remove(made[1]), Some(ChannelId(4)));
        assert_eq!(handles.remove(made[1]), None);
        assert_eq!((handles.made(), handles.given), (2, 2));
        assert_eq!(handles.remove(given), Some(ChannelId(3)));
        assert_eq!((handles.made(), handles.given), (2, 1));
        assert_eq!(handles.add_made(ChannelId(8)), given, "a handle is used again");
        assert_eq!(handles.made(), 3);
        assert_eq!(handles.take_all().len(), 3);
        assert_eq!((handles.made(), handles.given), (0, 1));
    }

    #[test]
    fn what_is_said_goes_once_as_much_is_done_as_is_left() {
        let mut pace = Pace { since: Instant::now(), taken: 0, done: 0 };
        // So many are taken at once, and so many are left with them.
        let asked = [(64, 512), (64, 448), (64, 384), (64, 320), (64, 256), (64, 256), (64, 192), (64, 128), (64, 64)];
        let has_done = asked.map(|(taken, left)| {
            pace.go_on(taken);
            pace.has_done(left)
        });
        assert_eq!(has_done, [false, false, false, false, true, false, false, true, true]);
    }
}
