//! One engine configuration for both roles: what the compiler emits is what the worker loads.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, OptLevel, WasmBacktraceDetails};

/// Bytes of stack that a guest may use.
pub(crate) const MAX_WASM_STACK_BYTES: usize = 1 << 20;

/// Stack of a thread that runs guests: theirs, and ample room for host functions below it. A guest that finds less than
/// [`MAX_WASM_STACK_BYTES`] would end the process instead of itself.
pub(crate) const EXECUTOR_STACK_BYTES: usize = MAX_WASM_STACK_BYTES + (2 << 20);

/// The engine of this process.
///
/// # Errors
/// When the processor lacks something the configuration needs.
pub(crate) fn new() -> wasmtime::Result<Engine> {
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
    fn every_engine_of_one_build_is_the_same() {
        let one = compatibility(&new().unwrap());
        assert_eq!(one, compatibility(&new().unwrap()));
        assert_eq!(one.len(), 64);
    }
}
