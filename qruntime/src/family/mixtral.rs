//! Mixtral (Jiang et al., 2024): a Mistral with a mixture in every layer.

use serde_json::json;

use super::{common, window};
use crate::config::Config;
use crate::error::Error;
use crate::nn::spec::{DecoderSpec, DenseSpec, MixtureSpec, MlpSpec};

/// The most experts that a mixture may have.
pub(super) const EXPERTS: usize = 4096;

/// Reads Mixtral.
pub(super) fn mixtral(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "max_position_embeddings": 131_072,
        "num_experts_per_tok": 2,
    }));
    let mut spec = common(&config)?;
    window(&config, &mut spec)?;
    // The other name is Qwen's; without either, there are 8.
    let field = if config.has("num_experts") { "num_experts" } else { "num_local_experts" };
    let experts = config.with_defaults(json!({field: 8})).size(field, 1..=EXPERTS)?;
    let chosen = config.size("num_experts_per_tok", 1..=experts)?;
    for layer in &mut spec.layers {
        if let MlpSpec::Dense(dense) = layer.mlp {
            layer.mlp = MlpSpec::Mixture(mixture(dense, experts, chosen));
        }
    }
    Ok(spec)
}

/// Returns the usual kind of mixture, with experts like `dense`.
pub(super) fn mixture(dense: DenseSpec, experts: usize, chosen: usize) -> MixtureSpec {
    MixtureSpec { experts, chosen, width: dense.width, activation: dense.activation, normalized: true, shared: None }
}
