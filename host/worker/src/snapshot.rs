//! From a module to the module that it is after its init function: what is in memory and in mutable globals, written into
//! its data and global sections.
//!
//! wasmtime-wizer does both halves, [instrumenting](Preparation::of) and [rewriting](Preparation::snapshot). The snapshot is
//! made from the module as it came, not from what was compiled, so custom sections and all code stay as they were. What
//! wizer cannot keep, tables that changed, it refuses by the instructions that could change them.
//!
//! wizer counts on a peer that means well where it makes room for what it finds, so the size of a snapshot is
//! [measured](snapshot_bytes) before.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use sandgate_abi::{INIT_EXPORT_PREFIX, RESTART_EXPORT_PREFIX, START_EXPORT};
use sandgate_wire::module_limits::ModuleLimitName;
use sandgate_wire::outcome::Rejection;
use sandgate_wire::{ModuleLimits, Profile};
use wasmparser::{Parser, Payload};
use wasmtime::{Instance, Store, Val};
use wasmtime_wizer::{InstanceState, ModuleContext, SnapshotVal, ValType, Wizer};

use crate::guest::Guest;
use crate::preflight::{self, Checked};
use crate::{bulk, ending};

/// Bytes that a data segment takes beside its own, at the least; wizer joins what is no farther apart.
const SEGMENT_BYTES: usize = 4;
/// Segments from which on wizer joins those with the smallest gaps.
const MAX_SEGMENTS: usize = 10_000;

/// A module that is ready to be compiled for its one run.
pub(crate) struct Preparation<'a> {
    wizer: Wizer,
    context: ModuleContext<'a>,
    init: String,
    instrumented: Vec<u8>,
    max_bytes: u64,
}

impl<'a> Preparation<'a> {
    /// Checks a module and makes it tell its state.
    ///
    /// # Errors
    /// The reason why no gateway takes it, or why there can be no snapshot of it.
    pub(crate) fn of(
        module: &'a [u8],
        init: &str,
        limits: &ModuleLimits,
        profile: Profile,
    ) -> Result<Preparation<'a>, Rejection> {
        let Checked { bulk_bodies, .. } = preflight::check(module, limits, profile)?;
        let mut wizer = Wizer::new();
        wizer.init_func(format!("{INIT_EXPORT_PREFIX}{init}"));
        let restart = format!("{RESTART_EXPORT_PREFIX}{init}");
        if exports(module, &restart) && exports(module, START_EXPORT) {
            wizer.func_rename(START_EXPORT, &restart);
        }
        let refused = |error: &wasmtime::Error| Rejection::Snapshot { message: ending::engine_text(error) };
        let (context, instrumented) = wizer.instrument(module).map_err(|error| refused(&error))?;
        // Positions in the code section are what they were.
        let instrumented = bulk::rewrite(&instrumented, &bulk_bodies)
            .map_err(|error| Rejection::Snapshot { message: error.to_string() })?;
        Ok(Preparation { wizer, context, init: init.to_owned(), instrumented, max_bytes: limits.module_bytes })
    }

    /// What is to be compiled and run.
    pub(crate) fn instrumented(&self) -> &[u8] {
        &self.instrumented
    }

    /// The export to be called.
    pub(crate) fn entry(&self) -> String {
        format!("{INIT_EXPORT_PREFIX}{}", self.init)
    }

    /// The module that the instance has become.
    ///
    /// # Errors
    /// That it is larger than a module may be.
    pub(crate) fn snapshot(&self, store: &mut Store<Guest>, instance: Instance) -> Result<Vec<u8>, Rejection> {
        let fits = |found: u64| {
            let (limit, value) = (ModuleLimitName::ModuleBytes, self.max_bytes);
            let item = "the snapshot".to_owned();
            if found > value { Err(Rejection::ModuleLimit { limit, found, value, item }) } else { Ok(()) }
        };
        let memory = instance.get_memory(&mut *store, "__wizer_memory_0");
        let data = memory.map_or(0, |memory| snapshot_bytes(memory.data(&mut *store), self.max_bytes));
        // The code comes on top of it.
        fits(data)?;
        let mut state = State { store, instance };
        let snapshot = now(self.wizer.snapshot(&self.context, &mut state));
        let snapshot = snapshot.map_err(|error| Rejection::Snapshot { message: ending::engine_text(&error) })?;
        fits(snapshot.len() as u64)?;
        Ok(snapshot)
    }
}

/// Whether a valid module exports anything of this name.
fn exports(module: &[u8], name: &str) -> bool {
    let mut sections = Parser::new(0).parse_all(module).filter_map(|payload| match payload {
        Ok(Payload::ExportSection(section)) => Some(section),
        _ => None,
    });
    sections.any(|section| section.into_iter().flatten().any(|export| export.name == name))
}

