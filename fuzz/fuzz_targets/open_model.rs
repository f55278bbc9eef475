//! Any bytes: a model that can be read to the last weight, or an error. Where the crate
//! `safetensors` opens the file too, it finds the same tensors.

#![no_main]

mod exercise;

use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|file: &[u8]| {
    if let Some(model) = exercise::exercise(file) {
        let Ok(other) = SafeTensors::deserialize(file) else { return };
        assert_eq!(model.tensors().count(), other.len());
        assert!(model.tensors().all(|entry| other.tensor(entry.name()).is_ok_and(|t| t.data().len() == entry.bytes())));
    }
});
