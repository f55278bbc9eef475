//! Qwen 2 and 3 (Yang et al., 2024 and 2025), and their mixtures.

use serde_json::json;

use super::mixtral::{EXPERTS, mixture};
use super::{common, windows};
use crate::config::{Config, SIZES, WIDTHS};
use crate::error::Error;
use crate::nn::spec::{DecoderSpec, DenseSpec, MixtureSpec, MlpSpec};

/// Qwen 2 and 2.5: queries, keys and values have biases. The last layers may see a window.
pub(super) fn qwen2(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = biased(config)?;
    switched_windows(config, &mut spec, |i, bound| i >= bound)?;
    Ok(spec)
}

/// Qwen 3: heads of queries and keys are normalized. The last layers may see a window.
pub(super) fn qwen3(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = normalized(config)?;
    switched_windows(config, &mut spec, |i, bound| i >= bound)?;
    Ok(spec)
}

/// Qwen 2 with experts, and one that every row takes. Every other of the first layers may see a window.
pub(super) fn qwen2_moe(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = biased(config)?;
    switched_windows(config, &mut spec, |i, bound| i % 2 == 0 && i < bound)?;
    let width = config.size("shared_expert_intermediate_size", WIDTHS)?;
    experts(config, &mut spec, |dense| {
        Some((DenseSpec { scope: "shared_expert", width, ..dense }, "shared_expert_gate"))
    })?;
    Ok(spec)
}

/// Qwen 3 with experts. All layers may see a window.
pub(super) fn qwen3_moe(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = normalized(config)?;
    switched_windows(config, &mut spec, |_, _| true)?;
    experts(config, &mut spec, |_| None)?;
    Ok(spec)
}

fn biased(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = common(config)?;
    let bias = config.flag_if("qkv_bias")?.unwrap_or(true);
    for layer in &mut spec.layers {
        (layer.attention.inputs_bias, layer.attention.output_bias) = (bias, false);
    }
    Ok(spec)
}

fn normalized(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = common(&config.with_defaults(json!({"head_dim": 128})))?;
    for layer in &mut spec.layers {
        layer.attention.head_norm = Some(spec.norm);
    }
    Ok(spec)
}

/// Some layers see a window, if it is switched on: those that `windowed` says of their place, and of `max_window_layers`.
fn switched_windows(
    config: &Config,
    spec: &mut DecoderSpec,
    windowed: impl Fn(usize, usize) -> bool,
) -> Result<(), Error> {
    let config = config.with_defaults(json!({"sliding_window": 4096, "max_window_layers": 28}));
    let window = match config.flag_if("use_sliding_window")? {
        Some(true) => config.size_if("sliding_window", SIZES)?,
        _ => None, // and then it may be 0
    };
    let bound = config.size("max_window_layers", 0..=*SIZES.end())?;
    windows(&config, spec, window, |i| windowed(i, bound))
}

/// Puts mixtures into the layers that have them.
fn experts(
    config: &Config,
    spec: &mut DecoderSpec,
    shared: impl Fn(DenseSpec) -> Option<(DenseSpec, &'static str)>,
) -> Result<(), Error> {
    // The newer name is that of Mixtral.
    let field = if config.has("num_local_experts") { "num_local_experts" } else { "num_experts" };
    let experts = config.size(field, 1..=EXPERTS)?;
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
