//! GGUF files as Hugging Face folders: the configuration and the names and rows of tensors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use qruntime::Error;
use qruntime::gguf::{Gguf, Piece, RowOrder, config_files, pieces};
use serde_json::{Value, json};
use support::gguf::GgufFile;

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
