//! A guest that calls every host function there is with numbers of any kind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("guest_abi", sandgate_worker::fuzzing::guest_abi_seeds()),
    |input: &[u8]| sandgate_worker::fuzzing::guest_abi(input)
);
