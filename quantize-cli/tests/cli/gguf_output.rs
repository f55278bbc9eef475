//! GGUF files as output.

use std::fs;

use qruntime::gguf::{Gguf, Value};
use qruntime::{Model, Network};

use super::*;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m");

/// Rows of queries and keys change their order twice, and nothing else changes.
#[test]
fn a_model_goes_through_a_gguf_file_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for to in ["q4_0", "q4_k", "iq4_nl"] {
        let [file, back, direct] = ["model.gguf", "back", "direct"].map(|name| folder.path().join(to).join(name));
        fs::create_dir(folder.path().join(to)).unwrap();
        ok(&["convert", MODEL, text(&file), "--to", to, "-q"]);
        ok(&["convert", text(&file), text(&back), "-q"]);
        ok(&["convert", MODEL, text(&direct), "--to", to, "-q"]);
        let (back, direct) = (Model::read(back).unwrap(), Model::read(direct).unwrap());
        let names = |model: &Model| model.tensors().map(|tensor| tensor.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&back), names(&direct));
        let mut packed = 0;
        for name in names(&direct) {
            let Ok(expected) = direct.packed(&name) else {
                // Norms, in single precision.
                let values = |model: &Model| model.plain(&name).unwrap().to_f32().unwrap();
                assert_eq!(values(&back), values(&direct), "{name}");
                continue;
            };
            let found = back.packed(&name).unwrap();
            assert_eq!(found.format(), expected.format(), "{name}");
            assert_eq!(found.matrix(0).as_bytes(), expected.matrix(0).as_bytes(), "{name}");
            packed += 1;
        }
        assert!(packed > 40, "{packed}");
    }
}

#[test]
fn a_gguf_file_says_what_the_folder_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("story.gguf");
    ok(&["convert", MODEL, text(&file), "--to", "q8_0", "-q"]);
    let gguf = Gguf::open(&file).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.architecture().unwrap(), "llama");
    for (key, value) in [
        ("general.file_type", Value::Unsigned(7)),
        ("general.quantization_version", Value::Unsigned(2)),
        ("llama.embedding_length", Value::Unsigned(256)),
        ("tokenizer.ggml.model", Value::Text("gpt2".into())),
    ] {
        assert_eq!(metadata.get(key), Some(&value), "{key}");
    }
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight"] {
        assert!(gguf.tensors().iter().any(|tensor| tensor.name() == name), "{name}");
    }
    // The same answer as the folder's, in the same precision.
    let out = folder.path().join("story");
    ok(&["convert", MODEL, text(&out), "--to", "q8_0", "-q"]);
    let answer = |model: &Path| {
        ok(&["run", text(model), "--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "40"])
    };
    assert_eq!(answer(&file), answer(&out));
    assert!(matches!(Network::open(&file), Ok(Network::CausalLm(_))));

    // Only what this program wrote is replaced.
    assert!(refused(&["convert", MODEL, text(&file), "-q"]).contains("--force replaces it"));
    ok(&["convert", MODEL, text(&file), "-q", "--force"]);
    fs::write(&file, b"GGUF is not what this is").unwrap();
    assert!(refused(&["convert", MODEL, text(&file), "-q", "--force"]).contains("not a model that quantize wrote"));
}

#[test]
fn what_a_gguf_file_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let weights = Path::new(MODEL).join("model.safetensors");
    let message = refused(&["convert", text(&weights), text(&file)]);
    assert!(message.contains("no config.json, which a GGUF file is made of"), "{message}");
    assert!(!file.exists());
}
