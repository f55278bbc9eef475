//! A folder whose `config.json` does not match its tensors or cannot be run is refused: the error
//! names the file, the field or the tensor, what was found and what was expected.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;

use qruntime::container::Storage;
use qruntime::names::Part;
use qruntime::{CausalLm, Dtype, Encoder, Error, FileErrorKind, Model, Network, names_of};
use serde_json::{Value, json};
use support::models::{copy, families};
use support::written;
use tempfile::TempDir;

/// Copies one of the tiny models with changes to the fields of one of its files: null removes a
/// field.
fn changed(family: &str, file: &str, changes: &Value) -> TempDir {
    let (_, source) = families().find(|(name, _)| name == family).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy(&source, folder.path());
    let file = folder.path().join(file);
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    fs::write(file, config.to_string()).unwrap();
    folder
}

/// Opens a changed model, which must be refused with a message that ends with `expected`.
fn refuse(family: &str, changes: Value, expected: &str) {
    let folder = changed(family, "config.json", &changes);
    let error = CausalLm::open(folder.path()).unwrap_err();
    let Error::File(file) = &error else { panic!("{changes}: {error}") };
    let is_long = expected.starts_with("bytes, expected at most");
    let kind = if is_long { FileErrorKind::TooLong } else { FileErrorKind::Network };
    assert_eq!(file.kind(), kind, "{changes:.100}: {error}");
    assert!(file.path().is_some_and(|path| path.starts_with(folder.path())), "{changes}: {error}");
    assert!(error.to_string().ends_with(expected), "{changes}: {error}\nexpected {expected}");
}

#[test]
fn sizes_are_within_reason() {
    let whole = "a whole number from 1 to 262144";
    for (field, most) in [
        ("hidden_size", 1 << 18),
        ("num_attention_heads", 1 << 18),
        ("intermediate_size", 1 << 18),
        ("vocab_size", 1 << 24),
        ("max_position_embeddings", 1 << 24),
        ("num_key_value_heads", 1 << 18),
    ] {
        let whole = format!("a whole number from 1 to {most}");
        for value in [json!(0), json!(-1), json!(1u64 << 40), json!(u64::MAX), json!(1e300), json!(2.5), json!("2")] {
            refuse("llama", json!({field: value}), &format!("\"{field}\": {value}, expected {whole}"));
        }
        for (value, shown) in [(json!([1]), "a list of 1"), (json!({"a": 1}), "an object of 1 fields")] {
            refuse("llama", json!({field: value}), &format!("\"{field}\": {shown}, expected {whole}"));
        }
    }
    refuse("llama", json!({"hidden_size": null}), &format!("\"hidden_size\": missing, expected {whole}"));
    let layers = "\"num_hidden_layers\": 1000000000, expected a whole number from 1 to 4096";
    refuse("llama", json!({"num_hidden_layers": 1_000_000_000}), layers);
    refuse("llama", json!({"head_dim": 4096}), "\"head_dim\": 4096, expected a whole number from 2 to 1024");
    let long = format!("\"num_attention_heads\": \"{}…, expected {whole}", "x".repeat(39));
    refuse("llama", json!({"num_attention_heads": "x".repeat(1000)}), &long);
}

#[test]
fn heads_share_what_there_is() {
    refuse(
        "llama",
        json!({"num_key_value_heads": 3}),
        "\"num_key_value_heads\": 3, expected a divisor of 4, num_attention_heads",
    );
    refuse(
        "llama",
        json!({"num_attention_heads": 6}),
        "\"num_attention_heads\": 6, expected a divisor of 40, hidden_size, with a quotient from 2 to 1024",
    );
    refuse(
        "llama",
        json!({"num_attention_heads": 1 << 16, "head_dim": 1024}),
        "\"num_attention_heads\": 65536, expected at most 256 with heads of 1024",
    );
}

