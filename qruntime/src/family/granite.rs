//! Granite (IBM, 2024): a Llama whose embeddings, scores, residuals and logits are scaled; and
//! Granite mixtures, which store all experts in one tensor.

use std::ops::RangeInclusive;

use serde_json::json;

use super::mixtral::{EXPERTS, mixture};
use super::{attention_bias, common, mlp_bias};
use crate::config::Config;
use crate::error::Error;
use crate::nn::spec::{DecoderSpec, MlpSpec};

/// The permitted values of a scale.
const SCALES: RangeInclusive<f64> = 1e-6..=1e6;

/// Reads Granite without experts.
pub(super) fn granite(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = scaled(config)?;
    mlp_bias(config, &mut spec)?;
    Ok(spec)
}

/// Reads what both have in common.
fn scaled(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = common(&config.with_defaults(json!({"max_position_embeddings": 2048})))?;
    attention_bias(config, &mut spec)?;
    let scale = |field: &str| Ok::<_, Error>(config.number_if(field, SCALES)?.unwrap_or(1.0) as f32);
    spec.embedding_scale = scale("embedding_multiplier")?;
    spec.logits_divisor = scale("logits_scaling")?;
    let (attention, residual) = (scale("attention_multiplier")?, scale("residual_multiplier")?);
    for layer in &mut spec.layers {
        layer.attention.scale = attention;
        layer.residual_scale = residual;
    }
    Ok(spec)
}

/// Reads Granite with experts.
pub(super) fn granite_moe(config: &Config) -> Result<DecoderSpec, Error> {
    let mut spec = scaled(config)?;
    let config = config.with_defaults(json!({"num_local_experts": 8, "num_experts_per_tok": 2}));
    let experts = config.size("num_local_experts", 1..=EXPERTS)?;
    let chosen = config.size("num_experts_per_tok", 1..=experts)?;
    for layer in &mut spec.layers {
        if let MlpSpec::Dense(dense) = layer.mlp {
            layer.mlp = MlpSpec::Mixture(mixture(dense, experts, chosen));
        }
    }
    Ok(spec)
}
