//! Modules of any bytes, and well-formed ones of any features, before they are compiled.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use wasm_smith::{Config, Module};

fuzz_target!(
    init: sandgate_fuzz::plant("preflight", sandgate_worker::fuzzing::preflight_seeds()),
    |input: &[u8]| {
        // An even first byte: the module itself. An odd one: what a module is made from.
        match input {
            [] => {}
            [kind, module @ ..] if kind % 2 == 0 => sandgate_worker::fuzzing::preflight(module),
            [_, source @ ..] => {
                if let Ok(module) = smith(&mut Unstructured::new(source)) {
                    sandgate_worker::fuzzing::preflight(&module);
                }
            }
        }
    }
);

fn smith(source: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let mut config: Config = source.arbitrary()?;
    // Else next to every module is refused for its first import.
    config.max_imports = if source.ratio(1, 8)? { 2 } else { 0 };
    config.min_imports = 0;
    Ok(Module::new(config, source)?.to_bytes())
}
