//! Qwen 2 and 3 (Yang et al., 2024 and 2025) and their mixtures.

use serde_json::json;

use super::mixtral::{EXPERTS, mixture};
use super::{attention_bias, common, windows};
use crate::config::{Config, SIZES, WIDTHS};
use crate::error::Error;
use crate::nn::spec::{DecoderSpec, DenseSpec, Mask, MixtureSpec, MlpSpec};

/// Reads Qwen 2 and 2.5: queries, keys and values have biases. The last layers may see a window.
pub(super) fn qwen2(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({"num_key_value_heads": 32}));
    let mut spec = biased(&config, true)?;
    switched_windows(&config, &mut spec, |i, bound| i >= bound)?;
    Ok(spec)
}

/// Reads Qwen 3: query and key heads are normalized. The last layers may see a window.
pub(super) fn qwen3(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({"num_key_value_heads": 32, "head_dim": 128}));
    let mut spec = normalized(&config)?;
    switched_windows(&config, &mut spec, |i, bound| i >= bound)?;
    Ok(spec)
}

/// Reads Qwen 2 with experts, one of them shared. Every other of the first layers may see a
/// window.
pub(super) fn qwen2_moe(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({
        "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    }));
    let mut spec = biased(&config, config.flag_if("qkv_bias")?.unwrap_or(true))?;
    switched_windows(&config, &mut spec, |i, bound| i % 2 == 0 && i < bound)?;
    let width = config.size("shared_expert_intermediate_size", WIDTHS)?;
    experts(&config, &mut spec, "num_experts", |dense| Some(DenseSpec { width, ..dense }))?;
    Ok(spec)
}

/// Reads Qwen 3 with experts. All layers may see a window.
pub(super) fn qwen3_moe(config: &Config) -> Result<DecoderSpec, Error> {
    // Unlike in Qwen 3, heads divide the hidden size if `head_dim` is missing.
    let config = config.with_defaults(json!({
        "num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    }));
    let mut spec = normalized(&config)?;
    if let Some(window) = switched_window(&config)? {
        spec.layers.iter_mut().for_each(|layer| layer.attention.mask = Mask::Window(window));
    }
    // The newer name is Mixtral's; without either, there are 128.
    let field = if config.has("num_local_experts") { "num_local_experts" } else { "num_experts" };
    experts(&config.with_defaults(json!({field: 128})), &mut spec, field, |_| None)?;
    Ok(spec)
}

/// Reads what all have in common.
fn qwen(config: &Config) -> Result<DecoderSpec, Error> {
    common(&config.with_defaults(json!({"max_position_embeddings": 32_768})))
}

fn biased(config: &Config, bias: bool) -> Result<DecoderSpec, Error> {
    let mut spec = qwen(config)?;
    spec.layers.iter_mut().for_each(|layer| layer.attention.inputs_bias = bias);
    Ok(spec)
}

fn normalized(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = qwen(config)?;
    attention_bias(config, &mut spec)?;
    for layer in &mut spec.layers {
        layer.attention.head_norm = Some(spec.norm);
    }
    Ok(spec)
}

/// Returns the window of some layers, if it is enabled.
fn switched_window(config: &Config) -> Result<Option<usize>, Error> {
    match config.flag_if("use_sliding_window")? {
        Some(true) => config.with_defaults(json!({"sliding_window": 4096})).size_if("sliding_window", SIZES),
        _ => Ok(None), // and then it may be 0
    }
}

/// Gives some layers a window, if it is enabled: those that `windowed` selects by their index and
/// `max_window_layers`.
fn switched_windows(
    config: &Config,
    spec: &mut DecoderSpec,
    windowed: impl Fn(usize, usize) -> bool,
) -> Result<(), Error> {
    let window = switched_window(config)?;
    let config = config.with_defaults(json!({"max_window_layers": 28}));
    let bound = config.size("max_window_layers", 0..=*SIZES.end())?;
    windows(&config, spec, window, |i| windowed(i, bound))
}

/// Puts mixtures into the layers that have them. `count` is the field with the number of experts.
fn experts(
    config: &Config,
    spec: &mut DecoderSpec,
    count: &str,
    shared: impl Fn(DenseSpec) -> Option<DenseSpec>,
) -> Result<(), Error> {
    let experts = config.size(count, 1..=EXPERTS)?;
    let chosen = config.size("num_experts_per_tok", 1..=experts)?;
    let width = config.size("moe_intermediate_size", WIDTHS)?;
    let normalized = config.flag_if("norm_topk_prob")?.unwrap_or(false);
    let step = config.size_if("decoder_sparse_step", SIZES)?.unwrap_or(1);
    let dense_layers = config.sizes("mlp_only_layers", 0..=*SIZES.end())?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if dense_layers.contains(&i) || !(i + 1).is_multiple_of(step) {
            continue;
        }
        if let MlpSpec::Dense(dense) = layer.mlp {
            let expert = DenseSpec { width, ..dense };
            let mixture = MixtureSpec { normalized, shared: shared(dense), ..mixture(expert, experts, chosen) };
            layer.mlp = MlpSpec::Mixture(mixture);
        }
    }
    Ok(())
}