#[test]
fn only_what_is_known_runs() {
    let known = "expected llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, gemma2, gemma3_text, gemma3, phi3, \
                 granite, granitemoe";
    refuse(
        "llama",
        json!({"model_type": "mamba\u{1b}[2J"}),
        &format!("\"model_type\": \"mamba\\u{{1b}}[2J\", {known}"),
    );
    refuse(
        "llama",
        json!({"model_type": null, "architectures": ["Foo"]}),
        &format!("\"architectures\": \"Foo\", {known}"),
    );
    refuse("llama", json!({"model_type": null, "architectures": null}), &format!("\"model_type\": missing, {known}"));
    refuse(
        "llama",
        json!({"hidden_act": "xielu"}),
        "\"hidden_act\": \"xielu\", expected silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, gelu_accurate, \
         gelu_python_tanh, gelu_python, relu",
    );
    refuse(
        "llama",
        json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        "\"rope_scaling.rope_type\": \"dynamic\", expected default, linear, llama3, yarn, longrope, su",
    );
    refuse(
        "qwen2-window",
        json!({"layer_types": ["full_attention", "linear_attention", "full_attention"]}),
        "\"layer_types\": a list of 3, expected 3 of: full_attention, sliding_attention",
    );
}

#[test]
fn rotations_are_numbers() {
    let number = "expected a number from 0.000001 to 1000000";
    for factor in [json!(0.0), json!(-1.0), json!(1e300)] {
        let scaling = json!({"rope_scaling": {"type": "linear", "factor": factor}});
        refuse("llama", scaling, &format!("\"rope_scaling.factor\": {factor}, {number}"));
    }
    refuse(
        "llama",
        json!({"rope_scaling": {"type": "linear"}}),
        &format!("\"rope_scaling.factor\": missing, {number}"),
    );
    refuse(
        "llama",
        json!({"rope_parameters": {"rope_theta": 0.0}}),
        "\"rope_parameters.rope_theta\": 0.0, expected a number from 1 to 1000000000000000",
    );
    refuse(
        "llama",
        json!({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}),
        "\"rope_scaling.high_freq_factor\": 4, expected more than 4, low_freq_factor",
    );
    refuse(
        "phi3",
        json!({"partial_rotary_factor": 0.1}),
        "\"partial_rotary_factor\": 0.1, expected an even part of 16, head_dim",
    );
    refuse(
        "phi3-longrope",
        json!({"rope_scaling": {"type": "su", "short_factor": [1.0, 1.0], "long_factor": [1.0]}}),
        "\"rope_scaling.short_factor\": a list of 2, expected 5 numbers from 0.000001 to 1000000",
    );
}

#[test]
fn mixtures_have_the_experts_that_are_chosen() {
    refuse(
        "mixtral",
        json!({"num_experts_per_tok": 5}),
        "\"num_experts_per_tok\": 5, expected a whole number from 1 to 4",
    );
    refuse("mixtral", json!({"num_local_experts": 1 << 20}), "expected a whole number from 1 to 4096");
    refuse(
        "mixtral",
        json!({"num_local_experts": 5}),
        "tensor \"model.layers.0.block_sparse_moe.experts.4.w1.weight\": missing, expected [24, 32]",
    );
    refuse(
        "granitemoe",
        json!({"num_local_experts": 7}),
        "tensor \"model.layers.0.block_sparse_moe.input_linear.weight\": [6, 40, 32], expected [7, 40, 32]",
    );
}

#[test]
fn tensors_are_those_of_the_config() {
    refuse(
        "llama",
        json!({"intermediate_size": 57}),
        "tensor \"model.layers.0.mlp.gate_proj.weight\": [56, 40], expected [57, 40]",
    );
    refuse("llama", json!({"vocab_size": 62}), "tensor \"model.embed_tokens.weight\": [61, 40], expected [62, 40]");
    refuse("llama", json!({"tie_word_embeddings": false}), "tensor \"lm_head.weight\": missing");
    refuse(
        "llama",
        json!({"num_hidden_layers": 3}),
        "tensor \"model.layers.2.input_layernorm.weight\": missing, expected [40]",
    );
    refuse(
        "llama",
        json!({"attention_bias": true}),
        "tensor \"model.layers.0.self_attn.q_proj.bias\": missing, expected [40]",
    );
    refuse(
        "qwen2-moe",
        json!({"qkv_bias": false}),
        "tensor \"model.layers.0.self_attn.q_proj.bias\": found, expected none",
    );
}

/// The tensors of a model, to be written to a file.
type Tensors = Vec<(String, Storage, Vec<usize>, Vec<u8>)>;

fn tensors_of(folder: &Path) -> Tensors {
    let model = Model::read(folder).unwrap();
    let tensor = |entry: qruntime::container::Entry| {
        let bytes = model.plain(entry.name()).unwrap().as_bytes().to_vec();
        (entry.name().to_owned(), entry.storage().clone(), entry.shape().to_vec(), bytes)
    };
    model.tensors().cloned().map(tensor).collect()
}

