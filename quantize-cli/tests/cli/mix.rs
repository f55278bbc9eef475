//! Mixes give every tensor the format that it has in llama.cpp's files of the name.

use std::collections::BTreeSet;

use quantize_cli::plan::mix::MIXES;

use super::plan::planned;
use super::*;

const MODEL: &str = "../models/storyteller-6m";

/// A decoder's tensors: layers, heads of queries for each head of keys and values, columns of
/// hidden states, and whether the head is a tensor of its own. The numbers of rows are as small as
/// they may be: they decide nothing.
fn decoder(layers: usize, sharing: usize, hidden: usize, head: bool) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![32, hidden])];
    if head {
        tensors.push(("lm_head.weight".into(), vec![32, hidden]));
    }
    for layer in 0..layers {
        let mut push = |name: &str, shape: [usize; 2]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        push("self_attn.q_proj", [16 * sharing, hidden]);
        push("self_attn.k_proj", [16, hidden]);
        push("self_attn.v_proj", [16, hidden]);
        push("self_attn.o_proj", [16, 256]);
        push("mlp.gate_proj", [16, hidden]);
        push("mlp.up_proj", [16, hidden]);
        push("mlp.down_proj", [16, 256]);
        push("input_layernorm", [16, hidden]);
    }
    tensors
}

/// What tensors become under a mix: a function from names.
fn mixed(tensors: &[(String, Vec<usize>)], more: &[&str]) -> impl Fn(&str) -> String + use<> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let borrowed: Vec<(&str, &[usize])> = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
    write(&path, &borrowed.iter().collect::<Vec<_>>(), unchanged);
    let plan = planned(&path, more);
    move |name| plan.get(name).unwrap_or_else(|| panic!("no {name}")).0.clone()
}

/// One digit for each layer: the bits of a format of super-blocks.
fn bits(action: &str) -> char {
    let bits = action.strip_suffix("_k").and_then(|action| action.strip_prefix('q'));
    bits.unwrap_or_else(|| panic!("{action}")).parse().unwrap()
}

/// `mixes.txt` has, for networks of three sizes, what llama.cpp's test of its choices expects of
/// values, the last matrices of MLPs, and the output matrices of attention.
#[test]
fn mixes_are_what_llama_cpp_expects_of_them() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/mixes.txt")).unwrap();
    let mut mixes = BTreeSet::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[network, mix, values, down, outputs] = &fields[..] else { panic!("{line}") };
        let (sharing, head) = match network {
            "qwen3-0.6b" => (2, true),
            "gemma-3-4b-it" => (2, false),
            "meta-llama-3.1-70b-instruct" => (8, true),
            other => panic!("{other}"),
        };
        let of = mixed(&decoder(values.len(), sharing, 256, head), &["--to", mix]);
        let layers = |part: &str| -> String {
            (0..values.len()).map(|i| bits(&of(&format!("model.layers.{i}.{part}.weight")))).collect()
        };
        assert_eq!(layers("self_attn.v_proj"), values, "{line}");
        assert_eq!(layers("mlp.down_proj"), down, "{line}");
        assert_eq!(layers("self_attn.o_proj"), outputs, "{line}");
        let base = mix.chars().nth(1).unwrap();
        for other in ["self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"] {
            assert!(layers(other).chars().all(|bits| bits == base), "{line}: {other}");
        }
        let embedding = of("model.embed_tokens.weight");
        if head {
            assert_eq!((of("lm_head.weight").as_str(), bits(&embedding)), ("q6_k", base), "{line}");
        } else {
            assert_eq!(embedding, "q6_k", "{line}");
        }
        mixes.insert(mix.to_owned());
    }
    let names: BTreeSet<String> = MIXES.iter().map(|mix| mix.name().to_owned()).collect();
    assert_eq!(names.difference(&mixes).collect::<Vec<_>>(), ["mxfp4_moe"], "mixes without a row");
}

