//! Families of networks. Each is a file that reads `config.json` into a [`DecoderSpec`] or an
//! [`EncoderSpec`], and a line in [`DECODERS`] or [`ENCODERS`].

mod bert;
mod gemma;
mod granite;
mod llama;
mod mixtral;
mod phi;
mod qwen;
mod rope;

use kernels::Activation;

use crate::config::{Config, LAYERS, SIZES, WIDTHS};
use crate::error::Error;
use crate::names::{self, Names};
use crate::nn::MAX_PASS_ELEMENTS;
use crate::nn::attention::MAX_HEAD_DIM;
use crate::nn::spec::{AttentionSpec, DecoderSpec, DenseSpec, EncoderSpec, LayerSpec, Mask, MlpSpec, NormSpec};

/// The families of a kind: the values of `model_type` and of `architectures`, the names of tensors,
/// and the function that reads the spec.
type Families<Spec> = [(&'static str, &'static str, &'static Names, fn(&Config) -> Result<Spec, Error>)];

/// Networks that predict the next token.
const DECODERS: &Families<DecoderSpec> = &[
    ("llama", "LlamaForCausalLM", names::LLAMA, llama::llama),
    ("mistral", "MistralForCausalLM", names::LLAMA, llama::mistral),
    ("mixtral", "MixtralForCausalLM", names::MIXTRAL, mixtral::mixtral),
    ("qwen2", "Qwen2ForCausalLM", names::LLAMA, qwen::qwen2),
    ("qwen2_moe", "Qwen2MoeForCausalLM", names::LLAMA, qwen::qwen2_moe),
    ("qwen3", "Qwen3ForCausalLM", names::LLAMA, qwen::qwen3),
    ("qwen3_moe", "Qwen3MoeForCausalLM", names::LLAMA, qwen::qwen3_moe),
    ("gemma2", "Gemma2ForCausalLM", names::GEMMA, gemma::gemma2),
    ("gemma3_text", "Gemma3ForCausalLM", names::GEMMA, gemma::gemma3),
    ("gemma3", "Gemma3ForConditionalGeneration", names::GEMMA, gemma::gemma3_within),
    ("phi3", "Phi3ForCausalLM", names::PHI, phi::phi3),
    ("granite", "GraniteForCausalLM", names::GRANITE, granite::granite),
    ("granitemoe", "GraniteMoeForCausalLM", names::GRANITE, granite::granite_moe),
];

/// Networks that embed texts.
const ENCODERS: &Families<EncoderSpec> = &[("bert", "BertModel", names::BERT, bert::bert)];

/// Reads the spec of a decoder. Also returns the name of its family and the family's tensor names.
pub(crate) fn decoder(config: &Config) -> Result<(&'static str, &'static Names, DecoderSpec), Error> {
    let (family, names, mut spec) = read(config, DECODERS)?;
    spec.context = spec.ropes.iter().map(|rope| rope.reach).fold(spec.context, usize::max);
    // Tiny heads take more memory than the matrices that compute them.
    let bytes = spec.layers.iter().map(|layer| layer.attention.panel_bytes()).fold(0, usize::saturating_add);
    if bytes > FIRST_KV {
        let expected = format!("fewer in {} layers: keys and values of a token take {bytes} bytes", spec.layers.len());
        return Err(config.refuse("num_key_value_heads", spec.layers[0].attention.kv_heads, expected));
    }
    Ok((family, names, spec))
}

/// Reads the spec of an encoder. Also returns the name of its family and the family's tensor
/// names.
pub(crate) fn encoder(config: &Config) -> Result<(&'static str, &'static Names, EncoderSpec), Error> {
    let (family, names, spec) = read(config, ENCODERS)?;
    // Attention takes a text as a whole.
    let longest = MAX_PASS_ELEMENTS / spec.row_elements();
    if spec.positions > longest {
        let expected = format!("at most {longest} with {} elements for each", spec.row_elements());
        return Err(config.refuse("max_position_embeddings", spec.positions, expected));
    }
    Ok((family, names, spec))
}

fn read<Spec>(config: &Config, families: &Families<Spec>) -> Result<(&'static str, &'static Names, Spec), Error> {
    let (field, found) = named(config)?;
    match families.iter().find(|(name, architecture, ..)| found == *name || found == *architecture) {
        Some((name, _, names, read)) => Ok((name, names, read(config)?)),
        None => Err(refuse(config, field, &found, names(families))),
    }
}

/// Returns the tensor names of the family with this `model_type`; `None` if the family is not
/// known.
#[must_use]
pub fn names_of(model_type: &str) -> Option<&'static Names> {
    let decoder = DECODERS.iter().find(|(name, ..)| *name == model_type).map(|(_, _, names, _)| *names);
    decoder.or_else(|| ENCODERS.iter().find(|(name, ..)| *name == model_type).map(|(_, _, names, _)| *names))
}

/// Returns the value of `architectures` of the family with this `model_type`, or an empty text.
pub(crate) fn class_of(model_type: &str) -> &'static str {
    fn among<Spec>(families: &Families<Spec>, model_type: &str) -> Option<&'static str> {
        families.iter().find(|(name, ..)| *name == model_type).map(|(_, class, ..)| *class)
    }
    among(DECODERS, model_type).or_else(|| among(ENCODERS, model_type)).unwrap_or("")
}

