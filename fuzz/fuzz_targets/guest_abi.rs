//! A stub.
#![no_main]
use libfuzzer_sys::fuzz_target;
fuzz_target!(|input: &[u8]| { std::hint::black_box((input, sandgate_worker::run_if_worker as fn())); });