/// The tied matrices of a file that has both: either stands in for the other.
const TIED: [(&str, &str); 2] = [("llama-own-head", "lm_head.weight"), ("llama-own-head", "model.embed_tokens.weight")];

/// No other tensor stands in for one that is missing, but for tied ones.
#[test]
fn every_tensor_is_needed() {
    for (name, source) in families() {
        let family = Network::open(&source).unwrap();
        let names = match &family {
            Network::CausalLm(lm) => names_of(&lm.config().family),
            Network::Encoder(encoder) => names_of(&encoder.config().family),
            other => panic!("{name}: {other:?}"),
        };
        let names = names.unwrap();
        let tensors = tensors_of(&source);
        let folder = changed(&name, "config.json", &json!({}));
        let file = folder.path().join("model.safetensors");
        for (missing, ..) in &tensors {
            let left: Tensors = tensors.iter().filter(|(tensor, ..)| tensor != missing).cloned().collect();
            fs::remove_file(&file).unwrap();
            fs::write(&file, written(&left, Value::Null)).unwrap();
            let opened = Network::open(folder.path());
            // Vectors are pooled without a pooler.
            let is_unused = names.parse(missing).unwrap().part == Part::Pooler;
            if is_unused || TIED.contains(&(&name, missing)) {
                assert!(opened.is_ok(), "{name} without {missing}: {opened:?}");
                continue;
            }
            let Err(Error::File(error)) = opened else { panic!("{name} without {missing}: {opened:?}") };
            assert_eq!(error.kind(), FileErrorKind::Network, "{name} without {missing}: {error}");
            let named = error.tensor_name().and_then(|tensor| names.parse(tensor));
            assert!(named.is_some(), "{name} without {missing}: {error}");
            assert!(error.to_string().contains("missing"), "{name} without {missing}: {error}");
        }
    }
}

/// Of two copies of a mixture's part, only one would be used.
#[test]
fn second_copies_of_parts_of_mixtures_are_refused() {
    for (name, part, copy) in [
        ("mixtral", "layers.1.block_sparse_moe.gate.weight", "layers.1.mlp.gate.weight"),
        ("mixtral", "layers.0.block_sparse_moe.experts.1.w2.weight", "layers.0.mlp.experts.1.down_proj.weight"),
        ("mixtral", "layers.0.block_sparse_moe.experts.0.w1.weight", "layers.0.mlp.experts.gate_up_proj"),
        ("mixtral-fused", "layers.0.mlp.experts.gate_up_proj", "layers.0.mlp.experts.3.up_proj.weight"),
        ("mixtral-fused", "layers.0.mlp.experts.down_proj", "layers.0.mlp.experts.down_proj.weight"),
        ("granitemoe", "layers.1.block_sparse_moe.router.layer.weight", "layers.1.block_sparse_moe.router.weight"),
    ] {
        let (_, source) = families().find(|(family, _)| family == name).unwrap();
        let mut tensors = tensors_of(&source);
        let [part, copy] = [part, copy].map(|name| format!("model.{name}"));
        let mut second = tensors.iter().find(|(tensor, ..)| *tensor == part).unwrap().clone();
        second.0 = copy.clone();
        tensors.push(second);
        let folder = changed(name, "config.json", &json!({}));
        fs::write(folder.path().join("model.safetensors"), written(&tensors, Value::Null)).unwrap();
        let error = CausalLm::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&copy) && error.contains("found beside"), "{name}: {error}");
    }
}

#[test]
fn experts_the_other_way_round_are_refused_by_name() {
    let (_, source) = families().find(|(name, _)| name == "mixtral-fused").unwrap();
    let model = qruntime::Model::read(&source).unwrap();
    let transposed = "model.layers.1.mlp.experts.gate_up_proj";
    let tensors: Vec<_> = model
        .tensors()
        .map(|entry| {
            let mut shape = entry.shape().to_vec();
            if entry.name() == transposed {
                shape.swap(1, 2);
            }
            let bytes = model.plain(entry.name()).unwrap().as_bytes().to_vec();
            (entry.name().to_owned(), entry.storage().clone(), shape, bytes)
        })
        .collect();
    assert!(
        tensors.iter().any(|(name, ..)| name == transposed),
        "{:?}",
        tensors.iter().map(|t| &t.0).collect::<Vec<_>>()
    );
    let folder = changed("mixtral-fused", "config.json", &json!({}));
    fs::write(folder.path().join("model.safetensors"), written(&tensors, Value::Null)).unwrap();
    let error = CausalLm::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains(transposed) && error.contains("inputs come before outputs"), "{error}");
}

