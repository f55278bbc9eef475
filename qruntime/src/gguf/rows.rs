//! Fields of `config.json` and the keys of GGUF that say the same: one table, read in both
//! directions.

use std::ops::RangeInclusive;

use crate::config::{LAYERS, SIZES, WIDTHS};
use crate::nn::spec::{DecoderSpec, EncoderSpec, MixtureSpec, MlpSpec};

/// A field and the key that says the same.
#[derive(Debug)]
pub(super) struct Row<Spec = DecoderSpec> {
    /// The field of `config.json`.
    pub(super) field: &'static str,
    /// The key, without the architecture.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    /// What it means if the key is missing.
    pub(super) missing: Missing,
    /// Where the network keeps the value. It has the family's defaults, which `config.json` may
    /// lack.
    pub(super) of: fn(&Spec) -> Option<f64>,
}

/// The values that are permitted.
#[derive(Debug)]
pub(super) enum Kind {
    /// An integer, the same for all layers.
    Size(RangeInclusive<usize>),
    Number(RangeInclusive<f64>),
}

/// The meaning of a missing key.
#[derive(Debug)]
pub(super) enum Missing {
    /// The file is not complete.
    Refused,
    /// The network does not have it: the field is null.
    None,
    /// This number.
    Is(f64),
    /// The value of another field, which comes earlier.
    As(&'static str),
}

use Kind::{Number, Size};

/// The range of factors and caps.
const RANGE: RangeInclusive<f64> = 1e-6..=1e6;

/// Has no place in the network's description: the field itself is read.
fn field<Spec>(_: &Spec) -> Option<f64> {
    None
}

fn mixture(spec: &DecoderSpec) -> Option<MixtureSpec> {
    spec.layers.iter().find_map(|layer| match layer.mlp {
        MlpSpec::Mixture(mixture) => Some(mixture),
        MlpSpec::Dense(_) => None,
    })
}

const fn size<Spec>(field: &'static str, key: &'static str, of: fn(&Spec) -> Option<f64>) -> Row<Spec> {
    Row { field, key, kind: Size(WIDTHS), missing: Missing::Refused, of }
}

const fn counted<Spec>(field: &'static str, key: &'static str, most: usize, of: fn(&Spec) -> Option<f64>) -> Row<Spec> {
    Row { field, key, kind: Size(1..=most), missing: Missing::Refused, of }
}

/// What all decoders have.
pub(super) const COMMON: &[Row] = &[
    size("hidden_size", "embedding_length", |spec| Some(spec.hidden as f64)),
    counted("num_hidden_layers", "block_count", LAYERS, |spec| Some(spec.layers.len() as f64)),
    size("num_attention_heads", "attention.head_count", |spec| Some(spec.layers[0].attention.heads as f64)),
    Row {
        field: "num_key_value_heads",
        key: "attention.head_count_kv",
        kind: Size(WIDTHS),
        missing: Missing::As("num_attention_heads"),
        of: |spec| Some(spec.layers[0].attention.kv_heads as f64),
    },
    size("intermediate_size", "feed_forward_length", field),
    counted("max_position_embeddings", "context_length", *SIZES.end(), |spec| Some(spec.context as f64)),
    Row {
        field: "rms_norm_eps",
        key: "attention.layer_norm_rms_epsilon",
        kind: Number(0.0..=1.0),
        missing: Missing::Refused,
        of: |spec| Some(spec.norm.eps.into()),
    },
];

const CHOSEN: Row = size("num_experts_per_tok", "expert_used_count", |spec| Some(mixture(spec)?.chosen as f64));

/// Mixtures as Mixtral and Granite name them. Their `feed_forward_length` is that of an expert.
pub(super) const LOCAL_EXPERTS: &[Row] =
    &[size("num_local_experts", "expert_count", |spec| Some(mixture(spec)?.experts as f64)), CHOSEN];

const EXPERT_WIDTH: Row =
    size("moe_intermediate_size", "expert_feed_forward_length", |spec| Some(mixture(spec)?.width as f64));

/// Mixtures as Qwen names them.
pub(super) const EXPERTS: &[Row] =
    &[size("num_experts", "expert_count", |spec| Some(mixture(spec)?.experts as f64)), CHOSEN, EXPERT_WIDTH];

/// And the shared expert.
pub(super) const SHARED_EXPERT: &[Row] = &[Row {
    field: "shared_expert_intermediate_size",
    key: "expert_shared_feed_forward_length",
    kind: Size(WIDTHS),
    missing: Missing::As("intermediate_size"),
    of: |spec| Some(mixture(spec)?.shared?.width as f64),
}];

const fn factor(field: &'static str, key: &'static str, missing: Missing, of: fn(&DecoderSpec) -> Option<f64>) -> Row {
    Row { field, key, kind: Number(RANGE), missing, of }
}

/// Granite's factors. Without a key, llama.cpp scales scores as in other networks, and nothing
/// else.
pub(super) const FACTORS: &[Row] = &[
    factor("embedding_multiplier", "embedding_scale", Missing::Is(1.0), |spec| Some(spec.embedding_scale.into())),
    factor("residual_multiplier", "residual_scale", Missing::Is(1.0), |spec| {
        Some(spec.layers[0].residual_scale.into())
    }),
    factor("logits_scaling", "logit_scale", Missing::Refused, |spec| Some(spec.logits_divisor.into())),
    factor("attention_multiplier", "attention.scale", Missing::None, |spec| {
        Some(spec.layers[0].attention.scale.into())
    }),
];

/// The caps of scores and of logits, where all networks have both.
pub(super) const CAPS: &[Row] = &[
    factor("attn_logit_softcapping", "attn_logit_softcapping", Missing::Is(50.0), |spec| {
        spec.layers[0].attention.softcap.map(f64::from)
    }),
    logits_cap(Missing::Is(30.0)),
];

/// The cap of logits, where few networks have it.
pub(super) const LOGITS_CAP: &[Row] = &[logits_cap(Missing::None)];

const fn logits_cap(missing: Missing) -> Row {
    factor("final_logit_softcapping", "final_logit_softcapping", missing, |spec| spec.logits_softcap.map(f64::from))
}

/// What BERT has.
pub(super) const BERT: &[Row<EncoderSpec>] = &[
    size("hidden_size", "embedding_length", |spec| Some(spec.hidden as f64)),
    counted("num_hidden_layers", "block_count", LAYERS, |spec| Some(spec.layers as f64)),
    size("num_attention_heads", "attention.head_count", |spec| Some(spec.attention.heads as f64)),
    size("intermediate_size", "feed_forward_length", |spec| Some(spec.mlp.width as f64)),
    counted("max_position_embeddings", "context_length", *SIZES.end(), |spec| Some(spec.positions as f64)),
    Row {
        field: "layer_norm_eps",
        key: "attention.layer_norm_epsilon",
        kind: Number(0.0..=1.0),
        missing: Missing::Refused,
        of: |spec| Some(spec.eps.into()),
    },
];
