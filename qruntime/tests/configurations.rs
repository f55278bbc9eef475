//! Fields of `config.json` that are missing, meaningless for a family, in conflict with others, or
//! written in an unusual way mean what they mean to `transformers`. A model with such a
//! configuration is compared with the same model in the usual form, so the right value follows by
//! equivalence.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;

use qruntime::{CausalLm, Encoder, Network, NetworkKind, SessionOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use support::models::{copy, families};
use tempfile::TempDir;

const TOKENS: [u32; 40] = {
    let mut tokens = [0; 40];
    let mut i = 0;
    while i < tokens.len() {
        tokens[i] = (i * 7 % 53) as u32 + 3;
        i += 1;
    }
    tokens
};

/// Copies a tiny model with changes to its fields: null removes one.
fn changed(family: &str, changes: &Value) -> TempDir {
    let (_, source) = families().find(|(name, _)| name == family).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy(&source, folder.path());
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(field)),
            value => config[field] = value.clone(),
        }
    }
    fs::write(path, config.to_string()).unwrap();
    folder
}

/// Returns the logits after every token.
fn logits(folder: &Path) -> Vec<u32> {
    let lm = CausalLm::open(folder).unwrap_or_else(|error| panic!("{error}"));
    let mut logits = Vec::new();
    let mut session = lm.session_with(SessionOptions::default().context(TOKENS.len()));
    session.feed_each(&TOKENS, |_, row| logits.extend(row.iter().map(|x| x.to_bits()))).unwrap();
    logits
}

/// Asserts that one change gives the same logits as another, and unless that one is empty, other
/// logits than no change.
fn same(family: &str, change: Value, as_with: Value) {
    let ours = logits(changed(family, &change).path());
    assert!(ours == logits(changed(family, &as_with).path()), "{family}: {change} is not as {as_with}");
    if as_with != json!({}) {
        assert!(ours != logits(changed(family, &json!({})).path()), "{family}: {change} changes nothing");
    }
}

fn refused(family: &str, change: Value, expected: &str) {
    let error = CausalLm::open(changed(family, &change).path()).unwrap_err().to_string();
    assert!(error.contains(expected), "{family}: {change}: {error}");
}

#[test]
fn fields_that_a_family_does_not_read_change_nothing() {
    for family in ["mistral", "mixtral", "qwen2", "phi3", "gemma2"] {
        same(family, json!({"mlp_bias": true}), json!({}));
    }
    for family in ["mistral", "mixtral", "qwen2", "qwen2-moe", "phi3"] {
        same(family, json!({"attention_bias": true}), json!({}));
    }
    same("granitemoe", json!({"mlp_bias": true}), json!({}));
    same("qwen2", json!({"qkv_bias": false}), json!({}));
    // Never applied, and neither is the other cap within a model that takes images.
    same("gemma3", json!({"attn_logit_softcapping": 3.0}), json!({}));
    same("qwen2-moe", json!({"num_local_experts": 5}), json!({}));
    // All layers of these see the window, or none.
    let types = json!({"layer_types": ["full_attention", "full_attention"]});
    same("mistral", types, json!({}));
    let window = json!({"use_sliding_window": true, "sliding_window": 9});
    let mut types = window.clone();
    types["layer_types"] = json!(["full_attention", "sliding_attention", "full_attention"]);
    same("qwen3-moe", types, window);
    for family in ["llama", "mistral", "qwen2", "gemma2", "granite"] {
        same(family, json!({"partial_rotary_factor": 0.5}), json!({}));
    }
}

#[test]
fn fields_that_a_family_reads_count() {
    for family in ["llama", "granite", "qwen3", "gemma2", "granitemoe", "qwen3-moe"] {
        refused(family, json!({"attention_bias": true}), "self_attn.q_proj.bias");
    }
    for family in ["llama", "granite"] {
        refused(family, json!({"mlp_bias": true}), "mlp.gate_proj.bias");
    }
    refused("qwen2-moe", json!({"qkv_bias": false}), "self_attn.q_proj.bias");
    refused("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention");
    let partial = json!({"partial_rotary_factor": 0.5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}});
    refused("llama", partial, "partial_rotary_factor");
}

