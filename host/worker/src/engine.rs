//! The engine configurations, the same for both roles: what the compiler emits is what the worker loads.
//!
//! There is one engine per [`Codegen`]. A worker makes that of the default when it starts and another when it is first
//! needed; that needs nothing which a locked-down process is refused.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use sandgate_wire::message::Codegen;
use sha2::{Digest, Sha256};
use wasmtime::{Config, Enabled, Engine, Linker, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::guest::Guest;
use crate::imports;

/// Changes whenever artefacts mean something else although wasmtime's own hash stays: with the rewriting of modules, and
/// with the configurations of engines that are not the default's.
const REVISION: &str = "sandgate 2";

/// The least and the most stack of a guest; between them, powers of two.
const MIN_WASM_STACK_BYTES: u64 = 64 << 10;
const MAX_WASM_STACK_BYTES: u64 = 8 << 20;

/// Stack of an executor beyond what its guest may use: ample room for host functions. A guest that finds less than its own
/// would end the process instead of itself.
const HOST_STACK_BYTES: usize = 2 << 20;

/// Most tables of a module.
pub(crate) const MAX_TABLES: usize = 2;

/// Most elements of a table, whatever the limits of an execution say. The pool sets this much address space aside, so it
/// cannot be had without a bound.
const MAX_TABLE_ELEMENTS: usize = 1_000_000;

/// The engines of one worker.
pub(crate) struct Engines {
    max_executions: usize,
    stack_bytes: usize,
    interruptible: Serving,
    metered: OnceLock<Serving>,
    unchecked: OnceLock<Serving>,
}

/// An engine and all that guests can import from it.
pub(crate) struct Serving {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
}

impl Engines {
    /// With room for this many instances set aside, and this much stack for each of them, rounded up to a power of two.
    ///
    /// # Errors
    /// When the processor lacks something the configuration needs.
    pub(crate) fn new(max_executions: usize, stack_bytes: u64) -> wasmtime::Result<Engines> {
        let stack_bytes = rounded_stack(stack_bytes);
        Ok(Engines {
            max_executions,
            stack_bytes,
            interruptible: Serving::new(Codegen::Interruptible, max_executions, stack_bytes)?,
            metered: OnceLock::new(),
            unchecked: OnceLock::new(),
        })
    }

    /// The engine that runs what was compiled in this way, made if this is its first use.
    pub(crate) fn get(&self, codegen: Codegen) -> &Serving {
        let made = match codegen {
            Codegen::Interruptible => return &self.interruptible,
            Codegen::Metered => &self.metered,
            Codegen::Unchecked => &self.unchecked,
        };
        made.get_or_init(|| match Serving::new(codegen, self.max_executions, self.stack_bytes) {
            Ok(serving) => serving,
            // The default's, which asks for the same of the processor, could be made.
            Err(error) => crate::process::abort(&format!("no engine for {} code: {error:#}", codegen.name())),
        })
    }

    /// Makes the guests of every engine look whether they are to stop.
    ///
    /// An engine that is made just now is no matter: its guests look once more when they have armed their stop.
    pub(crate) fn increment_epochs(&self) {
        self.interruptible.engine.increment_epoch();
        for serving in [&self.metered, &self.unchecked].into_iter().filter_map(OnceLock::get) {
            serving.engine.increment_epoch();
        }
    }

    /// Stack of a thread that runs guests.
    pub(crate) fn thread_stack_bytes(&self) -> usize {
        self.stack_bytes + HOST_STACK_BYTES
    }
}

impl Serving {
    fn new(codegen: Codegen, max_executions: usize, stack_bytes: usize) -> wasmtime::Result<Serving> {
        let engine = pooled(codegen, max_executions, stack_bytes)?;
        Ok(Serving { linker: imports::linker(&engine)?, engine })
    }
}

/// The engine of a worker, with a pool for so many instances.
pub(crate) fn pooled(codegen: Codegen, max_executions: usize, stack_bytes: usize) -> wasmtime::Result<Engine> {
    let mut config = config(codegen);
    // Nothing runs on a stack of the engine's own, but it checks that its guests would fit there.
    config.max_wasm_stack(stack_bytes).async_stack_size(stack_bytes.max(2 << 20));
    let on_demand = config.clone();
    let Some(pool) = pool(max_executions) else { return Engine::new(&config) };
    config.allocation_strategy(pool);
    // So many instances that there is no room for all of them: then each is made when it is needed.
    Engine::new(&config).or_else(|_| Engine::new(&on_demand))
}

/// The stack that a guest which asks for so much is given.
fn rounded_stack(bytes: u64) -> usize {
    let rounded = bytes.clamp(MIN_WASM_STACK_BYTES, MAX_WASM_STACK_BYTES).next_power_of_two();
    usize::try_from(rounded).unwrap_or(1 << 20)
}

/// What of a memory, and of each table, stays mapped between two instances if the kernel can say which pages were written
/// to. What was written beyond it is mapped anew.
const KEPT_MEMORY_BYTES: usize = 1 << 20;
const KEPT_TABLE_BYTES: usize = 64 << 10;

/// Measured: an instance of a module with 17 pages and one data segment is made, run and freed in 8.5 µs from the pool and
/// in 32 µs without; the pool itself takes less than 0.1 ms, for 1 instance as for 64.
///
/// Pages that a guest has written to are set back in place, which saves the next guest as many faults, and this process
/// the interrupts that taking pages away sends to its other processors. That needs a kernel which says which pages these
/// are (Linux 6.7): to set back all that there might be takes longer than to map it anew.
fn pool(max_executions: usize) -> Option<PoolingAllocationConfig> {
    let instances = u32::try_from(max_executions).ok()?;
    let tables = u32::try_from(MAX_TABLES).unwrap_or(1);
    let mut pool = PoolingAllocationConfig::new();
    // Sizes and guards of memories stay at their defaults, which are the best tried ones.
    pool.total_core_instances(instances)
        .total_memories(instances)
        .total_tables(instances.saturating_mul(tables))
        .total_component_instances(0)
        .total_stacks(0)
        .max_memories_per_module(1)
        .max_tables_per_module(tables)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_core_instance_size(1 << 20)
        .max_unused_warm_slots(instances);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(KEPT_MEMORY_BYTES)
            .table_keep_resident(KEPT_TABLE_BYTES);
    }
    Some(pool)
}

