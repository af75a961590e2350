//! One engine configuration for both roles: what the compiler emits is what the worker loads.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

/// Bytes of stack that a guest may use.
pub(crate) const MAX_WASM_STACK_BYTES: usize = 1 << 20;

/// Stack of a thread that runs guests: theirs, and ample room for host functions below it. A guest that finds less than
/// [`MAX_WASM_STACK_BYTES`] would end the process instead of itself.
pub(crate) const EXECUTOR_STACK_BYTES: usize = MAX_WASM_STACK_BYTES + (2 << 20);

/// Most tables of a module.
pub(crate) const MAX_TABLES: usize = 2;

/// Most elements of a table, whatever the limits of an execution say. The pool sets this much address space aside, so it
/// cannot be had without a bound.
const MAX_TABLE_ELEMENTS: usize = 1_000_000;

/// The engine of a worker, with room for this many instances set aside.
///
/// Measured: an instance of a module with 17 pages and one data segment is made, run and freed in 8.5 µs from the pool and
/// in 32 µs without; the pool itself takes less than 0.1 ms, for 1 instance as for 64. Keeping freed pages resident made
/// it slower: zeroing 1 MiB takes longer than mapping it anew.
///
/// # Errors
/// When the processor lacks something the configuration needs.
pub(crate) fn for_worker(max_executions: usize) -> wasmtime::Result<Engine> {
    let mut config = config();
    let Ok(instances) = u32::try_from(max_executions) else {
        return Engine::new(&config);
    };
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
    config.allocation_strategy(pool);
    // So many instances that there is no room for all of them: then each is made when it is needed.
    Engine::new(&config).or_else(|_| for_compiler())
}

/// The engine of a compiler, which makes no instances.
///
/// # Errors
/// When the processor lacks something the configuration needs.
pub(crate) fn for_compiler() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// Exactly what rustc emits for `wasm32-wasip1`, and fixed-width SIMD. All else is off, whatever wasmtime's defaults say.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(MAX_WASM_STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        // Guests' debug information is never parsed, whatever the environment says.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .memory_init_cow(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_extended_const(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .wasm_stack_switching(false)
        .wasm_component_model(false);
    config
}

/// Changes whenever artefacts of another engine could not be loaded by this one.
pub(crate) fn compatibility(engine: &Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
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

    #[test]
    fn every_engine_of_one_build_loads_what_the_compiler_makes() {
        let compiler = compatibility(&for_compiler().unwrap());
        assert_eq!(compiler.len(), 64);
        for max_executions in [1, 64, 1_000_000] {
            assert_eq!(compatibility(&for_worker(max_executions).unwrap()), compiler);
        }
    }
}
