//! GGUF files as Hugging Face folders: the configuration and the names and rows of tensors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use qruntime::Error;
use qruntime::gguf::{About, Array, Gguf, Piece, RowOrder, Value as Found, config_files, metadata_of, pieces, stored};
use serde_json::{Value, json};
use support::gguf::{ARRAY, BOOL, GgufFile, I32, array};

/// Returns what every decoder's file says.
fn decoder(architecture: &str) -> GgufFile {
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    GgufFile::default()
        .text("general.architecture", architecture)
        .number(&key("context_length"), 64)
        .number(&key("embedding_length"), 8)
        .number(&key("block_count"), 2)
        .number(&key("feed_forward_length"), 12)
        .number(&key("attention.head_count"), 2)
        .number(&key("attention.head_count_kv"), 1)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .float(&key("rope.freq_base"), 5e5)
        .zeros("token_embd.weight", &[5, 8])
}

trait Zeros {
    /// Adds a tensor of which only name and shape matter.
    fn zeros(self, name: &str, shape: &[usize]) -> Self;
}

impl Zeros for GgufFile {
    fn zeros(self, name: &str, shape: &[usize]) -> Self {
        let elements = shape.iter().product();
        self.plain(name, shape, &vec![0.0; elements])
    }
}

/// Returns the files of a folder.
fn files(file: &GgufFile) -> Result<BTreeMap<&'static str, Value>, Error> {
    let bytes = file.bytes();
    let gguf = Gguf::parse(&bytes)?;
    let read = |tensor: usize| {
        let range = gguf.tensors()[tensor].range();
        Ok(bytes[range.start as usize..range.end as usize].to_vec())
    };
    let files = config_files(&gguf, &read)?;
    Ok(files.into_iter().map(|(name, text)| (name, serde_json::from_slice(&text).unwrap())).collect())
}

fn config(file: &GgufFile) -> Value {
    files(file).unwrap().remove("config.json").unwrap()
}

/// Returns the pieces of a file by name.
fn found(file: &GgufFile) -> BTreeMap<String, Piece> {
    let found = pieces(&Gguf::parse(&file.bytes()).unwrap()).unwrap();
    assert!(found.unused.is_empty(), "{:?}", found.unused);
    found.pieces.into_iter().map(|piece| (piece.name.clone(), piece)).collect()
}

#[test]
fn rows_of_queries_and_keys_are_interleaved_where_llama_cpp_rotates_neighbours() {
    let file = |architecture| {
        decoder(architecture)
            .zeros("blk.1.attn_q.weight", &[8, 8])
            .zeros("blk.1.attn_k.weight", &[4, 8])
            .zeros("blk.1.attn_k.bias", &[4])
            .zeros("blk.1.attn_v.weight", &[4, 8])
    };
    for (architecture, interleaved) in [
        ("llama", true),
        ("granite", true),
        ("granitemoe", true),
        ("qwen2", false),
        ("qwen3", false),
        ("gemma2", false),
    ] {
        let found = found(&file(architecture));
        let order = |name: &str| found[&format!("model.layers.1.self_attn.{name}")].order;
        let expected = |heads| if interleaved { RowOrder::Interleaved { heads } } else { RowOrder::AsIs };
        assert_eq!(order("q_proj.weight"), expected(2), "{architecture}");
        assert_eq!(order("k_proj.weight"), expected(1), "{architecture}");
        assert_eq!(order("k_proj.bias"), expected(1), "{architecture}");
        assert_eq!(order("v_proj.weight"), RowOrder::AsIs, "{architecture}");
    }
    // Two heads of six rows: pairs of neighbours are pairs of the same place in both halves.
    let order = RowOrder::Interleaved { heads: 2 };
    let rows: Vec<usize> = (0..12).map(|row| order.row_in_file(row, 12)).collect();
    assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
}