/// The kind of network that `config.json` describes.
pub(crate) enum Found {
    /// A decoder of this family.
    Decoder(&'static str),
    /// An encoder of this family.
    Encoder(&'static str),
    /// The field that names the family, and the unknown family.
    Unknown(&'static str, String),
}

/// Finds the family of a network of any kind.
pub(crate) fn find(config: &Config) -> Result<Found, Error> {
    fn among<Spec>(families: &Families<Spec>, found: &str) -> Option<&'static str> {
        let family = families.iter().find(|(name, architecture, ..)| found == *name || found == *architecture);
        family.map(|(name, ..)| *name)
    }
    let (field, found) = named(config)?;
    Ok(match (among(DECODERS, &found), among(ENCODERS, &found)) {
        (Some(family), _) => Found::Decoder(family),
        (None, Some(family)) => Found::Encoder(family),
        (None, None) => Found::Unknown(field, found),
    })
}

/// Makes the error of an unknown family.
pub(crate) fn unknown(config: &Config, field: &'static str, found: &str) -> Error {
    refuse(config, field, found, format!("{}, {}", names(DECODERS), names(ENCODERS)))
}

/// Returns the field that names the family, and its value.
fn named(config: &Config) -> Result<(&'static str, String), Error> {
    Ok(match config.text_if("model_type")? {
        Some(name) => ("model_type", name.to_owned()),
        None => ("architectures", config.first_text("architectures")?.unwrap_or_default()),
    })
}

fn names<Spec>(families: &Families<Spec>) -> String {
    families.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

fn refuse(config: &Config, field: &str, found: &str, known: String) -> Error {
    match found {
        "" => config.refuse("model_type", "missing", known),
        found => config.refuse(field, format!("{found:?}"), known),
    }
}

/// The activations, by their names in transformers.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_python", Activation::Gelu),
    ("relu", Activation::Relu),
];

/// Most bytes of the keys and values of the first positions: some sixty times those of Llama 3
/// 405B.
const FIRST_KV: usize = 2 << 30;

/// Reads what nearly all decoders have in common, as in Llama. Families change what differs and
/// provide defaults for missing fields ([`Config::with_defaults`]).
fn common(config: &Config) -> Result<DecoderSpec, Error> {
    common_with(config, Some(rope::Part::Whole))
}

/// Does the same for a family that rotates another part of each head or, without `rotated`, reads
/// its rotary embedding itself.
fn common_with(config: &Config, rotated: Option<rope::Part>) -> Result<DecoderSpec, Error> {
    let hidden = config.size("hidden_size", WIDTHS)?;
    let heads = config.size("num_attention_heads", WIDTHS)?;
    let kv_heads = config.size_if("num_key_value_heads", WIDTHS)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(config.refuse(
            "num_key_value_heads",
            kv_heads,
            format!("a divisor of {heads}, num_attention_heads"),
        ));
    }
    let head_dim = match config.size_if("head_dim", 2..=MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None => head_dim(config, hidden, heads)?,
    };
    if heads.saturating_mul(head_dim) > *WIDTHS.end() {
        let expected = format!("at most {} with heads of {head_dim}", WIDTHS.end() / head_dim);
        return Err(config.refuse("num_attention_heads", heads, expected));
    }
    let context = config.size("max_position_embeddings", SIZES)?;
    let eps = config.number_if("rms_norm_eps", 0.0..=1.0)?.unwrap_or(1e-6) as f32;
    let layer = LayerSpec {
        attention: AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap: None,
            mask: Mask::Causal,
            rope: Some(0),
            head_norm: None,
            fused: false,
            inputs_bias: false,
            output_bias: false,
        },
        mlp: MlpSpec::Dense(DenseSpec {
            width: config.size("intermediate_size", WIDTHS)?,
            activation: config.one_of("hidden_act", ACTIVATIONS)?.unwrap_or(Activation::Silu),
            gated: true,
            fused: false,
            bias: false,
        }),
        norms_after: false,
        residual_scale: 1.0,
    };
    Ok(DecoderSpec {
        vocabulary: config.size("vocab_size", SIZES)?,
        hidden,
        context,
        layers: vec![layer; config.size("num_hidden_layers", 1..=LAYERS)?],
        norm: NormSpec { eps, plus_one: false },
        tied: config.flag_if("tie_word_embeddings")?.unwrap_or(false),
        embedding_scale: 1.0,
        logits_divisor: 1.0,
        logits_softcap: None,
        ropes: rotated.map(|part| rope::read(config, head_dim, context, part)).transpose()?.into_iter().collect(),
    })
}

