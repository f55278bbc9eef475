//! Phi-3 (Abdin et al., 2024): a Llama with fused matrices, and a rotary embedding for long
//! contexts.

use serde_json::json;

use super::rope::Part;
use super::{common_with, window};
use crate::config::Config;
use crate::error::Error;
use crate::nn::spec::{DecoderSpec, MlpSpec};

/// Reads Phi-3, 3.5 and 4.
pub(super) fn phi3(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({
        "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
    }));
    // The first files used this name for LongRoPE.
    let config = config.with_renamed("rope_scaling", "type", "yarn", "longrope");
    let config = config.with_renamed("rope_scaling", "rope_type", "yarn", "longrope");
    let config = config.with_renamed("rope_parameters", "rope_type", "yarn", "longrope");
    let mut spec = common_with(&config, Some(Part::AsConfigured))?;
    window(&config, &mut spec)?;
    for layer in &mut spec.layers {
        layer.attention.fused = true;
        if let MlpSpec::Dense(dense) = &mut layer.mlp {
            dense.fused = true;
        }
    }
    Ok(spec)
}
