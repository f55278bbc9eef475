//! Replays the corpus of the fuzz target `open_model`: seeds, and every file that once crashed it.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../fuzz/fuzz_targets/exercise.rs"]
mod exercise;
mod support;

use std::fs;

use kernels::Format;
use qruntime::Dtype;
use qruntime::container::Storage;
use serde_json::{Value, json};
use support::{Random, assembled, packed, small_file, written};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/open_model");

#[test]
fn no_file_of_the_corpus_does_harm() {
    let mut opened = 0;
    for file in fs::read_dir(CORPUS).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        opened += usize::from(exercise::exercise(&fs::read(file).unwrap()).is_some());
    }
    assert!(opened >= 4 + Format::ALL.len(), "{opened} files of the corpus opened");
}

/// Files from which fuzzing starts.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let plain = r#"{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"F4","shape":[2],"data_offsets":[8,9]}}"#;
    let experts = [("experts", Format::Q4_0, [2, 3, 32]), ("more.weight", Format::Q4K, [3, 2, 300])].map(
        |(name, format, shape)| {
            (name.to_owned(), Storage::Packed(format), shape.to_vec(), packed(&mut Random(2), format, &shape))
        },
    );
    let mut seeds = vec![
        ("small".to_owned(), small_file()),
        ("plain".to_owned(), assembled(plain, &[0x3f; 9])),
        ("experts".to_owned(), written(&experts, Value::Null)),
        ("no_tensors".to_owned(), written(&[], json!({"source": "seed"}))),
    ];
    for &format in Format::ALL {
        let shape = vec![17, format.block_len() + 1];
        let weight = packed(&mut Random(3), format, &shape);
        let layer = [
            ("layer.weight".to_owned(), Storage::Packed(format), shape, weight),
            ("layer.bias".to_owned(), Storage::Plain(Dtype::F16), vec![17], vec![0x3c; 34]),
        ];
        seeds.push((format!("layer_{format}"), written(&layer, Value::Null)));
    }
    seeds
}

#[test]
#[ignore = "writes into the source tree; run it when a format is new"]
fn write_the_seeds() {
    for (name, file) in seeds() {
        fs::write(format!("{CORPUS}/{name}.safetensors"), file).unwrap();
    }
}
