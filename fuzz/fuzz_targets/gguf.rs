//! Any bytes: a GGUF file whose keys and tensors can be read, or an error.

#![no_main]

mod read_gguf;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    read_gguf::read_gguf(file);
});
