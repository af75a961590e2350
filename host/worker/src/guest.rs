//! What a store holds for its guest: its handles, its output, its last report, its limits.

use std::sync::Arc;

use sandgate_wire::limits::LimitName;
use sandgate_wire::{ChannelId, Message};
use wasmtime::{Memory, ResourceLimiter};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::engine::MAX_TABLES;
use crate::execution::Execution;
use crate::hub::Job;
use crate::output::GuestOutput;
use crate::worker::Worker;

pub(crate) struct Guest {
    pub(crate) worker: Arc<Worker>,
    pub(crate) execution: Arc<Execution>,
    pub(crate) wasi: WasiP1Ctx,
    /// Known once the instance is.
    pub(crate) memory: Option<Memory>,
    pub(crate) handles: Handles,
    pub(crate) arguments: Option<Message>,
    pub(crate) report: Option<Report>,
    pub(crate) output: GuestOutput,
    pub(crate) growth: Growth,
    /// Where `channel_wait` begins to look.
    pub(crate) next_wait: usize,
    pub(crate) open_descriptors: [bool; 3],
    /// Fills bytes with random numbers; made when it is first needed.
    pub(crate) random: Option<Box<FillRandom>>,
}

type FillRandom = dyn FnMut(&mut [u8]) + Send;

/// The last `task_report`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kind: i32,
    pub(crate) text: String,
}

impl Guest {
    pub(crate) fn new(worker: Arc<Worker>, job: Job) -> Guest {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&job.execute.argv).envs(&worker.grants.environment);
        let limits = &job.execution.limits;
        let growth = Growth { memory_bytes: limits.memory_bytes, table_elements: limits.table_elements, denied: None };
        Guest {
            wasi: wasi.build_p1(),
            memory: None,
            handles: Handles::new(job.execution.id),
            arguments: job.arguments,
            report: None,
            output: GuestOutput::new(limits.output_bytes),
            growth,
            next_wait: 0,
            open_descriptors: [true; 3],
            random: None,
            worker,
            execution: job.execution,
        }
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
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Handles that count by themselves; those of channels the guest made count with the channel.
    given: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    channel: ChannelId,
    made: bool,
}

impl Handles {
    fn new(own: ChannelId) -> Handles {
        let own = Slot { channel: own, made: false };
        Handles { slots: vec![Some(own)], free: Vec::new(), given: 1 }
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
        let made = true;
        self.add(Slot { channel, made })
    }

    /// How many of the handles are of channels the guest made.
    pub(crate) fn made(&self) -> usize {
        self.slots.iter().flatten().filter(|slot| slot.made).count()
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
        if !slot.made {
            self.given -= 1;
        }
        Some(slot.channel)
    }

    /// Gives back all but the execution's own.
    pub(crate) fn take_all(&mut self) -> Vec<ChannelId> {
        self.free.clear();
        self.given = 1;
        self.slots.drain(1..).flatten().map(|slot| slot.channel).collect()
    }
}

/// Keeps memory and tables within their limits. A guest that asks for more is told no and goes on.
#[derive(Debug)]
pub(crate) struct Growth {
    memory_bytes: u64,
    table_elements: u64,
    /// The limit that was asked for too much last.
    pub(crate) denied: Option<LimitName>,
}

impl Growth {
    fn decide(&mut self, desired: usize, limit: u64, name: LimitName) -> bool {
        let granted = desired as u64 <= limit;
        if !granted {
            self.denied = Some(name);
        }
        granted
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.decide(desired, self.memory_bytes, LimitName::Memory))
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.decide(desired, self.table_elements, LimitName::Table))
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