/// The state of an instance, for wizer to read.
struct State<'a> {
    store: &'a mut Store<Guest>,
    instance: Instance,
}

impl InstanceState for State<'_> {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut *self.store, name).expect("instrumenting exports it");
        match global.get(&mut *self.store) {
            Val::I32(value) => SnapshotVal::I32(value),
            Val::I64(value) => SnapshotVal::I64(value),
            Val::F32(value) => SnapshotVal::F32(value),
            Val::F64(value) => SnapshotVal::F64(value),
            Val::V128(value) => SnapshotVal::V128(value.as_u128()),
            _ => unreachable!("instrumenting refuses mutable globals that are references"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut *self.store, name).expect("instrumenting exports it");
        contents(memory.data(&self.store));
    }
}

/// The result of a future that waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("reading an instance's state waits for nothing"),
    }
}

/// The bytes of all data segments that wizer makes of a memory; at least `most` and one more if it is more than that.
///
/// What lies between zeros is a segment. Those a few bytes apart are one, and of so many that there would be too many,
/// those with the smallest gaps.
fn snapshot_bytes(memory: &[u8], most: u64) -> u64 {
    let mut total = 0_u64;
    let mut gaps: Vec<u32> = Vec::new();
    let mut last_end = None;
    let mut at = 0;
    while let Some(start) = next(memory, at, |byte| byte != 0) {
        let end = next(memory, start, |byte| byte == 0).unwrap_or(memory.len());
        total += (end - start) as u64;
        if let Some(last) = last_end {
            let gap = start - last;
            if gap <= SEGMENT_BYTES {
                total += gap as u64;
            } else {
                total += SEGMENT_BYTES as u64;
                gaps.push(u32::try_from(gap).unwrap_or(u32::MAX));
            }
        }
        if total > most {
            return total;
        }
        last_end = Some(end);
        at = end;
    }
    let excess = (gaps.len() + 1).saturating_sub(MAX_SEGMENTS);
    if excess > 0 && excess <= gaps.len() {
        gaps.select_nth_unstable(excess - 1);
        total += gaps[..excess].iter().map(|gap| u64::from(*gap) - SEGMENT_BYTES as u64).sum::<u64>();
    }
    total
}

/// The first position from `at` on of a byte that `is` so.
fn next(memory: &[u8], at: usize, is: impl Fn(u8) -> bool) -> Option<usize> {
    /// How far is looked byte by byte, and what is looked at as a whole after that.
    const NEAR: usize = 16;
    const STEP: usize = 256;
    let rest = &memory[at..];
    let (near, far) = rest.split_at(rest.len().min(NEAR));
    if let Some(position) = near.iter().position(|byte| is(*byte)) {
        return Some(at + position);
    }
    let mut passed = at + near.len();
    for step in far.chunks(STEP) {
        // Without a way out in the middle the compiler looks at many at once.
        if step.iter().fold(false, |found, byte| found | is(*byte)) {
            return step.iter().position(|byte| is(*byte)).map(|position| passed + position);
        }
        passed += step.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: usize, written: &[(usize, usize)]) -> Vec<u8> {
        let mut memory = vec![0; bytes];
        for (start, length) in written {
            memory[*start..start + length].fill(1);
        }
        memory
    }

    #[test]
    fn segments_are_what_lies_between_zeros() {
        assert_eq!(snapshot_bytes(&memory(65_536, &[]), 1000), 0);
        assert_eq!(snapshot_bytes(&memory(65_536, &[(0, 10), (65_526, 10)]), 1000), 24);
        // Four zeros are kept, five are left out.
        assert_eq!(snapshot_bytes(&memory(65_536, &[(1000, 1), (1005, 1)]), 1000), 6);
        assert_eq!(snapshot_bytes(&memory(65_536, &[(1000, 1), (1006, 1)]), 1000), 6);
        assert_eq!(snapshot_bytes(&memory(65_536, &[(1000, 1), (2000, 1)]), 1000), 6);
        assert!(snapshot_bytes(&memory(65_536, &[(0, 65_536)]), 1000) > 1000);
    }

    #[test]
    fn of_many_segments_the_nearest_are_one() {
        // One byte in 64, and one gap that is larger than all others.
        let written: Vec<(usize, usize)> = (0..20_000).map(|n| (64 * n, 1)).collect();
        let bytes = snapshot_bytes(&memory(2 << 20, &written), u64::MAX);
        let (segments, joined) = (10_000, 10_000);
        assert_eq!(bytes, 20_000 + joined * 63 + (segments - 1) * 4);
    }
}