/// Adds biases to the matrices of attention if `attention_bias` says so.
fn attention_bias(config: &Config, spec: &mut DecoderSpec) -> Result<(), Error> {
    let bias = config.flag_if("attention_bias")?.unwrap_or(false);
    for layer in &mut spec.layers {
        (layer.attention.inputs_bias, layer.attention.output_bias) = (bias, bias);
    }
    Ok(())
}

/// Adds biases to the matrices of the MLPs if `mlp_bias` says so.
fn mlp_bias(config: &Config, spec: &mut DecoderSpec) -> Result<(), Error> {
    let bias = config.flag_if("mlp_bias")?.unwrap_or(false);
    for layer in &mut spec.layers {
        if let MlpSpec::Dense(dense) = &mut layer.mlp {
            dense.bias = bias;
        }
    }
    Ok(())
}

/// Computes the head dimension where heads divide the hidden size.
fn head_dim(config: &Config, hidden: usize, heads: usize) -> Result<usize, Error> {
    if hidden.is_multiple_of(heads) && (2..=MAX_HEAD_DIM).contains(&(hidden / heads)) {
        return Ok(hidden / heads);
    }
    let expected = format!("a divisor of {hidden}, hidden_size, with a quotient from 2 to {MAX_HEAD_DIM}");
    Err(config.refuse("num_attention_heads", heads, expected))
}

/// Gives all layers the window of `sliding_window`, if there is one.
fn window(config: &Config, spec: &mut DecoderSpec) -> Result<(), Error> {
    if let Some(window) = config.size_if("sliding_window", SIZES)? {
        spec.layers.iter_mut().for_each(|layer| layer.attention.mask = Mask::Window(window));
    }
    Ok(())
}

/// Gives some layers a window: those that `layer_types` names, or else those that `windowed`
/// selects.
fn windows(
    config: &Config,
    spec: &mut DecoderSpec,
    window: Option<usize>,
    windowed: impl Fn(usize) -> bool,
) -> Result<(), Error> {
    const TYPES: &[(&str, bool)] = &[("full_attention", false), ("sliding_attention", true)];
    let types = config.each_of("layer_types", spec.layers.len(), TYPES)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if types.as_ref().map_or_else(|| windowed(i), |types| types[i]) {
            layer.attention.mask = window.map_or(Mask::Causal, Mask::Window);
        }
    }
    Ok(())
}
