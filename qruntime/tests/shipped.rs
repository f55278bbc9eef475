//! The model in this repository, end to end: every machine computes these bits. The program
//! contains the model's files, so it also runs where there are none (`ci/emulate.sh`).

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use kernels::{Format, Isa};
use qruntime::{CausalLm, SessionOptions};
use support::models::packed_model;
use xxhash_rust::xxh3::Xxh3;

const CONFIG: &str = include_str!("../../models/storyteller-6m/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../models/storyteller-6m/model.safetensors");

/// "Once upon a time, there was a little girl named Lily."
const STORY: [u32; 14] = [0, 634, 537, 259, 475, 12, 416, 297, 259, 426, 565, 882, 654, 14];

/// Hashes of all logits after all tokens, with plain weights and packed. They change only with the
/// definitions in `docs/quantization.md`.
const EXPECTED: [(Option<Format>, u64); 2] =
    [(None, 0xc15c_9601_60bd_ff53), (Some(Format::Q4K), 0xc4ee_fde1_747e_4e6e)];

#[test]
fn every_machine_computes_these_bits() {
    let isas: Vec<Isa> = Isa::available().collect();
    println!("run: {isas:?}");
    let plain = tempfile::tempdir().unwrap();
    fs::write(plain.path().join("config.json"), CONFIG).unwrap();
    fs::write(plain.path().join("model.safetensors"), WEIGHTS).unwrap();
    let mut found = Vec::new();
    for (format, expected) in EXPECTED {
        let packed = format.map(|format| packed_model(plain.path(), format));
        let lm = CausalLm::open(packed.as_ref().unwrap_or(&plain).path()).unwrap();
        for &isa in &isas {
            let mut hash = Xxh3::new();
            // A whole block and a part of one.
            let mut session = lm.clone().with_isa(isa).session_with(SessionOptions::default().block(9));
            let all = |_, logits: &[f32]| logits.iter().for_each(|x| hash.update(&x.to_bits().to_le_bytes()));
            session.feed_each(&STORY, all).unwrap();
            if hash.digest() != expected {
                found.push((format, isa, format!("{:#018x}", hash.digest())));
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}