/// Gemma 3 270M as a Q4_K_M file of llama.cpp has it: hidden states of 640 columns are no whole
/// blocks of 256.
#[test]
fn short_rows_fall_back_as_in_llama_cpp() {
    let of = mixed(&decoder(18, 4, 640, false), &["--to", "Q4_K_M", "--rule", "*.3.mlp.up_proj.*=q8_0"]);
    assert_eq!(of("model.embed_tokens.weight"), "q8_0");
    for i in 0..18 {
        let sensitive = [0, 1, 4, 7, 10, 13, 15, 16, 17].contains(&i);
        let layer = |part: &str| of(&format!("model.layers.{i}.{part}.weight"));
        assert_eq!(layer("self_attn.v_proj"), if sensitive { "q8_0" } else { "q5_0" }, "{i}");
        assert_eq!(layer("mlp.down_proj"), if sensitive { "q6_k" } else { "q4_k" }, "{i}");
        assert_eq!(layer("self_attn.o_proj"), "q4_k");
        for part in ["self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj"] {
            assert_eq!(layer(part), "q5_0", "{i} {part}");
        }
        // A rule comes first.
        assert_eq!(layer("mlp.up_proj"), if i == 3 { "q8_0" } else { "q5_0" }, "{i}");
        assert_eq!(layer("input_layernorm"), "keep");
    }
    for (mix, becomes) in [("q5_k_s", "q5_1"), ("q3_k_s", "q4_0"), ("q2_k_s", "q4_0")] {
        let of = mixed(&decoder(1, 4, 640, true), &["--to", mix]);
        assert_eq!(of("model.layers.0.mlp.up_proj.weight"), becomes);
        assert_eq!(of("lm_head.weight"), "q8_0");
    }
}

/// Mixtures of eight experts have finer attention; layers count by their numbers.
#[test]
fn mixtures_of_experts_have_choices_of_their_own() {
    let experts = |count: usize| {
        let mut tensors = decoder(16, 2, 256, true);
        tensors.retain(|(name, _)| !name.contains(".mlp."));
        for layer in 0..16 {
            for (part, cols) in [("gate_up_proj", 256), ("down_proj", 256)] {
                tensors.push((format!("model.layers.{layer}.mlp.experts.{part}"), vec![count, 32, cols]));
            }
            tensors.push((format!("model.layers.{layer}.mlp.gate.weight"), vec![count, 256]));
        }
        tensors
    };
    for (count, mix, values, keys, outputs) in [
        (8, "q4_k_m", "q8_0", "q8_0", "q5_k"),
        (4, "q4_k_m", "q6_k", "q4_k", "q4_k"),
        (8, "q3_k_l", "q8_0", "q8_0", "q3_k"),
    ] {
        let of = mixed(&experts(count), &["--to", mix]);
        let layer = |i: usize, part: &str| of(&format!("model.layers.{i}.{part}"));
        assert_eq!(layer(0, "self_attn.v_proj.weight"), values);
        assert_eq!(layer(0, "self_attn.k_proj.weight"), keys);
        assert_eq!(layer(0, "self_attn.o_proj.weight"), outputs);
        assert_eq!(layer(0, "mlp.gate.weight"), "keep");
        if mix == "q4_k_m" {
            assert_eq!([0, 3, 4, 15].map(|i| layer(i, "mlp.experts.down_proj")), ["q6_k", "q4_k", "q6_k", "q6_k"]);
            assert_eq!(layer(0, "mlp.experts.gate_up_proj"), "q4_k");
        }
    }
    let of = mixed(&experts(4), &["--to", "mxfp4_moe"]);
    assert_eq!(of("model.layers.2.mlp.experts.down_proj"), "mxfp4");
    assert_eq!(of("model.layers.2.self_attn.q_proj.weight"), "q8_0");
    assert_eq!([of("lm_head.weight"), of("model.embed_tokens.weight")], ["q8_0", "q8_0"]);
}

#[test]
fn a_model_in_a_mix_runs_and_says_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let printed = ok(&["convert", MODEL, text(&out), "--to", "q4_k_m"]);
    assert!(printed.contains("by q4_k_m") && printed.contains("q6_k"), "{printed}");
    ok(&["verify", text(&out)]);
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["format"], "q4_k_m");
    let said = ok(&["run", text(&out), "--prompt", "Once upon a time", "-n", "8", "--temperature", "0"]);
    assert!(said.contains("Once upon a time"), "{said}");
}
