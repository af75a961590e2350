//! Files of any content where the host's cache keeps artefacts.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("artefact_cache", sandgate::fuzzing::artefact_cache_seeds()),
    |input: &[u8]| sandgate::fuzzing::artefact_cache(input)
);
