//! GGUF files of every family, made by llama.cpp's own script, are the networks that they were made
//! of: the same bits in every logit and every element of an embedding.
//!
//! `ci/gguf_families.sh` makes the files and sets `GGUF_FAMILIES` to where they are. The tiny
//! models of this repository go the whole way round: to GGUF and back.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qruntime::gguf::{About, Array, Gguf, Stored, Value as Found, metadata_of, stored};
use qruntime::{Error, Model, Network, SessionOptions};
use serde_json::{Map, Value};
use support::expected::Expected;
use support::gguf::{ARRAY, BOOL, GgufFile, I32, array};
use support::models::{copy, families};
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

/// Makes a GGUF file of a folder, all tensors in single precision.
fn made_of(folder: &Path) -> Result<GgufFile, Error> {
    let read = |name: &str| Ok(std::fs::read(folder.join(name)).ok());
    let description = metadata_of(&read, &About::default())?;
    let model = Model::read(folder).unwrap();
    let entries: Vec<(&str, &[usize])> = model.tensors().map(|entry| (entry.name(), entry.shape())).collect();
    let (tensors, unused) = stored(&std::fs::read(folder.join("config.json")).unwrap(), &entries)?;
    let unused: Vec<&str> = unused.into_iter().map(|tensor| entries[tensor].0).collect();
    assert!(unused.iter().all(|name| name.starts_with("pooler.")), "{unused:?}");
    let mut file = GgufFile::default();
    for (key, value) in &description.values {
        file = match value {
            Found::Unsigned(number) => file.number(key, u32::try_from(*number).unwrap()),
            Found::Signed(number) => file.value(key, I32, &i32::try_from(*number).unwrap().to_le_bytes()),
            Found::Float(number) => file.float(key, *number as f32),
            Found::Bool(flag) => file.flag(key, *flag),
            Found::Text(text) => file.text(key, text),
            Found::Array(Array::Bools(flags)) => {
                let flags: Vec<Vec<u8>> = flags.iter().map(|flag| vec![(*flag).into()]).collect();
                file.value(key, ARRAY, &array(BOOL, &flags))
            }
            other => panic!("{key}: {other:?}"),
        };
    }
    for (name, factors) in &description.tensors {
        file = file.plain(name, &[factors.len()], factors);
    }
    for Stored { name, shape, parts, add, .. } in &tensors {
        let mut all = Vec::new();
        for part in parts {
            let elements = model.plain(entries[part.tensor].0).unwrap().to_f32().unwrap();
            let rows_of = entries[part.tensor].1;
            let row_len = if rows_of.len() < 2 { 1 } else { rows_of[rows_of.len() - 1] };
            for row in 0..part.rows.len() {
                let first = (part.rows.start + part.order.row_in_checkpoint(row, part.rows.len())) * row_len;
                all.extend(elements[first..first + row_len].iter().map(|x| x + add));
            }
        }
        file = file.plain(name, shape, &all);
    }
    Ok(file)
}

/// Every key of a network that llama.cpp's script writes has the same value in ours.
#[test]
fn metadata_say_what_llama_cpp_says() {
    for family in made().unwrap_or_default() {
        let name = family.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(family.join("f16.gguf")).unwrap();
        let theirs = Gguf::parse(&bytes).unwrap();
        let file = made_of(&family.join("hf")).unwrap().bytes();
        let ours = Gguf::parse(&file).unwrap();
        let mut same = 0;
        for (key, value) in theirs.metadata().iter() {
            let is_network = key.starts_with(theirs.metadata().architecture().unwrap());
            // It says that all heads see all positions even where they do not.
            let is_other = key == "bert.attention.causal";
            if (is_network || key.starts_with("general.sampling.")) && !is_other {
                assert_eq!(ours.metadata().get(key), Some(value), "{name}: {key}");
                same += 1;
            }
        }
        assert!(same >= 10, "{name}: {same}");
        let tensors = |gguf: &Gguf| {
            let tensors = gguf.tensors().iter().map(|tensor| (tensor.name().to_owned(), tensor.shape().to_vec()));
            tensors.collect::<BTreeMap<String, Vec<usize>>>()
        };
        assert_eq!(tensors(&ours), tensors(&theirs), "{name}");
    }
}

/// Models that GGUF cannot say, the words that name why, and what could be said instead.
const REFUSED: [(&str, &str, &str); 9] = [
    ("gemma2", "\"query_pre_attn_scalar\": 20, expected 24", r#"{"query_pre_attn_scalar": 24}"#),
    ("gemma3", "\"query_pre_attn_scalar\": 20, expected 24", r#"{"query_pre_attn_scalar": 24}"#),
    ("gemma3-capped", "\"query_pre_attn_scalar\": 20, expected 24", r#"{"query_pre_attn_scalar": 24}"#),
    ("gemma3-new-config", "\"query_pre_attn_scalar\": 20, expected 24", r#"{"query_pre_attn_scalar": 24}"#),
    ("qwen2-moe-fused", "\"norm_topk_prob\": true, expected false", r#"{"norm_topk_prob": false}"#),
    ("qwen2-moe-window", "\"mlp_only_layers\": layers without experts", ""),
    ("qwen3-moe", "\"mlp_only_layers\": layers without experts", ""),
    ("qwen3-moe-default-heads", "\"norm_topk_prob\": false, expected true", r#"{"norm_topk_prob": true}"#),
    ("qwen3-moe-fused", "\"norm_topk_prob\": false, expected true", r#"{"norm_topk_prob": true}"#),
];

#[test]
fn families_come_back_from_gguf_bit_for_bit() {
    for (name, path) in families() {
        let inputs = Expected::read(path.join("expected.safetensors")).sequences();
        let folder = tempfile::tempdir().unwrap();
        copy(&path, folder.path());
        let mut made = made_of(folder.path());
        if let Some((_, expected, instead)) = REFUSED.iter().find(|(refused, ..)| *refused == name) {
            let Err(error) = made else { panic!("{name}: made") };
            let error = error.to_string();
            assert!(error.contains(expected), "{name}: {error}");
            if instead.is_empty() {
                continue;
            }
            let mut config = json(path.join("config.json"));
            let instead: Map<String, Value> = serde_json::from_str(instead).unwrap();
            config.as_object_mut().unwrap().extend(instead);
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            made = made_of(folder.path());
        }
        let file = made.unwrap_or_else(|error| panic!("{name}: {error}"));
        let gguf = folder.path().join("model.gguf");
        std::fs::write(&gguf, file.bytes()).unwrap();
        let back = unpacked::folder(&gguf);
        // Files do not say whether vectors are scaled to length 1, and ours are when they come
        // back.
        if let Ok(modules) = std::fs::read(folder.path().join("modules.json")) {
            std::fs::write(back.path().join("modules.json"), modules).unwrap();
        }
        assert!(outputs(back.path(), &inputs) == outputs(folder.path(), &inputs), "{name}");
    }
}
