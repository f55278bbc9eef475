//! Reads `config.json` out of a GGUF file's metadata and the names of its tensors.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::{generation, rope, windows};
use crate::config::SIZES;
use crate::error::{Error, FileError};
use crate::family::class_of;
use crate::gguf::architecture::{self, Architecture, Family};
use crate::gguf::rows::{self, Kind, Missing, Row};
use crate::gguf::{ElementType, Gguf, Metadata};
use crate::nn::attention::MAX_HEAD_DIM;

/// A GGUF file, and how to read the bytes of a tensor.
pub(super) struct Source<'a> {
    pub(super) metadata: &'a Metadata,
    architecture: &'static Architecture,
    gguf: &'a Gguf,
    /// The indices of tensors by name.
    tensors: BTreeMap<&'a str, usize>,
    read: &'a dyn Fn(usize) -> Result<Vec<u8>, Error>,
}

impl<'a> Source<'a> {
    pub(super) fn new(gguf: &'a Gguf, read: &'a dyn Fn(usize) -> Result<Vec<u8>, Error>) -> Result<Self, FileError> {
        Ok(Self {
            metadata: gguf.metadata(),
            architecture: architecture::architecture(gguf.metadata())?,
            gguf,
            tensors: gguf.tensors().iter().enumerate().map(|(i, tensor)| (tensor.name(), i)).collect(),
            read,
        })
    }

