//! Llama (Touvron et al., 2023; Grattafiori et al., 2024) and Mistral (Jiang et al., 2023), which
//! is a Llama with a sliding window.

use serde_json::json;

use super::{attention_bias, common, mlp_bias, window};
use crate::config::Config;
use crate::error::Error;
use crate::nn::spec::DecoderSpec;

/// Reads Llama 1 to 3 and models derived from them.
pub(super) fn llama(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({"max_position_embeddings": 2048}));
    let mut spec = common(&config)?;
    attention_bias(&config, &mut spec)?;
    mlp_bias(&config, &mut spec)?;
    Ok(spec)
}

/// Reads Mistral.
pub(super) fn mistral(config: &Config) -> Result<DecoderSpec, Error> {
    let config = config.with_defaults(json!({
        "num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131_072,
    }));
    let mut spec = common(&config)?;
    window(&config, &mut spec)?;
    Ok(spec)
}
