//! Names of tensors mean the same in checkpoints and in GGUF files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use qruntime::names::Part;
use qruntime::{Model, Network, NetworkKind, names_of};
use support::models::families;

#[test]
fn every_name_of_every_family_has_one_in_gguf_and_the_way_back() {
    let mut parts = BTreeSet::new();
    for (folder, path) in families() {
        let family = match Network::kind(&path).unwrap() {
            NetworkKind::CausalLm { family } | NetworkKind::Encoder { family } => family,
            kind => panic!("{folder}: {kind}"),
        };
        let names = names_of(family).unwrap();
        let mut found = BTreeSet::new();
        for entry in Model::read(&path).unwrap().tensors() {
            let tensor = names.parse(entry.name()).unwrap_or_else(|| panic!("{folder}: {}", entry.name()));
            assert!(names.candidates(tensor).any(|name| name == entry.name()), "{folder}: {}", entry.name());
            for name in names.candidates(tensor) {
                assert_eq!(names.parse(&name), Some(tensor), "{folder}: {} as {name}", entry.name());
            }
            parts.insert(tensor.part);
            let Some(gguf) = tensor.gguf() else {
                assert_eq!(tensor.part, Part::Pooler, "{folder}: {}", entry.name());
                continue;
            };
            let mut whole = tensor;
            whole.expert = None;
            assert_eq!(names.parse_gguf(&gguf), Some(whole), "{folder}: {} is {gguf}", entry.name());
            assert!(found.insert(gguf) || tensor.expert.is_some_and(|expert| expert > 0), "{folder}: {}", entry.name());
        }
    }
    // All parts except two.
    assert!(parts.len() >= 30, "{parts:?}");
}

#[test]
fn names_are_those_of_llama_cpp() {
    for (family, name, gguf) in [
        ("llama", "model.embed_tokens.weight", "token_embd.weight"),
        ("llama", "model.norm.weight", "output_norm.weight"),
        ("llama", "lm_head.weight", "output.weight"),
        ("llama", "model.layers.7.post_attention_layernorm.weight", "blk.7.ffn_norm.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"),
        ("gemma2", "model.layers.1.post_attention_layernorm.weight", "blk.1.post_attention_norm.weight"),
        ("gemma2", "model.layers.1.pre_feedforward_layernorm.weight", "blk.1.ffn_norm.weight"),
        ("gemma3", "language_model.model.layers.1.post_feedforward_layernorm.weight", "blk.1.post_ffw_norm.weight"),
        ("phi3", "model.layers.2.self_attn.qkv_proj.weight", "blk.2.attn_qkv.weight"),
        ("phi3", "model.layers.2.mlp.gate_up_proj.weight", "blk.2.ffn_up.weight"),
        ("mixtral", "model.layers.2.block_sparse_moe.experts.5.w3.weight", "blk.2.ffn_up_exps.weight"),
        ("granitemoe", "model.layers.2.block_sparse_moe.router.layer.weight", "blk.2.ffn_gate_inp.weight"),
        ("qwen2_moe", "model.layers.10.mlp.shared_expert_gate.weight", "blk.10.ffn_gate_inp_shexp.weight"),
        ("qwen3_moe", "model.layers.10.mlp.experts.gate_up_proj", "blk.10.ffn_gate_up_exps.weight"),
        ("bert", "bert.embeddings.LayerNorm.gamma", "token_embd_norm.weight"),
        ("bert", "encoder.layer.3.output.LayerNorm.bias", "blk.3.layer_output_norm.bias"),
    ] {
        let tensor = names_of(family).unwrap().parse(name).unwrap();
        assert_eq!(tensor.gguf().as_deref(), Some(gguf), "{family}: {name}");
    }
    let single = names_of("mixtral").unwrap().parse("model.layers.2.block_sparse_moe.experts.5.w3.weight").unwrap();
    assert_eq!((single.part, single.layer, single.expert), (Part::ExpertUp, Some(2), Some(5)));
}

#[test]
fn names_without_a_layer_or_a_place_in_gguf_have_none() {
    let mut query = names_of("llama").unwrap().parse("model.layers.7.self_attn.q_proj.weight").unwrap();
    query.layer = None;
    assert_eq!(query.gguf(), None);
    assert_eq!(names_of("bert").unwrap().parse("pooler.dense.weight").unwrap().gguf(), None);
}

#[test]
fn names_that_are_not_known_are_none() {
    assert!(names_of("mamba").is_none());
    let names = names_of("llama").unwrap();
    for name in [
        "",
        "weight",
        "model.embed_tokens",
        "model.embed_tokens.scales",
        "model.layers.x.self_attn.q_proj.weight",
        "model.layers.01.self_attn.q_proj.weight",
        "model.layers.99999999999999999999.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.lora.weight",
        "model.layers.1.self_attn.weight",
        "vision.layers.1.self_attn.q_proj.weight",
        "model.layers.1.pre_feedforward_layernorm.weight",
    ] {
        assert_eq!(names.parse(name), None, "{name}");
    }
    for name in ["", "blk.0.attn_q", "blk.0.attn_q.scale", "blk.-1.attn_q.weight", "blk.0.ssm_a.weight", "cls.weight"] {
        assert_eq!(names.parse_gguf(name), None, "{name}");
    }
}