    /// Returns a key of this architecture.
    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture.name)
    }

    /// Makes the error of a key of this architecture.
    pub(super) fn refuse(
        &self,
        suffix: &str,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> FileError {
        self.metadata.refuse(&self.key(suffix), found, expected)
    }

    /// Reads an integer of this architecture; see [`architecture::size`].
    pub(super) fn size(&self, suffix: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, FileError> {
        architecture::size(self.metadata, suffix, range)
    }

    /// Reads a number of this architecture.
    pub(super) fn number(&self, suffix: &str) -> Result<Option<f64>, FileError> {
        self.metadata.number(&self.key(suffix))
    }

    /// Returns whether there is a tensor of this name.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Reads a vector of `len` factors, if there is such a tensor.
    pub(super) fn factors(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some(&index) = self.tensors.get(name) else { return Ok(None) };
        let tensor = &self.gguf.tensors()[index];
        let refuse = |message: String| Error::from(FileError::network(name, message));
        if tensor.elements() != len {
            return Err(refuse(format!("{:?}, expected [{len}], one for each rotation", tensor.shape())));
        }
        let bytes = (self.read)(index)?;
        let factors: Vec<f32> = match tensor.element_type() {
            ElementType::Plain(Dtype::F32) => {
                bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            ElementType::Plain(Dtype::F16) => {
                bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
            }
            ElementType::Plain(Dtype::BF16) => {
                bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
            }
            other => return Err(refuse(format!("{other}, expected F32"))),
        };
        match factors.iter().find(|factor| !(1e-6..=1e6).contains(*factor)) {
            Some(factor) => Err(refuse(format!("a factor {factor:?}, expected from 1e-6 to 1e6"))),
            None => Ok(Some(factors)),
        }
    }

    /// Returns the number of rows of a matrix.
    fn rows(&self, tensor: &str) -> Result<usize, FileError> {
        match self.tensors.get(tensor).map(|&index| self.gguf.tensors()[index].shape()) {
            Some(&[rows, _]) => Ok(rows),
            Some(shape) => Err(FileError::network(tensor, format!("{shape:?}, expected a matrix"))),
            None => Err(FileError::network(tensor, "missing")),
        }
    }

    /// Returns the number of tokens: the rows of the embedding. The list of tokens may be shorter.
    fn vocabulary(&self) -> Result<usize, FileError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let rows = self.rows("token_embd.weight")?;
        match self.metadata.texts(TOKENS)?.map_or(0, <[String]>::len) {
            tokens if tokens > rows => {
                let expected = format!("at most {rows}, the rows of token_embd.weight");
                Err(self.metadata.refuse(TOKENS, format!("{tokens} tokens"), expected))
            }
            _ => Ok(rows),
        }
    }

    /// Refuses keys with other values than those that networks of our families have.
    fn refuse_others(&self) -> Result<(), FileError> {
        /// Keys, and the values that mean nothing special.
        const NUMBERS: [(&str, &[f64]); 6] = [
            ("attention.clamp_kqv", &[0.0]),
            ("attention.max_alibi_bias", &[0.0]),
            ("expert_weights_scale", &[0.0, 1.0]),
            // Softmax.
            ("expert_gating_func", &[0.0, 1.0]),
            ("expert_group_count", &[0.0, 1.0]),
            ("nextn_predict_layers", &[0.0]),
        ];
        for (suffix, usual) in NUMBERS {
            if let Some(found) = self.number(suffix)?
                && !usual.contains(&found)
            {
                let expected = format!("{}, as other networks of this architecture", usual[usual.len() - 1]);
                return Err(self.refuse(suffix, found, expected));
            }
        }
        Ok(())
    }
}

/// A number of the metadata. Most are `f32` and were decimal fractions: the shortest decimal
/// fraction that rounds to the same.
pub(super) fn number(x: f64) -> Value {
    let short = x as f32;
    match f64::from(short) == x {
        true => format!("{short:?}").parse::<f64>().unwrap_or(x).into(),
        false => x.into(),
    }
}

/// Reads `config.json`.
pub(super) fn config(source: &Source<'_>) -> Result<Map<String, Value>, Error> {
    source.refuse_others()?;
    let family = family(source)?;
    let mut fields = Map::new();
    fields.insert("model_type".into(), family.into());
    fields.insert("architectures".into(), json!([class_of(family)]));
    let vocabulary = source.vocabulary()?;
    fields.insert("vocab_size".into(), vocabulary.into());
    match architecture::family(family) {
        Some(family) => decoder(source, family, &mut fields)?,
        None => bert(source, &mut fields)?,
    }
    fields.extend(generation::tokens(source.metadata, vocabulary)?);
    Ok(fields)
}

/// Returns the family of a file, as `model_type` names it.
fn family(source: &Source<'_>) -> Result<&'static str, FileError> {
    let families = source.architecture.families;
    let is_there = |name: &str| source.has(&format!("blk.0.{name}.bias"));
    Ok(match families[0] {
        "llama" if architecture::experts(source.metadata)? > 0 => "mixtral",
        "llama" if windows::size(source)?.is_some() => "mistral",
        // A Llama with these biases and no other ones is a Qwen 2.
        "llama" if (is_there("attn_q") || is_there("attn_qkv")) && !is_there("attn_output") => "qwen2",
        family => family,
    })
}

/// Reads what a table says.
fn table<Spec>(source: &Source<'_>, rows: &[Row<Spec>], fields: &mut Map<String, Value>) -> Result<(), FileError> {
    for Row { field, key, kind, missing, .. } in rows {
        let (found, expected) = match kind {
            Kind::Size(range) => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                (source.size(key, range.clone())?.map(Value::from), expected)
            }
            Kind::Number(range) => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                let found = source.number(key)?;
                if let Some(found) = found.filter(|found| !range.contains(found)) {
                    return Err(source.refuse(key, found, expected));
                }
                (found.map(number), expected)
            }
        };
        let value = match (found, missing) {
            (Some(value), _) => value,
            (None, Missing::Refused) => return Err(source.refuse(key, "missing", expected)),
            (None, Missing::None) => Value::Null,
            (None, Missing::Is(number)) => (*number).into(),
            (None, Missing::As(other)) => fields.get(*other).cloned().unwrap_or_default(),
        };
        fields.insert((*field).into(), value);
    }
    Ok(())
}

