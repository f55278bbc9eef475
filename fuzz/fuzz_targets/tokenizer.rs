//! Any bytes as a tokenizer and a text: nothing panics, hangs or takes memory out of proportion.

#![no_main]

mod tokenize;

use std::sync::Once;

use libfuzzer_sys::fuzz_target;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // The crate panics where it could return an error; the runtime turns that into one. The
    // fuzzer's own hook would end the process before. A panic that comes through ends it all the
    // same.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    tokenize::tokenize(bytes);
});
