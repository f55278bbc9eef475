//! BERT (Devlin et al., 2018) and later models with the same layers: MiniLM, BGE, E5.

use kernels::Activation;
use serde_json::json;

use super::{ACTIVATIONS, head_dim};
use crate::config::{Config, LAYERS, SIZES, WIDTHS};
use crate::error::Error;
use crate::nn::spec::{AttentionSpec, DenseSpec, EncoderSpec, Mask};

/// Reads BERT.
pub(super) fn bert(config: &Config) -> Result<EncoderSpec, Error> {
    let config = &config.with_defaults(json!({"max_position_embeddings": 512, "type_vocab_size": 2}));
    let hidden = config.size("hidden_size", WIDTHS)?;
    let heads = config.size("num_attention_heads", WIDTHS)?;
    let head_dim = head_dim(config, hidden, heads)?;
    config.one_of("position_embedding_type", &[("absolute", ())])?;
    let causal = config.flag_if("is_decoder")?.unwrap_or(false);
    if config.flag_if("add_cross_attention")? == Some(true) {
        return Err(config.refuse("add_cross_attention", true, "false: there is no other sequence to attend to"));
    }
    Ok(EncoderSpec {
        vocabulary: config.size("vocab_size", SIZES)?,
        hidden,
        positions: config.size("max_position_embeddings", SIZES)?,
        kinds: config.size("type_vocab_size", SIZES)?,
        layers: config.size("num_hidden_layers", 1..=LAYERS)?,
        eps: config.number_if("layer_norm_eps", 0.0..=1.0)?.unwrap_or(1e-12) as f32,
        attention: AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap: None,
            mask: if causal { Mask::Causal } else { Mask::Full },
            rope: None,
            head_norm: None,
            fused: false,
            inputs_bias: true,
            output_bias: true,
        },
        mlp: DenseSpec {
            width: config.size("intermediate_size", WIDTHS)?,
            activation: config.one_of("hidden_act", ACTIVATIONS)?.unwrap_or(Activation::Gelu),
            gated: false,
            fused: false,
            bias: true,
        },
    })
}
