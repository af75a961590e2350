//! What an agent reads from a host, which says anything.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("link_host", sandgate::fuzzing::link_host_seeds()),
    |input: &[u8]| sandgate::fuzzing::link_host(input)
);
