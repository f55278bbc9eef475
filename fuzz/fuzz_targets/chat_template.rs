//! Any bytes as a chat template and a conversation: nothing panics, hangs or takes memory out of
//! proportion.

#![no_main]

mod converse;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    converse::converse(bytes);
});
