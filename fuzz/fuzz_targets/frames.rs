//! Arbitrary bytes in arbitrary parts, through the frame reader and the decoders of both directions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("frames", sandgate_wire::fuzzing::frames_seeds()),
    |input: &[u8]| sandgate_wire::fuzzing::frames(input)
);
