#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| holdfast_fuzz::http_response::run(input));