#[test]
fn fused_matrices_are_split_except_those_of_phi() {
    let file = decoder("llama").zeros("blk.0.attn_qkv.weight", &[16, 8]).zeros("blk.0.attn_qkv.bias", &[16]);
    let pieces = found(&file);
    for suffix in ["weight", "bias"] {
        let of = |part: &str| {
            let piece = &pieces[&format!("model.layers.0.self_attn.{part}_proj.{suffix}")];
            (piece.rows.clone(), piece.order, piece.shape.clone())
        };
        let shape = |rows| if suffix == "weight" { vec![rows, 8] } else { vec![rows] };
        assert_eq!(of("q"), (0..8, RowOrder::Interleaved { heads: 2 }, shape(8)));
        assert_eq!(of("k"), (8..12, RowOrder::Interleaved { heads: 1 }, shape(4)));
        assert_eq!(of("v"), (12..16, RowOrder::AsIs, shape(4)));
    }
    let file = decoder("phi3").zeros("blk.0.attn_qkv.weight", &[16, 8]).zeros("blk.0.ffn_up.weight", &[24, 8]);
    let pieces = found(&file);
    assert_eq!(pieces["model.layers.0.self_attn.qkv_proj.weight"].shape, [16, 8]);
    assert_eq!(pieces["model.layers.0.mlp.gate_up_proj.weight"].shape, [24, 8]);
}

#[test]
fn experts_of_one_tensor_are_tensors_of_their_own() {
    let experts = |architecture: &str| decoder(architecture).number(&format!("{architecture}.expert_count"), 3);
    let file = experts("llama")
        .zeros("blk.0.ffn_gate_exps.weight", &[3, 12, 8])
        .zeros("blk.0.ffn_up_exps.weight", &[3, 12, 8])
        .zeros("blk.0.ffn_down_exps.weight", &[3, 8, 12])
        .zeros("blk.0.ffn_gate_inp.weight", &[3, 8])
        // As files of early 2024 have them.
        .zeros("blk.1.ffn_gate.2.weight", &[12, 8]);
    let pieces = found(&file);
    let of = |name: &str| (pieces[name].rows.clone(), pieces[name].shape.clone());
    assert_eq!(of("model.layers.0.block_sparse_moe.experts.2.w1.weight"), (24..36, vec![12, 8]));
    assert_eq!(of("model.layers.0.block_sparse_moe.experts.1.w2.weight"), (8..16, vec![8, 12]));
    assert_eq!(of("model.layers.0.block_sparse_moe.experts.0.w3.weight"), (0..12, vec![12, 8]));
    assert_eq!(of("model.layers.0.block_sparse_moe.gate.weight"), (0..3, vec![3, 8]));
    assert_eq!(of("model.layers.1.block_sparse_moe.experts.2.w1.weight"), (0..12, vec![12, 8]));
    assert_eq!(pieces.len(), 1 + 9 + 1 + 1);

    // Gate and up in one tensor, and the gate of the shared expert as a vector.
    let file = experts("qwen2moe")
        .zeros("blk.0.ffn_gate_up_exps.weight", &[3, 12, 8])
        .zeros("blk.0.ffn_gate_inp_shexp.weight", &[8]);
    let pieces = found(&file);
    let of = |name: &str| (pieces[name].rows.clone(), pieces[name].shape.clone());
    assert_eq!(of("model.layers.0.mlp.experts.1.gate_proj.weight"), (12..18, vec![6, 8]));
    assert_eq!(of("model.layers.0.mlp.experts.1.up_proj.weight"), (18..24, vec![6, 8]));
    assert_eq!(of("model.layers.0.mlp.shared_expert_gate.weight"), (0..8, vec![1, 8]));
}

#[test]
fn only_norms_of_gemma_have_one_added() {
    let file = |architecture| {
        decoder(architecture)
            .zeros("output_norm.weight", &[8])
            .zeros("blk.0.attn_norm.weight", &[8])
            .zeros("blk.0.attn_q_norm.weight", &[4])
            .zeros("blk.0.ffn_down.weight", &[8, 12])
    };
    for (architecture, added) in [("gemma3", -1.0), ("gemma2", -1.0), ("qwen3", 0.0)] {
        for (name, piece) in found(&file(architecture)) {
            assert_eq!(piece.add, if name.contains("norm") { added } else { 0.0 }, "{architecture}: {name}");
        }
    }
}

