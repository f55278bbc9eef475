//! GGUF files of every family, made by llama.cpp's own script, are the networks that they were made
//! of: the same bits in every logit and every element of an embedding.
//!
//! `ci/gguf_families.sh` makes the files and sets `GGUF_FAMILIES` to where they are.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};

use qruntime::{Network, SessionOptions};
use serde_json::Value;
use support::expected::Expected;
use support::unpacked;

/// Returns the folders of families, if they have been made.
fn made() -> Option<Vec<PathBuf>> {
    let Some(folder) = std::env::var_os("GGUF_FAMILIES") else {
        eprintln!("not run: GGUF_FAMILIES is not set (ci/gguf_families.sh)");
        return None;
    };
    let mut folders: Vec<PathBuf> = Path::new(&folder).read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 20, "{folders:?}");
    Some(folders)
}

/// Returns the bits of all outputs of a network for some inputs.
fn outputs(folder: &Path, inputs: &[Vec<u32>]) -> Vec<u32> {
    let mut outputs = Vec::new();
    match Network::open(folder).unwrap() {
        Network::CausalLm(lm) => {
            for ids in inputs {
                let mut session = lm.session_with(SessionOptions::default().context(ids.len()));
                session.feed_each(ids, |_, logits| outputs.extend(logits.iter().map(|x| x.to_bits()))).unwrap();
            }
        }
        Network::Encoder(encoder) => {
            outputs.extend(encoder.embed_ids(inputs).unwrap().iter().map(|x| x.to_bits()));
        }
        other => panic!("{other:?}"),
    }
    outputs
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn files_of_llama_cpp_give_the_bits_of_their_folders() {
    for family in made().unwrap_or_default() {
        let name = family.file_name().unwrap().to_str().unwrap();
        let inputs = Expected::read(family.join("hf/expected.safetensors")).sequences();
        let expected = outputs(&family.join("hf"), &inputs);
        assert!(expected.len() > 30, "{name}");
        for file in ["f32.gguf", "f16.gguf"] {
            let folder = unpacked::folder(&family.join(file));
            assert!(outputs(folder.path(), &inputs) == expected, "{name}: {file}");
        }
    }
}

/// Fields that both files have say the same. Others are families' defaults, or rotations and
/// windows, which have several ways to be said; the test of outputs covers them.
#[test]
fn fields_of_configs_come_back_from_llama_cpp() {
    for family in made().unwrap_or_default() {
        let name = family.file_name().unwrap().to_str().unwrap();
        let folder = unpacked::folder(&family.join("f16.gguf"));
        let theirs = json(family.join("hf/config.json"));
        let ours = json(folder.path().join("config.json"));
        let mut same = 0;
        for (field, value) in theirs.as_object().unwrap() {
            // Mistral without a window is a Llama; a head that is there is used.
            let is_other = matches!(field.as_str(), "model_type" | "architectures") && name == "mistral"
                || field == "tie_word_embeddings" && name == "llama-own-head";
            match ours.get(field) {
                Some(found) if !is_other && !value.is_object() => {
                    let number = |value: &Value| value.as_f64();
                    let equal = number(found).map_or(found == value, |found| Some(found) == number(value));
                    assert!(equal, "{name}: {field}: {found}, expected {value}");
                    same += 1;
                }
                _ => {}
            }
        }
        assert!(same >= 12, "{name}: {same}");
        let generation = json(folder.path().join("generation_config.json"));
        let expected = json(family.join("hf/generation_config.json"));
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&generation[field], value, "{name}: {field}");
        }
    }
}
