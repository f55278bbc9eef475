//! Gemma 2 and 3 (Gemma Team, 2024 and 2025): norms before and after each part of a layer, and
//! layers that see a window among layers that see all positions.

use kernels::Activation;
use serde_json::json;

use super::{ACTIVATIONS, attention_bias, common_with, rope, windows};
use crate::config::{Config, SIZES};
use crate::error::Error;
use crate::nn::spec::{DecoderSpec, Mask, MlpSpec};

/// Fills in the defaults of both.
fn with_defaults(config: &Config) -> Config {
    config.with_defaults(json!({
        "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh",
    }))
}

/// Reads what both have in common; without a `rotated` part, leaves out rotations.
fn gemma(config: &Config, rotated: Option<rope::Part>) -> Result<DecoderSpec, Error> {
    let mut spec = common_with(config, rotated)?;
    attention_bias(config, &mut spec)?;
    spec.norm.plus_one = true;
    spec.embedding_scale = (spec.hidden as f32).sqrt();
    spec.logits_softcap = softcap(config, "final_logit_softcapping")?;
    let scalar = config.number("query_pre_attn_scalar", 1e-3..=1e6)?;
    let scale = (1.0 / scalar.sqrt()) as f32;
    let activation = config.one_of("hidden_activation", ACTIVATIONS)?;
    for layer in &mut spec.layers {
        layer.attention.scale = scale;
        layer.norms_after = true;
        if let MlpSpec::Dense(dense) = &mut layer.mlp {
            dense.activation = activation.unwrap_or(Activation::GeluTanh);
        }
    }
    Ok(spec)
}

/// Refuses a network whose tokens see later ones.
fn causal(config: &Config) -> Result<(), Error> {
    match config.flag_if("use_bidirectional_attention")? {
        Some(true) => Err(config.refuse("use_bidirectional_attention", true, "false, as with language models")),
        _ => Ok(()),
    }
}

fn softcap(config: &Config, field: &str) -> Result<Option<f32>, Error> {
    Ok(config.number_if(field, 1e-3..=1e6)?.map(|cap| cap as f32))
}

/// Reads Gemma 2: every other layer sees a window.
pub(super) fn gemma2(config: &Config) -> Result<DecoderSpec, Error> {
    let config = with_defaults(config).with_defaults(json!({
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "max_position_embeddings": 8192,
    }));
    causal(&config)?;
    let mut spec = gemma(&config, Some(rope::Part::Whole))?;
    let cap = softcap(&config, "attn_logit_softcapping")?;
    spec.layers.iter_mut().for_each(|layer| layer.attention.softcap = cap);
    let window = config.size_if("sliding_window", SIZES)?;
    windows(&config, &mut spec, window, |i| i % 2 == 0)?;
    Ok(spec)
}

/// Reads Gemma 3: all layers except every sixth see a window, and these have their own rotary
/// embedding.
pub(super) fn gemma3(config: &Config) -> Result<DecoderSpec, Error> {
    let config = with_defaults(config).with_defaults(json!({
        "sliding_window_pattern": 6, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
        "max_position_embeddings": 131_072,
    }));
    causal(&config)?;
    // `attn_logit_softcapping` may exist: transformers keeps the field but never applies it.
    let mut spec = gemma(&config, None)?;
    let pattern = config.size("sliding_window_pattern", SIZES)?;
    // Layers of the windowed kind have its rotary embedding even if there is no window.
    let window = config.size_if("sliding_window", SIZES)?.unwrap_or(*SIZES.end());
    windows(&config, &mut spec, Some(window), |i| !(i + 1).is_multiple_of(pattern))?;
    let (head_dim, head_norm) = (spec.layers[0].attention.head_dim, Some(spec.norm));
    let global = config.number("rope_theta", rope::THETAS)?;
    let local = config.number("rope_local_base_freq", rope::THETAS)?;
    spec.ropes = vec![
        rope::read_for(&config, "full_attention", head_dim, spec.context, global, true)?,
        rope::read_for(&config, "sliding_attention", head_dim, spec.context, local, false)?,
    ];
    for layer in &mut spec.layers {
        layer.attention.head_norm = head_norm;
        layer.attention.rope = Some(usize::from(layer.attention.mask != Mask::Causal));
    }
    Ok(spec)
}

/// Reads Gemma 3 as a part of a model that also takes images; only the text model runs here.
pub(super) fn gemma3_within(config: &Config) -> Result<DecoderSpec, Error> {
    // Such files leave out fields with the values of the family's first model.
    let first = json!({"vocab_size": 262_208, "num_attention_heads": 8});
    let mut spec = gemma3(&config.section("text_config")?.with_defaults(first))?;
    // transformers applies no cap within the larger model, and reads the flag outside the part.
    spec.logits_softcap = None;
    spec.tied = config.flag_if("tie_word_embeddings")?.unwrap_or(true);
    Ok(spec)
}
