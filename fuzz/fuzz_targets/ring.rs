//! A host's end of the rings, while a peer writes anything into the memory that both share.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("ring", sandgate_wire::ring::fuzzing::ring_seeds()),
    |input: &[u8]| sandgate_wire::ring::fuzzing::ring(input)
);