/// Reads a decoder.
fn decoder(source: &Source<'_>, family: &Family, fields: &mut Map<String, Value>) -> Result<(), Error> {
    for rows in family.rows {
        table(source, rows, fields)?;
    }
    let head_dim = head_dim(source)?;
    fields.insert("head_dim".into(), head_dim.into());
    fields.insert("tie_word_embeddings".into(), (!source.has("output.weight")).into());
    if source.metadata.flag(&source.key("attention.causal"))? == Some(false) {
        return Err(source.refuse("attention.causal", false, "true: language models do not see later tokens").into());
    }
    let rotated = source.size("rope.dimension_count", 2..=MAX_HEAD_DIM)?.unwrap_or(head_dim);
    if family.partial {
        fields.insert("partial_rotary_factor".into(), partial(rotated, head_dim).into());
    } else if rotated != head_dim {
        let expected = format!("{head_dim}, the length of a head");
        return Err(source.refuse("rope.dimension_count", rotated, expected).into());
    }
    rope::read(source, fields, rotated)?;
    windows::read(source, family.windows, fields)?;
    let bias = |of: &[&str]| of.iter().any(|of| source.has(&format!("blk.0.{of}.bias")));
    if family.attention_bias {
        fields.insert("attention_bias".into(), bias(&["attn_q", "attn_qkv", "attn_output"]).into());
    }
    if family.mlp_bias {
        fields.insert("mlp_bias".into(), bias(&["ffn_gate", "ffn_up", "ffn_down"]).into());
    }
    if family.local_base {
        let local = source.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        fields.insert("rope_local_base_freq".into(), number(local));
    }
    if family.multiplier {
        granite(source, fields, head_dim)?;
    }
    if let Some(normalized) = family.normalized {
        mixture(source, normalized, fields)?;
    }
    if family.scalar {
        // GGUF has no key for the factor of scores.
        let field = |name: &str| fields.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
        let [layers, hidden, heads] = ["num_hidden_layers", "hidden_size", "num_attention_heads"].map(field);
        let scalar = super::scalar_of_scores(layers, hidden, heads, head_dim);
        fields.insert("query_pre_attn_scalar".into(), scalar.into());
    }
    let (field, activation) =
        if family.gelu { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    fields.insert(field.into(), activation.into());
    Ok(())
}

/// Reads the length of a head.
fn head_dim(source: &Source<'_>) -> Result<usize, FileError> {
    let hidden = architecture::needed(source.metadata, "embedding_length", crate::config::WIDTHS)?;
    let (heads, _) = architecture::heads(source.metadata)?;
    let head_dim = match source.size("attention.key_length", 2..=MAX_HEAD_DIM)? {
        Some(length) => length,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(source.refuse(
                "attention.head_count",
                heads,
                format!("a divisor of {hidden}, embedding_length"),
            ));
        }
    };
    match source.size("attention.value_length", 2..=MAX_HEAD_DIM)? {
        Some(length) if length != head_dim => {
            Err(source.refuse("attention.value_length", length, format!("{head_dim}, the length of keys")))
        }
        _ => Ok(head_dim),
    }
}

/// Returns a part of a whole such that the product with the whole, rounded down, is the part.
fn partial(part: usize, whole: usize) -> f64 {
    let quotient = part as f64 / whole as f64;
    match (whole as f64 * quotient) as usize == part {
        true => quotient,
        false => (part as f64 + 0.5) / whole as f64,
    }
}

/// Reads what is left of Granite.
fn granite(source: &Source<'_>, fields: &mut Map<String, Value>, head_dim: usize) -> Result<(), FileError> {
    if fields.get("attention_multiplier").is_none_or(Value::is_null) {
        fields.insert("attention_multiplier".into(), (1.0 / (head_dim as f64).sqrt()).into());
    }
    if source.metadata.flag(&source.key("rope.scaling.finetuned"))? == Some(false) {
        let expected = "true: all layers have positions";
        return Err(source.refuse("rope.scaling.finetuned", false, expected));
    }
    match source.size("expert_shared_feed_forward_length", SIZES)? {
        Some(length) => Err(source.refuse("expert_shared_feed_forward_length", length, "none: no shared expert")),
        None => Ok(()),
    }
}

/// Reads what is left of Qwen's mixtures.
fn mixture(source: &Source<'_>, usual: bool, fields: &mut Map<String, Value>) -> Result<(), FileError> {
    let normalized = source.metadata.flag(&source.key("expert_weights_norm"))?;
    fields.insert("norm_topk_prob".into(), normalized.unwrap_or(usual).into());
    let layers = architecture::needed(source.metadata, "block_count", 1..=crate::config::LAYERS)?;
    let dense = (0..layers).filter(|layer| source.has(&format!("blk.{layer}.ffn_gate.weight")));
    fields.insert("mlp_only_layers".into(), dense.collect::<Vec<_>>().into());
    fields.insert("decoder_sparse_step".into(), 1.into());
    Ok(())
}

/// Reads BERT.
fn bert(source: &Source<'_>, fields: &mut Map<String, Value>) -> Result<(), Error> {
    table(source, rows::BERT, fields)?;
    let kinds = match source.metadata.size("tokenizer.ggml.token_type_count", SIZES)? {
        Some(kinds) => kinds,
        None => source.rows("token_types.weight")?,
    };
    let causal = source.metadata.flag(&source.key("attention.causal"))?.unwrap_or(false);
    fields.insert("type_vocab_size".into(), kinds.into());
    fields.insert("is_decoder".into(), causal.into());
    fields.insert("hidden_act".into(), "gelu".into());
    fields.insert("position_embedding_type".into(), "absolute".into());
    Ok(())
}