#[test]
fn experts_that_are_not_alike_are_refused_by_name() {
    let (_, source) = families().find(|(name, _)| name == "mixtral").unwrap();
    let model = qruntime::Model::read(&source).unwrap();
    let packed = "model.layers.1.block_sparse_moe.experts.2.w1.weight";
    let tensors: Vec<_> = model
        .tensors()
        .map(|entry| {
            let (name, shape) = (entry.name().to_owned(), entry.shape().to_vec());
            if name == packed {
                let bytes = support::packed(&mut support::Random(1), kernels::Format::Q8_0, &shape);
                return (name, Storage::Packed(kernels::Format::Q8_0), shape, bytes);
            }
            let bytes = model.plain(&name).unwrap().as_bytes().to_vec();
            (name, entry.storage().clone(), shape, bytes)
        })
        .collect();
    let folder = changed("mixtral", "config.json", &json!({}));
    fs::write(folder.path().join("model.safetensors"), written(&tensors, Value::Null)).unwrap();
    let error = CausalLm::open(folder.path()).unwrap_err().to_string();
    let expected = "packed, expected plain as expert 0 is: convert with one --rule for all experts";
    assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
    assert!(error.ends_with(&format!("tensor \"{packed}\": {expected}")), "{error}");
}

/// Attention takes a text as a whole, so it needs memory for its length times the width.
#[test]
fn an_encoder_of_endless_texts_is_refused() {
    let folder = changed("bert-mean", "config.json", &json!({"max_position_embeddings": 1 << 24}));
    let error = Encoder::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("\"max_position_embeddings\": 16777216, expected at most 1242756 with 216 elements for each"),
        "{error}"
    );
}

#[test]
fn vectors_are_plain_floats() {
    let (_, source) = families().find(|(name, _)| name == "llama").unwrap();
    let model = qruntime::Model::read(&source).unwrap();
    let tensors: Vec<_> = model
        .tensors()
        .map(|entry| {
            let bytes = model.plain(entry.name()).unwrap().as_bytes().to_vec();
            let storage = match entry.name() {
                "model.norm.weight" => Storage::Plain(Dtype::I16),
                _ => entry.storage().clone(),
            };
            (entry.name().to_owned(), storage, entry.shape().to_vec(), bytes)
        })
        .collect();
    let folder = changed("llama", "config.json", &json!({}));
    fs::write(folder.path().join("model.safetensors"), written(&tensors, Value::Null)).unwrap();
    let error = CausalLm::open(folder.path()).unwrap_err().to_string();
    assert_eq!(error, "tensor \"model.norm.weight\" is I16, expected F32, F16 or BF16");
}

#[test]
fn a_long_context_takes_no_memory_before_it_is_used() {
    let folder = changed("llama", "config.json", &json!({"max_position_embeddings": 1 << 24}));
    let (lm, asked) = support::allocations::measure(|| CausalLm::open(folder.path()).unwrap());
    // There is an entry for each block of positions.
    assert!(asked.peak < 16 << 20, "{} bytes", asked.peak);
    let logits = lm.session().feed(&[1, 2, 3]).unwrap().len();
    assert_eq!(logits, lm.config().vocab_size);
}

#[test]
fn tiny_heads_do_not_take_memory_by_the_gigabyte() {
    let heads = json!({
        "hidden_size": 1, "head_dim": 2, "num_attention_heads": 1 << 17, "num_key_value_heads": 1 << 17, "num_hidden_layers": 100
    });
    let expected = "\"num_key_value_heads\": 131072, expected fewer in 100 layers: keys and values of a token take 53687091200 bytes";
    refuse("llama", heads, expected);
}

#[test]
fn files_and_lists_are_no_longer_than_they_must_be() {
    let list = |len: usize| json!({"mlp_only_layers": vec![100_000; len]});
    let expected = "\"mlp_only_layers\": a list of 4097, expected a whole number from 0 to 16777216, or a list of at most 4096 such";
    refuse("qwen2-moe", list(4097), expected);
    assert!(CausalLm::open(changed("qwen2-moe", "config.json", &list(4096)).path()).is_ok());
    refuse("llama", json!({"x": "x".repeat(4 << 20)}), "bytes, expected at most 4194304");
}