#[test]
fn tensors_of_metadata_and_factors_are_no_pieces_and_others_are_named() {
    let file = decoder("llama")
        .zeros("rope_freqs.weight", &[2])
        .zeros("blk.0.attn_v.weight", &[4, 8])
        .zeros("blk.0.attn_v.scale", &[1])
        .zeros("blk.0.attn_v.input_scale", &[1])
        .zeros("blk.0.attn_rot_embd.weight", &[2]);
    let gguf = Gguf::parse(&file.bytes()).unwrap();
    let found = pieces(&gguf).unwrap();
    let index = |name: &str| gguf.tensors().iter().position(|tensor| tensor.name() == name).unwrap();
    let names: Vec<&str> = found.pieces.iter().map(|piece| piece.name.as_str()).collect();
    assert_eq!(names, ["model.embed_tokens.weight", "model.layers.0.self_attn.v_proj.weight"]);
    assert_eq!(found.pieces[1].factor, Some((index("blk.0.attn_v.scale"), 0)));
    assert_eq!(found.unused, [index("blk.0.attn_v.input_scale"), index("blk.0.attn_rot_embd.weight")]);
}

#[test]
fn tensors_that_do_not_fit_are_errors() {
    let experts = || decoder("llama").number("llama.expert_count", 3);
    for (file, expected) in [
        (decoder("llama").zeros("blk.0.attn_q.weight", &[6, 8]), "[6, 8], expected 4 halves of heads"),
        (decoder("llama").zeros("blk.0.attn_qkv.weight", &[15, 8]), "[15, 8], expected 4 heads of equal size"),
        (experts().zeros("blk.0.ffn_up_exps.weight", &[2, 12, 8]), "[2, 12, 8], expected [3, rows, columns]"),
        (experts().zeros("blk.0.ffn_up_exps.weight", &[12, 8]), "[12, 8], expected [3, rows, columns]"),
        (experts().zeros("blk.0.ffn_gate_up_exps.weight", &[3, 5, 8]), "expected 2 halves of equal size"),
        (
            experts().zeros("blk.0.ffn_up_exps.weight", &[3, 12, 8]).zeros("blk.0.ffn_up.1.weight", &[12, 8]),
            "found twice: also \"model.layers.0.block_sparse_moe.experts.1.w3.weight\"",
        ),
        (
            decoder("llama").zeros("blk.0.attn_v.weight", &[4, 8]).zeros("blk.0.attn_v.scale", &[2]),
            "tensor \"blk.0.attn_v.scale\": 2 elements, expected 1",
        ),
        (decoder("mamba"), "\"general.architecture\": \"mamba\", expected llama, qwen2, qwen2moe"),
    ] {
        let error = pieces(&Gguf::parse(&file.bytes()).unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}

#[test]
fn what_llama_says_becomes_its_config() {
    let file = decoder("llama")
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
        .zeros("output.weight", &[5, 8]);
    let expected = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 5, "hidden_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "intermediate_size": 12, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(config(&file), expected);
}

/// Returns the fields of `config.json` that a list names.
fn fields(file: &GgufFile, names: &[&str]) -> Value {
    let config = config(file);
    names.iter().map(|name| (name.to_string(), config[*name].clone())).collect()
}

#[test]
fn what_a_file_of_llama_holds_tells_the_family() {
    let biases = |file: GgufFile, output: bool| {
        let file = ["attn_q", "attn_k", "attn_v"].iter().fold(file, |file, part| {
            let rows = if *part == "attn_q" { 8 } else { 4 };
            file.zeros(&format!("blk.0.{part}.bias"), &[rows])
        });
        if output { file.zeros("blk.0.attn_output.bias", &[8]) } else { file }
    };
    let experts = decoder("llama").number("llama.expert_count", 4).number("llama.expert_used_count", 2);
    for (file, family, field, value) in [
        (decoder("llama"), "llama", "attention_bias", json!(false)),
        (biases(decoder("llama"), true), "llama", "attention_bias", json!(true)),
        (biases(decoder("llama"), false), "qwen2", "use_sliding_window", json!(false)),
        (decoder("llama").number("llama.attention.sliding_window", 16), "mistral", "sliding_window", json!(16)),
        (decoder("llama").number("llama.attention.sliding_window", 0), "llama", "sliding_window", Value::Null),
        (experts, "mixtral", "num_local_experts", json!(4)),
        (decoder("llama").zeros("blk.0.ffn_up.bias", &[12]), "llama", "mlp_bias", json!(true)),
    ] {
        let config = config(&file);
        assert_eq!((&config["model_type"], &config[field]), (&json!(family), &value), "{field}");
    }
}

#[test]
fn scaled_rotations_are_read() {
    let yarn = |file: GgufFile| {
        let file = file.text("llama.rope.scaling.type", "yarn").float("llama.rope.scaling.factor", 4.0);
        file.number("llama.rope.scaling.original_context_length", 16)
    };
    for (file, expected) in [
        (decoder("llama"), Value::Null),
        (decoder("llama").text("llama.rope.scaling.type", "none").float("llama.rope.scaling.factor", 2.0), Value::Null),
        (decoder("llama").float("llama.rope.scaling.factor", 2.5), json!({"rope_type": "linear", "factor": 2.5})),
        (decoder("llama").float("llama.rope.scale_linear", 4.0), json!({"rope_type": "linear", "factor": 4.0})),
        (yarn(decoder("llama")), json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})),
        (
            yarn(decoder("llama"))
                .float("llama.rope.scaling.yarn_beta_fast", 16.0)
                .float("llama.rope.scaling.yarn_beta_slow", 2.0)
                .float("llama.rope.scaling.yarn_log_multiplier", 0.5),
            json!({
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 16.0,
                "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5,
            }),
        ),
        (decoder("llama").plain("rope_freqs.weight", &[2], &[1.0, 1.0]), Value::Null),
    ] {
        assert_eq!(config(&file)["rope_scaling"], expected);
    }
    // The file multiplies llama.cpp's own factor of YaRN, and the config has the product.
    let scaling = &config(&yarn(decoder("llama")).float("llama.rope.scaling.attn_factor", 0.5))["rope_scaling"];
    let factor = scaling["attention_factor"].as_f64().unwrap();
    assert!((factor - 0.5 * (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12, "{factor}");
}

#[test]
fn factors_of_single_rotations_are_llamas_or_their_own() {
    let file = |factors: &[f32]| {
        decoder("llama").number("llama.attention.key_length", 64).plain("rope_freqs.weight", &[32], factors)
    };
    // As llama.cpp's script writes them for Llama 3.1, in single precision.
    let of = |factor: f32, original: f32| -> Vec<f32> {
        let each = |i| {
            let wavelength = 2.0 * std::f32::consts::PI * 5e5f32.powf(i as f32 / 32.0);
            let smooth = ((original / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        (0..32).map(each).collect()
    };
    for (factor, original) in [(8.0, 8192.0), (32.0, 8192.0), (4.0, 1024.0)] {
        let expected = json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original as u32,
        });
        assert_eq!(config(&file(&of(factor, original)))["rope_scaling"], expected);
    }
    // Others are kept one by one.
    let mut factors = of(8.0, 8192.0);
    factors[20] *= 1.5;
    let config = config(&file(&factors));
    let scaling = &config["rope_scaling"];
    assert_eq!((&scaling["rope_type"], &scaling["attention_factor"]), (&json!("longrope"), &json!(1.0)));
    assert_eq!(scaling["short_factor"], scaling["long_factor"]);
    let found: Vec<f32> = serde_json::from_value(scaling["long_factor"].clone()).unwrap();
    assert_eq!(found, factors);
    assert_eq!(config["original_max_position_embeddings"], 64);
}

#[test]
fn layers_that_see_a_window_are_read() {
    let [window, full] = ["sliding_attention", "full_attention"];
    let flags = |flags: &[u8]| array(BOOL, &flags.iter().map(|flag| vec![*flag]).collect::<Vec<_>>());
    let windowed =
        |architecture: &str| decoder(architecture).number(&format!("{architecture}.attention.sliding_window"), 16);
    let names = ["sliding_window", "layer_types"];
    for (file, expected) in [
        (windowed("gemma2"), json!({"sliding_window": 16, "layer_types": [window, full]})),
        (decoder("gemma2"), json!({"sliding_window": 4096, "layer_types": [window, full]})),
        (windowed("gemma3"), json!({"sliding_window": 16, "layer_types": [window, window]})),
        (decoder("gemma3"), json!({"sliding_window": 4096, "layer_types": [full, full]})),
        (
            windowed("gemma3").number("gemma3.attention.sliding_window_pattern", 2),
            json!({"sliding_window": 16, "layer_types": [window, full]}),
        ),
        (
            windowed("gemma3").value("gemma3.attention.sliding_window_pattern", ARRAY, &flags(&[0, 1])),
            json!({"sliding_window": 16, "layer_types": [full, window]}),
        ),
        (
            windowed("qwen3").value("qwen3.attention.sliding_window_pattern", ARRAY, &flags(&[0, 1])),
            json!({"sliding_window": 16, "layer_types": [full, window]}),
        ),
        // Other programs do not read it.
        (windowed("qwen3"), json!({"sliding_window": null, "layer_types": null})),
        (windowed("phi3"), json!({"sliding_window": 16, "layer_types": null})),
    ] {
        assert_eq!(fields(&file, &names), expected);
    }
}

#[test]
fn tokens_that_end_a_text_and_how_to_sample_are_read() {
    let tokens = ["a", "<|im_end|>", "<|endoftext|>", "b", "<|end|>"];
    let file = decoder("qwen2")
        .number("tokenizer.ggml.bos_token_id", u32::MAX)
        .number("tokenizer.ggml.eos_token_id", 3)
        .number("tokenizer.ggml.eot_token_id", 1)
        .texts("tokenizer.ggml.tokens", &tokens)
        // The last one is an ordinary token.
        .integers("tokenizer.ggml.token_type", &[1, 3, 4, 1, 1])
        .float("general.sampling.temp", 0.7)
        .value("general.sampling.top_k", I32, &20i32.to_le_bytes())
        .float("general.sampling.top_p", 0.95)
        .float("general.sampling.penalty_repeat", 1.05);
    let expected = json!({
        "eos_token_id": [3, 1, 2], "temperature": 0.7, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05,
        "do_sample": true,
    });
    assert_eq!(files(&file).unwrap()["generation_config.json"], expected);
    assert!(!files(&decoder("qwen2")).unwrap().contains_key("generation_config.json"));
}

/// Returns a file of BERT.
fn encoder() -> GgufFile {
    GgufFile::default()
        .text("general.architecture", "bert")
        .number("bert.context_length", 32)
        .number("bert.embedding_length", 8)
        .number("bert.block_count", 1)
        .number("bert.feed_forward_length", 12)
        .number("bert.attention.head_count", 2)
        .float("bert.attention.layer_norm_epsilon", 1e-12)
        .number("tokenizer.ggml.token_type_count", 2)
        .zeros("token_embd.weight", &[5, 8])
}

#[test]
fn encoders_say_how_they_pool() {
    let expected = json!({
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 5, "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 32,
        "layer_norm_eps": 1e-12, "type_vocab_size": 2, "is_decoder": false, "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    });
    assert_eq!(config(&encoder()), expected);
    for (number, flag) in
        [(1, "pooling_mode_mean_tokens"), (2, "pooling_mode_cls_token"), (3, "pooling_mode_lasttoken")]
    {
        let files = files(&encoder().number("bert.pooling_type", number)).unwrap();
        let modules = files["modules.json"].as_array().unwrap();
        assert_eq!(modules.len(), 3);
        let config = files["1_Pooling/config.json"].as_object().unwrap();
        let chosen: Vec<&String> = config.iter().filter(|(_, value)| **value == true).map(|(name, _)| name).collect();
        assert_eq!(chosen, [flag]);
    }
    for file in [encoder(), encoder().number("bert.pooling_type", 0)] {
        assert_eq!(files(&file).unwrap().len(), 1);
    }
}

#[test]
fn files_that_are_not_what_a_network_needs_are_errors() {
    let llama = || decoder("llama");
    let without = |key: &str| {
        let all = ["context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"];
        let file = GgufFile::default().text("general.architecture", "llama").zeros("token_embd.weight", &[5, 8]);
        all.iter().filter(|other| **other != key).fold(file, |file, key| file.number(&format!("llama.{key}"), 2))
    };
    let granite = || decoder("granite").float("granite.logit_scale", 2.0);
    for (file, expected) in [
        (GgufFile::default(), "\"general.architecture\": missing"),
        (decoder("rwkv6"), "\"rwkv6\", expected llama, qwen2, qwen2moe, qwen3, qwen3moe, gemma2, gemma3, phi3"),
        (without("block_count"), "\"llama.block_count\": missing, expected an integer from 1 to 4096"),
        (without("context_length"), "\"llama.context_length\": missing, expected an integer from 1"),
        (without("attention.head_count"), "\"llama.attention.head_count\": missing"),
        (without(""), "\"llama.attention.layer_norm_rms_epsilon\": missing, expected a number from 0 to 1"),
        (decoder("granite"), "\"granite.logit_scale\": missing"),
        (granite().flag("granite.rope.scaling.finetuned", false), "rope.scaling.finetuned\": false, expected true"),
        (granite().number("granite.expert_shared_feed_forward_length", 8), "8, expected none: no shared expert"),
        (
            llama().integers("llama.attention.value_length", &[4, 8]),
            "2 different integers, expected the same integer for all layers",
        ),
        (llama().number("llama.attention.value_length", 8), "8, expected 4, the length of keys"),
        (llama().number("llama.rope.dimension_count", 2), "2, expected 4, the length of a head"),
        (llama().text("llama.expert_count", "8"), "\"llama.expert_count\": \"8\", expected integers from 0"),
        (llama().flag("llama.attention.causal", false), "\"llama.attention.causal\": false, expected true"),
        (llama().number("llama.expert_gating_func", 2), "\"llama.expert_gating_func\": 2, expected 1"),
        (llama().text("llama.rope.scaling.type", "warped"), "\"warped\", expected none, linear, yarn, longrope"),
        (llama().text("llama.rope.scaling.type", "yarn"), "\"llama.rope.scaling.factor\": missing"),
        (
            llama().text("llama.rope.scaling.type", "longrope"),
            "tensor \"rope_factors_long.weight\": missing, expected beside rope.scaling.type",
        ),
        (
            llama().plain("rope_factors_short.weight", &[2], &[1.0, 2.0]),
            "tensor \"rope_factors_long.weight\": missing, expected beside \"rope_factors_short.weight\"",
        ),
        (llama().plain("rope_freqs.weight", &[3], &[1.0; 3]), "[3], expected [2], one for each rotation"),
        (llama().plain("rope_freqs.weight", &[2], &[1.0, f32::NAN]), "a factor NaN, expected from 1e-6 to 1e6"),
        (llama().tensor("rope_freqs.weight", &[2], 26, vec![0; 8]), "tensor \"rope_freqs.weight\": I32, expected F32"),
        (llama().texts("tokenizer.ggml.tokens", &["a"; 6]), "6 tokens, expected at most 5, the rows of token_embd"),
        (encoder().number("bert.pooling_type", 4), "4 (a classifier that ranks documents), expected 1 (mean)"),
    ] {
        let error = files(&file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}

/// Returns the metadata of a folder with these files.
fn metadata(files: &[(&str, &str)], about: &About) -> Result<Vec<(String, Found)>, Error> {
    let read = |name: &str| {
        let file = files.iter().find(|(other, _)| *other == name);
        Ok(file.map(|(_, text)| text.as_bytes().to_vec()))
    };
    Ok(metadata_of(&read, about)?.values)
}

fn llama_config(changes: Value) -> String {
    let mut config = json!({
        "model_type": "llama", "vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 12, "max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config.to_string()
}

#[test]
fn a_models_card_becomes_general_keys() {
    let card = "---\nlicense: apache-2.0\nlicense_link: 'https://example.org/l'\nbase_model:\n- org/Some-model-v1.5\n\
                language: [en, \"no\"]\ntags:\n  - chat\n  # none\npipeline_tag: text-generation\nmodel-index:\n\
                - name: x\n---\n# Text\nlicense: other\n";
    let generation = r#"{"temperature": 0.5, "top_k": 7, "do_sample": true}"#;
    let config = llama_config(json!({}));
    let files = [("config.json", config.as_str()), ("README.md", card), ("generation_config.json", generation)];
    let mut about = About::default();
    about.name = "tiny-llama".into();
    about.parameters = 1_100_048_384;
    about.file_type = Some(15);
    let values = metadata(&files, &about).unwrap();
    let text = |text: &str| Found::Text(text.into());
    let list = |list: &[&str]| Found::Array(Array::Texts(list.iter().map(|text| text.to_string()).collect()));
    let expected = [
        ("general.architecture", text("llama")),
        ("general.type", text("model")),
        ("general.sampling.temp", Found::Float(0.5)),
        ("general.sampling.top_k", Found::Signed(7)),
        ("general.name", text("Tiny Llama")),
        ("general.size_label", text("1.1B")),
        ("general.license", text("apache-2.0")),
        ("general.license.link", text("https://example.org/l")),
        ("general.base_model.0.name", text("Some Model v1.5")),
        ("general.base_model.0.organization", text("Org")),
        ("general.base_model.0.repo_url", text("https://huggingface.co/org/Some-model-v1.5")),
        ("general.base_model.count", Found::Unsigned(1)),
        ("general.tags", list(&["chat", "text-generation"])),
        ("general.languages", list(&["en", "no"])),
        ("general.file_type", Found::Unsigned(15)),
        ("general.quantization_version", Found::Unsigned(2)),
    ];
    let general: Vec<_> = values.iter().filter(|(key, _)| key.starts_with("general.")).cloned().collect();
    assert_eq!(general, expected.map(|(key, value)| (key.to_owned(), value)));
}

#[test]
fn size_labels_are_those_of_file_names() {
    let experts = json!({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2});
    for (parameters, of_experts, changes, expected) in [
        (134_515_008, 0, json!({}), "135M"),
        (8_030_261_248, 0, json!({}), "8.0B"),
        (70_553_706_496, 0, json!({}), "71B"),
        (260_032, 0, json!({}), "260K"),
        (46_702_792_704, 45_097_156_608, experts, "8x7.2B"),
    ] {
        let config = llama_config(changes);
        let mut about = About::default();
        (about.parameters, about.expert_parameters) = (parameters, of_experts);
        let values = metadata(&[("config.json", &config)], &about).unwrap();
        let label = values.iter().find(|(key, _)| key == "general.size_label").map(|(_, value)| value.clone());
        assert_eq!(label, Some(Found::Text(expected.into())));
    }
}

#[test]
fn what_gguf_cannot_say_is_an_error() {
    let yarn = json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": false}});
    for (changes, expected) in [
        (json!({"model_type": "mamba"}), "\"model_type\": \"mamba\", expected llama"),
        (json!({"hidden_act": "relu"}), "\"hidden_act\": Relu, expected Silu, as GGUF's programs take it"),
        (yarn, "\"rope_scaling.truncate\": false, expected true"),
        (
            json!({"model_type": "gemma2", "attn_logit_softcapping": null, "query_pre_attn_scalar": 256}),
            "\"attn_logit_softcapping\": missing, expected a number",
        ),
        (json!({"hidden_size": "8"}), "\"hidden_size\": \"8\", expected"),
    ] {
        let error = metadata(&[("config.json", &llama_config(changes))], &About::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
    let bert = json!({
        "model_type": "bert", "vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 12,
    });
    let modules = r#"[{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]"#;
    for (pooling, expected) in [
        (r#"{"pooling_mode_max_tokens": true}"#, Err("[\"pooling_mode_max_tokens\"], expected one of the mean")),
        (r#"{"pooling_mode": "lasttoken"}"#, Ok(3)),
        (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, Ok(2)),
    ] {
        let config = bert.to_string();
        let files = [("config.json", config.as_str()), ("modules.json", modules), ("1_Pooling/config.json", pooling)];
        match (metadata(&files, &About::default()), expected) {
            (Ok(values), Ok(number)) => {
                assert!(values.contains(&("bert.pooling_type".into(), Found::Unsigned(number))));
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn tensors_of_a_checkpoint_that_do_not_fit_are_errors() {
    let mixture = json!({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1});
    let expert = |n: usize| format!("model.layers.0.block_sparse_moe.experts.{n}.w1.weight");
    let [zero, one, ten] = [expert(0), expert(1), expert(10)];
    let query = "model.layers.0.self_attn.q_proj.weight";
    let shape: &[usize] = &[12, 8];
    for (changes, tensors, expected) in [
        (json!({}), vec![(query, &[7, 8][..])], "[7, 8], expected rows of 2 heads of even size"),
        (json!({}), vec![(query, &[][..])], "[], expected at least one dimension"),
        (mixture.clone(), vec![(&zero, shape), (&one, &[4, 8])], "[4, 8], expected [12, 8], as the other experts"),
        (mixture.clone(), vec![(&ten, shape), (&zero, shape)], "2 experts, expected one for each number up to 10"),
        (mixture, vec![(&zero, shape), (&zero, shape)], "found twice, under two names"),
        (
            json!({"model_type": "gemma2", "tie_word_embeddings": false}),
            vec![("lm_head.weight", &[5, 8][..])],
            "\"tie_word_embeddings\": false, expected true: GGUF has no output head",
        ),
    ] {
        let error = stored(llama_config(changes).as_bytes(), &tensors).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
    let tensors: Vec<(&str, &[usize])> = vec![(&one, shape), ("vision_tower.x.weight", shape), (&zero, shape)];
    let mixture = json!({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1});
    let (stored, unused) = stored(llama_config(mixture).as_bytes(), &tensors).unwrap();
    assert_eq!(unused, [1]);
    let [gates] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!((gates.name.as_str(), gates.shape.as_slice()), ("blk.0.ffn_gate_exps.weight", &[2, 12, 8][..]));
    assert_eq!(gates.parts.iter().map(|part| part.tensor).collect::<Vec<_>>(), [2, 0]);
}

/// Whatever a key says, reading ends, and a value of a type that no reader of the key takes is an
/// error that names the key.
#[test]
fn no_value_of_any_key_is_trusted() {
    const KEYS: [&str; 34] = [
        "attention.causal",
        "attention.clamp_kqv",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.scale",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attention.value_length",
        "attn_logit_softcapping",
        "block_count",
        "context_length",
        "embedding_length",
        "embedding_scale",
        "expert_count",
        "expert_feed_forward_length",
        "expert_gating_func",
        "expert_shared_feed_forward_length",
        "expert_used_count",
        "expert_weights_norm",
        "feed_forward_length",
        "final_logit_softcapping",
        "logit_scale",
        "pooling_type",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "rope.scaling.yarn_beta_fast",
    ];
    let integers = |values: &[i32]| array(I32, &values.iter().map(|x| x.to_le_bytes().to_vec()).collect::<Vec<_>>());
    let mut refused = 0;
    for architecture in ["llama", "qwen2moe", "qwen3moe", "gemma2", "gemma3", "phi3", "granite", "granitemoe", "bert"] {
        for suffix in KEYS {
            let key = format!("{architecture}.{suffix}");
            let values: [(u32, Vec<u8>); 9] = [
                (4, u32::MAX.to_le_bytes().into()),
                (4, vec![0; 4]),
                (I32, (-1i32).to_le_bytes().into()),
                (6, f32::NAN.to_le_bytes().into()),
                (6, f32::MAX.to_le_bytes().into()),
                (8, support::gguf::text("")),
                (ARRAY, integers(&[])),
                (ARRAY, integers(&[1, 2])),
                (ARRAY, array(ARRAY, &[integers(&[1])])),
            ];
            for (value_type, value) in values {
                let mut file = GgufFile::default().text("general.architecture", architecture);
                for (other, number) in [
                    ("context_length", 64),
                    ("embedding_length", 8),
                    ("block_count", 2),
                    ("feed_forward_length", 12),
                    ("attention.head_count", 2),
                    ("expert_used_count", 1),
                    ("expert_feed_forward_length", 4),
                ] {
                    if other != suffix {
                        file = file.number(&format!("{architecture}.{other}"), number);
                    }
                }
                for other in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "logit_scale"] {
                    if other != suffix {
                        file = file.float(&format!("{architecture}.{other}"), 0.5);
                    }
                }
                if suffix != "expert_count" && architecture.contains("moe") {
                    file = file.number(&format!("{architecture}.expert_count"), 2);
                }
                let file = file
                    .value(&key, value_type, &value)
                    .zeros("token_embd.weight", &[5, 8])
                    .zeros("token_types.weight", &[2, 8]);
                let _ = pieces(&Gguf::parse(&file.bytes()).unwrap());
                if let Err(error) = files(&file) {
                    refused += 1;
                    assert!(error.to_string().contains(&key), "{key}: {error}");
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}