#[test]
fn left_out_fields_have_the_defaults_of_their_family() {
    // Heads of a Qwen 3 mixture divide the hidden size: 32 in 4 heads. In Qwen 3, they would have
    // 128 elements.
    refused("qwen3-moe", json!({"head_dim": null}), "[48, 32], expected [32, 32]");
    refused("qwen3", json!({"head_dim": null}), "[96, 40], expected [512, 40]");
    for (family, heads) in [("qwen2", 32), ("qwen3", 32), ("qwen2-moe", 16)] {
        let expected = format!("\"num_key_value_heads\": {heads}, expected a divisor of 4");
        refused(family, json!({"num_key_value_heads": null}), &expected);
    }
    refused("qwen3-moe", json!({"num_key_value_heads": null}), "[24, 32], expected [48, 32]");
    for (family, context) in [
        ("llama", 2048),
        ("mistral", 131_072),
        ("mixtral", 131_072),
        ("qwen2", 32_768),
        ("qwen3", 32_768),
        ("qwen2-moe", 32_768),
        ("qwen3-moe", 32_768),
        ("gemma2", 8192),
        ("gemma3", 131_072),
        ("phi3", 4096),
        ("granite", 2048),
        ("granitemoe", 2048),
    ] {
        let folder = changed(family, &json!({"max_position_embeddings": null}));
        assert_eq!(CausalLm::open(folder.path()).unwrap().config().context, context, "{family}");
    }
    same("mixtral", json!({"num_experts_per_tok": null}), json!({}));
    same("mixtral", json!({"num_local_experts": null, "num_experts": 4}), json!({}));
    same("qwen3-moe", json!({"num_experts": null, "num_local_experts": 6}), json!({}));
    let bert = changed("bert-mean", &json!({"max_position_embeddings": null}));
    let error = Encoder::open(bert.path()).unwrap_err().to_string();
    assert!(error.contains("[48, 36], expected [512, 36]"), "{error}");
}

#[test]
fn rope_scaling_stands_before_rope_parameters() {
    let parameters = json!({"rope_type": "default", "rope_theta": 77.0});
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    // The base belongs to the field that is not read.
    let both = json!({"rope_parameters": parameters, "rope_scaling": linear, "rope_theta": null});
    same("llama", both, json!({"rope_scaling": linear, "rope_theta": 10_000.0}));
    let both = json!({"rope_parameters": parameters, "rope_scaling": linear});
    same("llama", both, json!({"rope_scaling": linear}));
    let both = json!({"rope_parameters": parameters, "rope_scaling": {}});
    same("llama", both, json!({"rope_theta": 77.0}));
    // With rotations for each kind of layer, it changes those of one kind.
    let nested = json!({"full_attention": {"rope_theta": 77.0}, "sliding_attention": {"rope_theta": 33.0}});
    let both = json!({"rope_parameters": nested, "rope_scaling": linear});
    let mut merged = nested.clone();
    merged["full_attention"] = json!({"rope_theta": 77.0, "rope_type": "linear", "factor": 4.0});
    same("gemma3", both, json!({"rope_parameters": merged, "rope_scaling": null}));
    refused("qwen2", json!({"rope_parameters": nested}), "rope_parameters.full_attention");
    // An explicit factor takes precedence over the ratio of two contexts.
    let factors = json!([1.0, 1.1, 1.2, 1.4, 1.7]);
    let long = |factor: Value| json!({"rope_scaling": {"type": "longrope", "short_factor": factors, "long_factor": factors, "factor": factor}});
    same("phi3-longrope", long(json!(4.0)), long(Value::Null));
    same(
        "phi3-longrope",
        long(json!(9.0)),
        json!({"rope_scaling": {
            "type": "longrope", "short_factor": factors, "long_factor": factors,
            "attention_factor": (1.0 + 9.0f64.ln() / 16.0f64.ln()).sqrt(),
        }}),
    );
}

#[test]
fn tokens_that_mean_none_are_none() {
    for (value, expected) in
        [(json!(-1), &[][..]), (json!([2, -1]), &[2]), (json!([2, 1u64 << 40]), &[2]), (json!(61), &[])]
    {
        let folder = changed("llama", &json!({"eos_token_id": value, "bos_token_id": -1}));
        let lm = CausalLm::open(folder.path()).unwrap();
        assert_eq!((lm.config().eos.as_slice(), lm.config().bos), (expected, None), "{value}");
    }
    refused("llama", json!({"eos_token_id": 2.5}), "\"eos_token_id\": 2.5");
}

#[test]
fn what_python_writes_is_read() {
    let folder = changed("llama", &json!({}));
    let path = folder.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    let plain = logits(folder.path());
    let with = |fields: &str| fs::write(&path, config.replacen('{', &format!("{{{fields},"), 1)).unwrap();
    with(r#""time_step_limit": [0.0, Infinity], "a": -Infinity, "b": {"c": NaN, "d": "NaN"}"#);
    assert!(logits(folder.path()) == plain);
    with(r#""attention_multiplier": Infinity"#);
    assert!(logits(folder.path()) == plain);
    fs::write(&path, config.replace("500.0", "Infinity")).unwrap();
    let error = CausalLm::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("\"rope_theta\": \"Infinity\", expected a number"), "{error}");
    fs::write(&path, format!("\u{feff}{config}")).unwrap();
    let error = CausalLm::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("byte order mark"), "{error}");
}