#[test]
fn json_is_an_object_in_a_file() {
    let folder = changed("llama", "config.json", &json!({}));
    let config = folder.path().join("config.json");
    for text in ["", "[]", "{", "null", "{\"hidden_size\": 1e999}"] {
        fs::write(&config, text).unwrap();
        let error = CausalLm::open(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::File(file) if file.kind() == FileErrorKind::Json), "{text}: {error}");
    }
    fs::write(&config, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).unwrap();
    assert!(CausalLm::open(folder.path()).is_err());
    fs::remove_file(&config).unwrap();
    assert!(matches!(CausalLm::open(folder.path()), Err(Error::Io { .. })));
}

#[test]
fn encoders_stay_in_their_folder() {
    let open = |file: &str, changes: Value| {
        Encoder::open(changed("bert-mean", file, &changes).path()).unwrap_err().to_string()
    };
    let error = open("config.json", json!({"position_embedding_type": "relative_key"}));
    assert!(error.ends_with("\"position_embedding_type\": \"relative_key\", expected absolute"), "{error}");
    let error = open("config.json", json!({"model_type": "llama"}));
    assert!(error.ends_with("\"model_type\": \"llama\", expected bert"), "{error}");
    let error = open("config.json", json!({"max_position_embeddings": 50}));
    assert!(
        error.ends_with("tensor \"embeddings.position_embeddings.weight\": [48, 36], expected [50, 36]"),
        "{error}"
    );

    let folder = changed("bert-mean", "config.json", &json!({}));
    let modules = folder.path().join("modules.json");
    fs::write(&modules, r#"[{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "../../etc", "type": "sentence_transformers.models.Pooling"}]"#)
        .unwrap();
    let error = Encoder::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("\"path\": \"../../etc\", expected the name of a folder"), "{error}");
}

/// Whatever a field's value, a model is refused or runs: nothing panics, hangs or takes gigabytes
/// of memory.
#[test]
fn no_value_of_any_field_does_harm() {
    // One thread, because memory is counted per thread.
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(change_every_field);
}

fn change_every_field() {
    let values = [
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(4096),
        json!(1 << 18),
        json!(1u64 << 63),
        json!(1e-300),
        json!(0.3),
        json!(1e300),
        json!("x"),
        json!(true),
        json!(false),
        json!([]),
        json!([1e9, -1.0]),
        json!({}),
        Value::Null,
    ];
    let (mut opened, mut refused) = (0, 0);
    for (name, source) in families() {
        let folder = changed(&name, "config.json", &json!({}));
        let file = folder.path().join("config.json");
        let config: Value = serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
        for place in fields(&config, "") {
            for value in &values {
                let mut config = config.clone();
                *config.pointer_mut(&place).unwrap() = value.clone();
                // A new file, because some file systems write a replaced one to the disk at once.
                fs::remove_file(&file).unwrap();
                fs::write(&file, config.to_string()).unwrap();
                let (ran, asked) = support::allocations::measure(|| run(&name, folder.path()));
                assert!(asked.peak < 64 << 20, "{name}: {place} = {value}: {} bytes", asked.peak);
                *if ran { &mut opened } else { &mut refused } += 1;
            }
        }
    }
    println!("{opened} ran, {refused} were refused");
    assert!(opened > 0 && refused > opened / 10);
}

/// Returns the places of all fields, as JSON pointers.
fn fields(config: &Value, place: &str) -> Vec<String> {
    let fields = config.as_object().into_iter().flatten();
    fields
        .flat_map(|(name, value)| {
            let place = format!("{place}/{name}");
            let within = self::fields(value, &place);
            std::iter::once(place).chain(within)
        })
        .collect()
}

/// Returns whether a folder opens; if so, computes something with it.
fn run(name: &str, folder: &Path) -> bool {
    let tokens = [1, 2, 3];
    if name.starts_with("bert") {
        let opened = Encoder::open(folder);
        return opened.is_ok_and(|encoder| {
            let _ = encoder.embed_ids(&[tokens]);
            true
        });
    }
    CausalLm::open(folder).is_ok_and(|lm| {
        let _ = lm.session().feed(&tokens);
        true
    })
}
