#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_edge::fuzz::token(bytes));
