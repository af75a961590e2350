//! What a host reads from an agent, which says anything.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("link_agent", sandgate::fuzzing::link_agent_seeds()),
    |input: &[u8]| sandgate::fuzzing::link_agent(input)
);