/// The engine of a compiler, which makes no instances.
///
/// # Errors
/// When the processor lacks something the configuration needs.
pub(crate) fn for_compiler(codegen: Codegen) -> wasmtime::Result<Engine> {
    Engine::new(&config(codegen))
}

/// What rustc emits for `wasm32-wasip1`, and every feature that a profile can name. All else is off, whatever wasmtime's
/// defaults say. Which of them a module may use is for its preflight to decide, so that an artefact serves every profile.
fn config(codegen: Codegen) -> Config {
    let metered = codegen == Codegen::Metered;
    let mut config = Config::new();
    config
        .epoch_interruption(codegen != Codegen::Unchecked)
        .consume_fuel(metered)
        .cranelift_nan_canonicalization(metered)
        .relaxed_simd_deterministic(metered)
        .cranelift_opt_level(OptLevel::Speed)
        // Guests' debug information is never parsed, whatever the environment says.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .memory_init_cow(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_extended_const(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        .wasm_tail_call(true)
        .wasm_wide_arithmetic(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_stack_switching(false)
        .wasm_component_model(false);
    config
}

/// Changes whenever artefacts of another build or for another processor could not be loaded here, in whichever way they
/// were compiled.
pub(crate) fn compatibility(default: &Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    hasher.write(REVISION.as_bytes());
    hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
    default.precompile_compatibility_hash().hash(&mut hasher);
    hexadecimal(&hasher.0.finalize())
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The standard library's hashers promise nothing from one version to the next.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Codegen; 3] = [Codegen::Interruptible, Codegen::Metered, Codegen::Unchecked];

    #[test]
    fn every_engine_of_one_build_loads_what_the_compiler_makes() {
        let compiler = compatibility(&for_compiler(Codegen::Interruptible).unwrap());
        assert_eq!(compiler.len(), 64);
        for (max_executions, stack) in [(1, 0), (64, 1 << 20), (1_000_000, u64::MAX)] {
            let engines = Engines::new(max_executions, stack).unwrap();
            assert_eq!(compatibility(&engines.get(Codegen::Interruptible).engine), compiler);
        }
        let engines = Engines::new(1, 1 << 20).unwrap();
        for made in ALL {
            let artefact = for_compiler(made).unwrap().precompile_module(b"\0asm\x01\0\0\0").unwrap();
            for used in ALL {
                let descriptor = crate::tests::host::memory_file(&artefact, true);
                let loaded = crate::artefact::load(&engines.get(used).engine, descriptor, artefact.len() as u64);
                assert_eq!(loaded.is_ok(), made == used, "{made:?} in {used:?}");
            }
        }
    }

    #[test]
    fn stacks_are_powers_of_two() {
        for (asked, given) in [
            (0, 64 << 10),
            (64 << 10, 64 << 10),
            ((64 << 10) + 1, 128 << 10),
            (1 << 20, 1 << 20),
            (5 << 20, 8 << 20),
            (u64::MAX, 8 << 20),
        ] {
            assert_eq!(rounded_stack(asked), given, "{asked}");
        }
    }
}