/// Rewrites the model's file with some tensors renamed, added or removed.
fn rewrite(folder: &Path, change: impl Fn(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned =
        |(name, view): (String, TensorView<'_>)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut tensors: Vec<_> = file.tensors().into_iter().map(owned).collect();
    change(&mut tensors);
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A file may have either of two tied tensors, both, or two different ones.
#[test]
fn tied_tensors_are_what_the_file_has() {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    let open = |folder: &TempDir| {
        let warnings: Vec<String> = CausalLm::open(folder.path()).unwrap().warnings().map(str::to_owned).collect();
        (logits(folder.path()), warnings)
    };
    let plain = changed("llama", &json!({}));
    let (tied, warnings) = open(&plain);
    assert!(warnings.is_empty());

    let head_only = changed("llama", &json!({}));
    rewrite(head_only.path(), |tensors| {
        tensors.iter_mut().find(|tensor| tensor.0 == EMBEDDING).unwrap().0 = HEAD.into();
    });
    assert!(open(&head_only) == (tied.clone(), vec![]));

    // Rows of the embedding in another order, so that logits are in another order.
    let add_head = |folder: &TempDir, shifted: bool| {
        rewrite(folder.path(), |tensors| {
            let mut head = tensors.iter().find(|tensor| tensor.0 == EMBEDDING).unwrap().clone();
            head.0 = HEAD.into();
            let row = head.3.len() / head.2[0];
            if shifted {
                head.3.rotate_left(row);
            }
            tensors.push(head);
        });
    };
    let equal = changed("llama", &json!({}));
    add_head(&equal, false);
    assert!(open(&equal) == (tied.clone(), vec![]));

    let other = changed("llama", &json!({}));
    add_head(&other, true);
    let (logits, warnings) = open(&other);
    let vocabulary = logits.len() / TOKENS.len();
    let mut expected = tied.clone();
    expected.chunks_mut(vocabulary).for_each(|row| row.rotate_left(1));
    assert!(logits == expected);
    assert_eq!(warnings.len(), 1);
    assert!(["tie_word_embeddings", EMBEDDING, HEAD].iter().all(|name| warnings[0].contains(name)), "{}", warnings[0]);

    // Without the flag, there is nothing to warn about, and neither tensor replaces the other.
    let untied = changed("llama", &json!({"tie_word_embeddings": false}));
    assert!(CausalLm::open(untied.path()).unwrap_err().to_string().contains(HEAD));
    add_head(&untied, true);
    assert!(open(&untied) == (expected, vec![]));
    let untied = changed("llama", &json!({"tie_word_embeddings": false}));
    rewrite(untied.path(), |tensors| {
        tensors.iter_mut().find(|tensor| tensor.0 == EMBEDDING).unwrap().0 = HEAD.into();
    });
    assert!(CausalLm::open(untied.path()).unwrap_err().to_string().contains(EMBEDDING));
}

/// Within a model that takes images, the text model has no cap on its logits.
#[test]
fn a_part_of_a_larger_model_has_no_cap() {
    let folder = changed("gemma3", &json!({}));
    let config: Value = serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    let plain = logits(folder.path());
    let capped = json!({"final_logit_softcapping": 1.0});
    assert!(logits(changed("gemma3", &capped).path()) != plain);
    let mut text = config;
    text["final_logit_softcapping"] = json!(1.0);
    let whole = json!({"model_type": "gemma3", "text_config": text});
    fs::write(folder.path().join("config.json"), whole.to_string()).unwrap();
    rewrite(folder.path(), |tensors| {
        for tensor in tensors {
            tensor.0 = tensor.0.replacen("model.", "model.language_model.", 1);
        }
    });
    assert!(logits(folder.path()) == plain);
}

#[test]
fn a_folder_says_which_kind_of_network_it_is() {
    for (name, path) in families() {
        let kind = Network::kind(&path).unwrap();
        let network = Network::open(&path).unwrap();
        match (kind, network) {
            (NetworkKind::CausalLm { family }, Network::CausalLm(lm)) => assert_eq!(family, lm.config().family),
            (NetworkKind::Encoder { family }, Network::Encoder(encoder)) => {
                assert_eq!(family, encoder.config().family);
            }
            (kind, network) => panic!("{name}: {kind}, opened as {network:?}"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&families().next().unwrap().1, folder.path());
    let config = folder.path().join("config.json");
    for (text, family, message) in [
        ("{\"model_type\": \"mamba\"}", "mamba", "\"model_type\": \"mamba\", expected llama, "),
        ("{\"architectures\": [\"Foo\"]}", "Foo", "\"architectures\": \"Foo\", expected llama, "),
        ("{}", "", "\"model_type\": missing, expected llama, "),
    ] {
        fs::write(&config, text).unwrap();
        assert_eq!(Network::kind(folder.path()).unwrap(), NetworkKind::Unknown { family: family.into() });
        let error = Network::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(message) && error.ends_with("granitemoe, bert"), "{error}");
    }
    fs::write(&config, "{").unwrap();
    assert!(Network::kind(folder.path()).is_err());
    assert!(Network::kind(folder.path().join("none")).is_err());
}
