//! A worker that says anything at all to a host whose users go on using their channels.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: sandgate_fuzz::plant("host_messages", sandgate::fuzzing::host_messages_seeds()),
    |input: &[u8]| sandgate::fuzzing::host_messages(input)
);
